"""Builds the dataset cards of two kinds of completions: samples of an evaluation, and rollouts of a GRPO run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from raml_trl.hub.card_parts import BIBTEX, Metrics, facts_table, metrics_table, version
from raml_trl.render.tables import escape_for_hub, markdown_table, markdown_template
from raml_trl.runtime.rollout_table import CORRECT, FORMATTED, SELECTED

ROLLOUTS = "completions_*.parquet"
SAMPLES_FILE = "samples.parquet"

# Samples have the columns of `shards.SCHEMAS`. Rollouts have the columns that TRL and our trainer log.
SAMPLE_COLUMNS = {
    "question_id": "id of the question",
    "sample": "number of the sample for its question, from 0",
    "text": "text of the completion",
    "correct": "whether its answer equals the reference",
    "formatted": "whether the answer is in the requested place",
    "outcome": "result of the grading",
    "vote": "number of its answer among the answers to the question; samples with equal answers have the same number",
    "num_tokens": "length in tokens, with the end token",
    "finished": "whether the completion ended before the limit",
}
ROLLOUT_COLUMNS = {
    "step": "optimizer step at which it was logged",
    "prompt": "prompt",
    "completion": "text of the completion",
    CORRECT: "whether its answer equals the reference",
    FORMATTED: "whether the answer is in the requested place",
    SELECTED: "whether it is one of the m of G that carry gradient",
    "advantage": "advantage within its group",
}


def samples_card(
    repo_id: str,
    *,
    model: str,
    data: str,
    settings: Mapping[str, object],
    questions: int,
    samples_per_question: int | Sequence[int],
    metrics: Metrics,
    recipe: str,
) -> str:
    """Return the README.md of a dataset that holds the samples of an evaluation.

    Args:
        repo_id: the dataset on the Hub, with its namespace.
        model: the model that wrote the samples.
        data: the dataset that the questions come from.
        settings: the sampling settings.
        questions: the number of questions.
        samples_per_question: the number of samples per question, or the smallest and the largest number.
        metrics: the metrics of the evaluation.
        recipe: Markdown from `card_parts.recipe`.
    """
    n = samples_per_question
    number = n if isinstance(n, int) else f"{n[0]} to {n[1]}"
    return _card(
        repo_id,
        title=f"Samples of {escape_for_hub(model)} on {escape_for_hub(data)}",
        lead=f"{number} graded samples for each of {questions:,} questions.",
        facts=facts_table([("model", model), ("questions", data), ("raml_trl", version())], settings),
        metrics=metrics_table(metrics),
        columns=SAMPLE_COLUMNS.items(),
        files=SAMPLES_FILE,
        recipe=recipe,
    )


def rollouts_card(repo_id: str, directory: Path, *, model: str, settings: Mapping[str, object], recipe: str) -> str:
    """Return the README.md of a dataset that holds the rollouts logged by a GRPO run.

    Args:
        repo_id: the dataset on the Hub, with its namespace.
        directory: the directory with the Parquet files of the rollouts, at least one.
        model: the model that was trained.
        settings: the settings of the rollout selection.
        recipe: Markdown from `card_parts.recipe`.
    """
    paths = sorted(directory.glob(ROLLOUTS))
    number = sum(pq.read_metadata(path).num_rows for path in paths)
    names = pq.read_schema(paths[-1]).names
    return _card(
        repo_id,
        title=f"Rollouts of {escape_for_hub(model)} in training",
        lead=f"{number:,} rollouts, logged at {len(paths):,} steps: all G of each group.",
        facts=facts_table([("model", model), ("raml_trl", version())], settings),
        metrics=None,
        columns=[(name, ROLLOUT_COLUMNS.get(name, "a reward, or a value logged with it")) for name in names],
        files=ROLLOUTS,
        recipe=recipe,
    )


def _card(
    repo_id: str,
    *,
    title: str,
    lead: str,
    facts: str,
    metrics: str | None,
    columns: Iterable[tuple[str, str]],
    files: str,
    recipe: str,
) -> str:
    front_matter = {
        "task_categories": ["text-generation"],
        "tags": ["raml", "trl", "reasoning", "completions"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}],
    }
    rows = [(escape_for_hub(name), meaning) for name, meaning in columns]
    return markdown_template("completions_card.md.j2").render(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False),
        title=title,
        lead=lead,
        facts=facts,
        metrics=metrics,
        columns=markdown_table([("column", "meaning"), *rows], aligned=False),
        repo_id=repo_id,
        recipe=recipe,
        bibtex=BIBTEX,
    )
