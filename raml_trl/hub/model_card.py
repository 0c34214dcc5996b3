"""Completes the model card that TRL writes, and adds evaluation results to its metadata, which the Hub displays.

The Hub renders Markdown and HTML, so names that come from outside are escaped by `escape_for_hub`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from raml_trl.hub.card_parts import CARD, NO_REPO, Metrics, facts_table, metrics_table, write_card
from raml_trl.render.tables import code_block, decimal_places, escape_for_hub, markdown_table, markdown_template
from raml_trl.runtime.errors import InputError

# Headings of TRL's card: of its quick start, of the part after that, and the last one.
_QUICK_START, _PROCEDURE, _CITATIONS = "\n## Quick start\n", "\n## Training procedure\n", "\n## Citations\n"
# Heading of our facts, and start of our table of evaluations. An author may have a section of the same name.
_FACTS = "\n## Training data and settings\n"
_EVALUATION = "\n## Evaluation\n\nMeans over questions of graded samples; the intervals come from a bootstrap.\n\n"
_OWN_EVALUATION = re.compile(re.escape(_EVALUATION) + r"(?:\|.*\n?)*")

Prompt = str | Sequence[Mapping[str, str]]
"""A prompt: a text, or chat messages with the texts `role` and `content`."""


@dataclass(frozen=True)
class TrainingFacts:
    """The facts about a training run that its model card states."""

    base: str
    """The model that training started from."""
    version: str
    """The version and commit of raml_trl."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """The settings by which trajectories or rollouts were chosen."""
    data: str | None = None
    recipe: str | None = None
    """Markdown from `card_parts.recipe`."""
    step: int = 0
    """Optimizer steps taken."""
    repo_id: str | None = None
    revision: str | None = None
    """The name of a revision that holds a checkpoint, as an example; None if the run pushes no revisions."""
    metrics: Metrics = field(default_factory=dict)
    """The metrics of the last evaluation during training, with values from 0 to 1."""
    metrics_step: int = 0
    prompt: Prompt | None = None
    """A prompt of the training data, for the quick start."""
    max_new_tokens: int | None = None
    """The limit for the tokens of a completion in training; in SFT, of the prompt and the trajectory together."""


def complete_card(path: Path, facts: TrainingFacts) -> None:
    """Add facts that TRL does not know to the card that TRL has written at `path`."""
    described = [("base model", facts.base), *([] if facts.data is None else [("data", facts.data)])]
    described += [("steps", f"{facts.step:,}"), ("raml_trl", facts.version)]
    section = markdown_template("model_card_section.md.j2").render(
        facts=facts_table(described, facts.settings),
        measured=metrics_table(facts.metrics) if facts.metrics else None,
        measured_step=f"{facts.metrics_step:,}",
        repo_id=facts.repo_id or NO_REPO,
        revision=facts.revision,
        recipe=facts.recipe,
    )
    text = path.read_text(encoding="utf-8")
    # RaML: TRL's card writes None for a base model that is not on the Hub.
    text = text.replace("[None](https://huggingface.co/None)", escape_for_hub(facts.base))
    text = text.replace("\nlicence: license\n", "\n", 1)  # RaML: TRL names a license that nobody chose
    # RaML: TRL's quick start asks a question that has nothing to do with the training data.
    lead, quick, rest = text.partition(_QUICK_START)
    _, procedure, rest = rest.partition(_PROCEDURE)
    if quick and procedure:
        code = code_block(quick_start(facts), "python")
        text = f"{lead}{quick}\n{code}\n{procedure}{rest}"
    head, heading, citations = text.partition(_CITATIONS)
    write_card(path, f"{head.rstrip()}\n\n{section.rstrip()}\n{heading}{citations}")


def quick_start(facts: TrainingFacts) -> str:
    """Return Python code that loads the model and asks it a question, with a prompt of the training data if known."""
    prompt = facts.prompt or [{"role": "user", "content": "YOUR QUESTION"}]
    kept = prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
    # Texts in JSON, with lone surrogates and control characters escaped, are also literals of Python.
    literal = json.dumps(kept, ensure_ascii=False)
    return f"""from transformers import pipeline

