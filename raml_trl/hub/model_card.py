"""Completes the model card that TRL writes, and adds evaluation results to its metadata, which the Hub displays.

The Hub renders Markdown and HTML, so names that come from outside are escaped by `escape_for_hub`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from raml_trl.hub.card_parts import CARD, NO_REPO, Metrics, facts_table, metrics_table, write_card
from raml_trl.render.tables import escape_for_hub, markdown_template

_CITATIONS = "\n## Citations\n"  # the last heading of TRL's card


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
    # RaML: TRL's card writes None for a base model that is not on the Hub, and for a model that is not pushed.
    text = text.replace("[None](https://huggingface.co/None)", escape_for_hub(facts.base))
    text = text.replace('model="None"', f'model="{facts.repo_id or NO_REPO}"')
    head, heading, citations = text.partition(_CITATIONS)
    write_card(path, f"{head.rstrip()}\n\n{section.rstrip()}\n{heading}{citations}")


def name_repo(path: Path, repo_id: str) -> None:
    """In a card, replace the placeholder for the repository with the repository that the model is pushed to."""
    text = path.read_text(encoding="utf-8")
    if f'"{NO_REPO}"' in text:
        write_card(path, text.replace(f'"{NO_REPO}"', f'"{repo_id}"'))


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


def add_results(model: Path, *, dataset: str, split: str, metrics: Metrics, samples: Sequence[int]) -> None:
    """Write evaluation results into the card of a model. They replace earlier results on the same dataset and split.

    Args:
        model: the directory of the model.
        dataset: the name of the dataset on the Hub, or of its file or directory.
        split: the split of the dataset.
        metrics: the metrics, with values from 0 to 1.
        samples: every number of samples per question that occurs in the evaluation.
    """
    path = model / CARD
    card = ModelCard(path.read_text(encoding="utf-8") if path.is_file() else "---\n---\n")
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
            metric_name=f"{name}, {number} samples, 95 % interval {value['low']:.3f} to {value['high']:.3f}",
            metric_value=round(value["mean"], 4),
        )
        for name, value in metrics.items()
    ]
    write_card(path, str(card))
