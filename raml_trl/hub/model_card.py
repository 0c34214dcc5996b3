"""The card of a model: what we add to the one that TRL writes, and evaluation results in its metadata.

The Hub shows the results beside the model. It renders Markdown and HTML, so `escape_for_hub` escapes outside names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from raml_trl.render.tables import escape_for_hub, markdown_table, markdown_template
from raml_trl.runtime.files import whole_file

CARD = "README.md"
NO_REPO = "USER/NAME"
"""Where the model is to be loaded from, in a card of one that is on no Hub yet."""

_CITATIONS = "\n## Citations\n"  # where TRL's card has its last heading


@dataclass(frozen=True)
class Training:
    """What a card says of the training that made the model."""

    base: str
    """The model that it began with."""
    version: str
    """Of raml_trl, with its commit."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """How trajectories or rollouts were chosen, by name."""
    data: str | None = None
    recipe: str | None = None
    """Markdown, as `provenance.recipe` makes it."""
    step: int = 0
    """How many optimizer steps it has taken."""
    repo_id: str | None = None
    revisions: str | None = None
    """One of the revisions that hold checkpoints, if there are any."""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The last that were measured in training, by name: `mean`, `low` and `high`, from 0 to 1."""
    metrics_step: int = 0


def complete_card(path: Path, training: Training) -> None:
    """Add to the card that TRL has written at `path` what it does not know."""
    facts = [("began with", escape_for_hub(training.base))]
    facts += [] if training.data is None else [("data", escape_for_hub(training.data))]
    facts += [(f"`{name}`", escape_for_hub(str(value))) for name, value in training.settings.items()]
    facts += [("steps", f"{training.step:,}"), (escape_for_hub("raml_trl"), escape_for_hub(training.version))]
    measured = [
        (f"`{name}`", f"{value['mean']:.3f}", f"{value['low']:.3f} to {value['high']:.3f}")
        for name, value in training.metrics.items()
    ]
    section = markdown_template("model_card_section.md.j2").render(
        facts=markdown_table([("", "value"), *facts], aligned=False),
        measured=markdown_table([("metric", "mean", "95 % interval"), *measured], aligned=False) if measured else None,
        measured_step=f"{training.metrics_step:,}",
        repo_id=training.repo_id or NO_REPO,
        revisions=training.revisions,
        recipe=training.recipe,
    )
    text = path.read_text(encoding="utf-8")
    # RaML: of a model that is no name on the Hub, TRL's card links to None; of one that is not pushed, it loads None.
    text = text.replace("[None](https://huggingface.co/None)", escape_for_hub(training.base))
    text = text.replace('model="None"', f'model="{training.repo_id or NO_REPO}"')
    head, heading, citations = text.partition(_CITATIONS)
    with whole_file(path) as partial:
        partial.write_text(f"{head.rstrip()}\n\n{section.rstrip()}\n{heading}{citations}", encoding="utf-8")


def name_repo(path: Path, repo_id: str) -> None:
    """Have the card of a model that was on no Hub say where it can be loaded from."""
    text = path.read_text(encoding="utf-8")
    if f'"{NO_REPO}"' in text:
        with whole_file(path) as partial:
            partial.write_text(text.replace(f'"{NO_REPO}"', f'"{repo_id}"'), encoding="utf-8")


def last_metrics(
    history: Sequence[Mapping[str, Any]], *, step: int | None = None
) -> tuple[int, dict[str, dict[str, float]]]:
    """The step and the metrics, by name, of the last evaluation in the log of a trainer that has intervals.

    Args:
        history: transformers' `log_history`.
        step: take the evaluation at this step instead.
    """
    for entry in reversed(history):
        found = {
            name.removeprefix("eval_"): {"mean": value, "low": entry[f"{name}_low"], "high": entry[f"{name}_high"]}
            for name, value in entry.items()
            if {f"{name}_low", f"{name}_high"} <= entry.keys()
        }
        if found and step in (None, entry["step"]):
            return entry["step"], found
    return 0, {}


def add_results(
    model: Path, *, dataset: str, split: str, metrics: Mapping[str, Mapping[str, float]], samples: Sequence[int]
) -> None:
    """Write `metrics` into the card of the model in a directory, in place of earlier ones of the same data set.

    Args:
        dataset: its name, a Hub name where it has one.
        metrics: by name, `mean`, `low` and `high`, from 0 to 1.
        samples: per question, least and most.
    """
    path = model / CARD
    card = ModelCard(path.read_text(encoding="utf-8") if path.is_file() else "---\n---\n")
    data: Any = card.data
    others = [
        one
        for one in data.eval_results or []
        if (one.dataset_name, one.dataset_split) != (dataset, split) or one.metric_type not in metrics
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
    with whole_file(path) as partial:
        partial.write_text(str(card), encoding="utf-8")