prompt = {literal}
generator = pipeline("text-generation", model="{facts.repo_id or NO_REPO}", device_map="auto")
output = generator(prompt, max_new_tokens={facts.max_new_tokens or 512}, do_sample=False, return_full_text=False)
print(output[0]["generated_text"])"""


def is_text(prompt: object) -> TypeGuard[Prompt]:
    """Return whether `prompt` is a text, or chat messages whose content is text, without images or tools."""
    return isinstance(prompt, str) or (
        isinstance(prompt, list)
        and all(
            isinstance(message, dict) and message.keys() == {"role", "content"} and isinstance(message["content"], str)
            for message in prompt
        )
    )


def name_repo(path: Path, repo_id: str) -> None:
    """In a card, replace the placeholder for the repository with the repository that the model is pushed to."""
    text = path.read_text(encoding="utf-8")
    if f'"{NO_REPO}"' in text:
        write_card(path, text.replace(f'"{NO_REPO}"', f'"{repo_id}"'))


def is_complete_card(path: Path) -> bool:
    """Return whether there is a card at `path` that `complete_card` has completed. PEFT, for one, writes others."""
    return path.is_file() and _FACTS in path.read_text(encoding="utf-8")


def note_step(path: Path, step: int) -> None:
    """In the card of a run that was copied into its checkpoint of `step`, say so if its facts are of another step."""
    text = path.read_text(encoding="utf-8")
    if f"\n| steps | {step:,} |" not in text:
        note = f"These are the weights after step {step:,}. The facts and metrics are those of another step of the run."
        write_card(path, text.replace(_FACTS, f"{_FACTS}\n{note}\n", 1))


def last_metrics(
    history: Sequence[Mapping[str, float]], *, step: int | None = None
) -> tuple[int, dict[str, dict[str, float]]]:
    """Return the step and the metrics of the last evaluation in a log, or (0, {}) if there is none.

    Only metrics that were logged with both ends of their intervals are returned.

    Args:
        history: the `log_history` of transformers.
        step: the step of the evaluation to return; None takes the last evaluation.
    """
    for entry in reversed(history):
        metrics = {
            name.removeprefix("eval_"): {"mean": value, "low": entry[f"{name}_low"], "high": entry[f"{name}_high"]}
            for name, value in entry.items()
            if {f"{name}_low", f"{name}_high"} <= entry.keys()
        }
        if metrics and step in (None, entry["step"]):
            return int(entry["step"]), metrics
    return 0, {}


def add_results(
    model: Path, *, dataset: str, split: str, metrics: Metrics, samples: Sequence[int], in_text: bool = True
) -> None:
    """Write evaluation results into the metadata and the text of the card of a model.

    They replace earlier results on the same dataset and split. The caller must hold the lock of the directory, so that
    no other process changes the card at the same time.

    Args:
        model: the directory of the model.
        dataset: the name of the dataset on the Hub, or of its file or directory.
        split: the split of the dataset.
        metrics: the metrics, with values from 0 to 1.
        samples: every number of samples per question that occurs in the evaluation.
        in_text: whether the text of the card gets a table; False if it already shows these results.

    Raises:
        InputError: if the metadata of the card cannot be read.
    """
    path = model / CARD
    try:
        card = ModelCard(path.read_text(encoding="utf-8") if path.is_file() else "---\n---\n")
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"the metadata of {path} cannot be read: {error}: correct it") from error
    data = card.data
    assert isinstance(data, ModelCardData)
    others = [
        result
        for result in data.eval_results or []
        if (result.dataset_name, result.dataset_split) != (dataset, split) or result.metric_type not in metrics
    ]
    number = str(samples[0]) if len(set(samples)) == 1 else f"{min(samples)} to {max(samples)}"
    data.model_name = data.model_name or model.resolve().name
    data.eval_results = others + [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=name,
            metric_name=f"{name}, {number} samples, 95 % interval "
            f"{value['low']:.{places}f} to {value['high']:.{places}f}",
            metric_value=round(value["mean"], max(4, places)),
        )
        for name, value in metrics.items()
        for places in [decimal_places(value["mean"], value["low"], value["high"])]
    ]
    write_card(path, _with_evaluation(str(card), data.eval_results) if in_text else str(card))


def _with_evaluation(card: str, results: Sequence[EvalResult]) -> str:
    """Return the card with a table of all results, in the place of our earlier table or before the citations."""
    columns = [(f"{result.dataset_name}, {result.dataset_split}", result.metric_name) for result in results]
    rows = [
        (escape_for_hub(questions), escape_for_hub(str(metric)), f"{result.metric_value}")
        for (questions, metric), result in zip(columns, results, strict=True)
    ]
    table = markdown_table([("questions", "metric", "mean"), *rows], aligned=False)
    section = f"{_EVALUATION}{table}\n"
    earlier = _OWN_EVALUATION.search(card)
    if earlier:
        return f"{card[: earlier.start()]}{section}{card[earlier.end() :]}"
    head, heading, citations = card.partition(_CITATIONS)
    return f"{head.rstrip()}\n{section}{heading}{citations}"
