"""The cards of data sets of completions: the samples of an evaluation, and the rollouts that a GRPO run logged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from raml_trl.hub.card_parts import recipe, version
from raml_trl.hub.trajectory_card import BIBTEX
from raml_trl.render.tables import escape_for_hub, markdown_table, markdown_template

ROLLOUTS = "completions_*.parquet"
SAMPLES_FILE = "samples.parquet"

# What the columns hold: of samples those of `shards.SCHEMAS`, of rollouts those that TRL and our trainer log.
SAMPLE_COLUMNS = {
    "question_id": "of the question",
    "sample": "number of the sample, from 0, of its question",
    "text": "what the model wrote",
    "correct": "whether its answer equals the reference",
    "formatted": "whether the answer stands where it was asked for",
    "outcome": "how the grading ended",
    "vote": "number of its answer among those to the question; samples with equal answers share one",
    "num_tokens": "its length with the end token",
    "finished": "whether it came to an end before the limit",
}
ROLLOUT_COLUMNS = {
    "step": "optimizer step at which it was logged",
    "prompt": "what the model was asked",
    "completion": "what it wrote",
    "correct": "whether its answer equals the reference",
    "formatted": "whether the answer stands where it was asked for",
    "selected": "whether it is one of the m of G that carry gradient",
    "advantage": "over its group",
}


def samples_card(
    repo_id: str, *, model: str, data: str, settings: Mapping[str, object], metrics: Mapping[str, Any], record: Any
) -> str:
    """The README.md of the samples of an evaluation.

    Args:
        repo_id: of the data set, with its namespace.
        model: that wrote them.
        data: the questions.
        settings: of sampling, by name.
        metrics: what `metrics.json` holds.
        record: what `run.json` says.
    """
    number = metrics["samples_per_question"]
    per_question = number if isinstance(number, int) else f"{number[0]} to {number[1]}"
    values = [
        (f"`{name}`", f"{value['mean']:.3f}", f"{value['low']:.3f} to {value['high']:.3f}")
        for name, value in metrics["metrics"].items()
    ]
    return _card(
        repo_id,
        title=f"Samples of {escape_for_hub(model)} on {escape_for_hub(data)}",
        lead=f"{per_question} samples for each of {metrics['questions']:,} questions, graded.",
        facts={"model": model, "questions": data, **settings},
        metrics=markdown_table([("metric", "mean", "95 % interval"), *values], aligned=False),
        columns=list(SAMPLE_COLUMNS.items()),
        files=SAMPLES_FILE,
        record=record,
    )


def rollouts_card(
    repo_id: str, directory: Path, *, model: str, settings: Mapping[str, object], record: Mapping[str, Any]
) -> str:
    """The README.md of the rollouts that a GRPO run has logged.

    Args:
        repo_id: of the data set, with its namespace.
        directory: where they lie, in one file or more.
        model: that was trained.
        settings: of the choice of rollouts, by name.
        record: what `run.json` says.
    """
    paths = sorted(directory.glob(ROLLOUTS))
    number = sum(pq.read_metadata(path).num_rows for path in paths)
    names = pq.read_schema(paths[-1]).names
    return _card(
        repo_id,
        title=f"Rollouts of {escape_for_hub(model)} in training",
        lead=f"{number:,} rollouts, logged at {len(paths):,} steps: all G of each group.",
        facts={"model": model, **settings},
        metrics=None,
        columns=[(name, ROLLOUT_COLUMNS.get(name, "a reward, or logged by it")) for name in names],
        files=ROLLOUTS,
        record=record,
    )


def _card(
    repo_id: str,
    *,
    title: str,
    lead: str,
    facts: Mapping[str, object],
    metrics: str | None,
    columns: Sequence[tuple[str, str]],
    files: str,
    record: Mapping[str, Any],
) -> str:
    front_matter = {
        "task_categories": ["text-generation"],
        "tags": ["raml", "trl", "reasoning", "completions"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}],
    }
    rows = [
        (escape_for_hub(name), escape_for_hub(str(value))) for name, value in {**facts, "raml_trl": version()}.items()
    ]
    return markdown_template("completions_card.md.j2").render(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False),
        title=title,
        lead=lead,
        facts=markdown_table([("", "value"), *rows], aligned=False),
        metrics=metrics,
        columns=markdown_table(
            [("column", "meaning"), *((escape_for_hub(name), meaning) for name, meaning in columns)], aligned=False
        ),
        repo_id=repo_id,
        recipe=recipe(record),
        bibtex=BIBTEX,
    )
