"""Evaluation results in the metadata of a model's card, in the form that the Hub shows beside the model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from raml_trl.files import whole_file

_CARD = "README.md"


def add_results(
    model: Path, *, dataset: str, split: str, metrics: Mapping[str, Mapping[str, float]], samples: Sequence[int]
) -> None:
    """Write `metrics` into the card of the model in a directory, in place of earlier ones of the same data set.

    Args:
        dataset: its name, a Hub name where it has one.
        metrics: by name, `mean`, `low` and `high`, from 0 to 1.
        samples: per question, least and most.
    """
    path = model / _CARD
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
