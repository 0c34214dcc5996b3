"""Completions that a report shows: some right and wrong ones of each evaluation, a group with its choice of GRPO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raml_trl.reports.evaluations import SAMPLES
from raml_trl.reports.runs import Seeds
from raml_trl.runtime.files import read_rows
from raml_trl.runtime.runs import identity, is_run, read_record

OF_EACH = 2  # right ones, and wrong ones, of a stage
GROUP = 16  # rollouts of a group that are shown


def stage_samples(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """The first right and the first wrong ones among the first sample of every question, in the order of the file.

    Each has `question_id`, `question` (None where its data set is gone or was made anew), `text` and `correct`.
    """
    path = Path(stage["directory"]) / SAMPLES
    rows = [row for row in read_rows(path) if row["sample"] == 0] if path.is_file() else []
    chosen = [row for correct in (True, False) for row in [one for one in rows if one["correct"] == correct][:OF_EACH]]
    questions = _questions(Path(stage["directory"]), {row["question_id"] for row in chosen})
    return [
        {"question": questions.get(row["question_id"])}
        | {name: row[name] for name in ("question_id", "text", "correct")}
        for row in chosen
    ]


def _questions(directory: Path, ids: set[str]) -> dict[str, str]:
    """By id, what was asked, if the data set of the evaluation in `directory` is still the one that it read."""
    record = read_record(directory)
    data = record["settings"].get("dataset_name")
    if not is_run(data) or identity(Path(data)) != record["inputs"].get("dataset_name"):
        return {}
    found = [row for path in sorted(Path(data).glob("questions-*.parquet")) for row in read_rows(path)]
    return {row["id"]: row["problem"] for row in found if row["id"] in ids}


def logged_groups(trainings: Sequence[Seeds]) -> list[dict[str, Any]]:
    """Of each GRPO run that logged its completions, a group of the last step: one with right and wrong ones if any is.

    Each has `name`, `step`, `question`, and of its `rollouts` `text`, `correct`, `selected` and `advantage`; of several
    seeds it is the first one's.
    """
    found = []
    for training in trainings:
        files = sorted((training.runs[0].directory / "completions").glob("*.parquet"))
        rows = read_rows(files[-1]) if files else []
        if not rows:
            continue
        by_prompt: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_prompt.setdefault(_text(row["prompt"]), []).append(row)
        mixed = [prompt for prompt, of in by_prompt.items() if len({row.get("correct") for row in of}) > 1]
        question = (mixed or list(by_prompt))[0]
        group = by_prompt[question][:GROUP]
        rollouts = [
            {"text": _text(row["completion"])} | {name: row.get(name) for name in ("correct", "selected", "advantage")}
            for row in group
        ]
        found.append({"name": training.name, "step": rows[0]["step"], "question": question, "rollouts": rollouts})
    return found


def _text(value: str | list[dict[str, str]]) -> str:
    """Of a prompt or a completion, whether it is text or a conversation."""
    return value if isinstance(value, str) else "\n".join(message["content"] for message in value)
