"""Builds the dataset card of sampled trajectories, a README.md.

The Hub displays the card, and `load_dataset` reads from it which files to load. The Hub renders Markdown and HTML, so
names that come from outside, of models and sources, are escaped by `escape_for_hub`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from raml_trl.data.shards import TRAJECTORIES
from raml_trl.hub.card_parts import BIBTEX, facts_table
from raml_trl.render.tables import escape_for_hub, markdown_table, markdown_template

SHARDS = f"{TRAJECTORIES}-*.parquet"

# Type and meaning of each column of the shards; see `shards.SCHEMAS`.
COLUMNS = {
    "id": ("string", "id of the question"),
    "problem": ("string", "the question"),
    "answer": ("string", "the reference that the trajectories are graded against"),
    "source": ("string", "where the question comes from"),
    "generations": ("list of strings", "the trajectories"),
    "labels": ("list of integers", "for each trajectory, 1 if it is correct and 0 if not"),
    "models": ("list of strings", "for each trajectory, the model that wrote it"),
    "num_tokens": ("list of integers", "for each trajectory, its length with the end token"),
}

_MAX_ROWS = 16  # maximum, for a table whose length depends on the data
_BAR_LENGTH = 24  # characters
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


@dataclass(frozen=True)
class Counts:
    """The numbers of questions and trajectories that the card states."""

    correct: Sequence[int]
    """Number of correct trajectories of each question."""
    total: Sequence[int]
    """Number of all trajectories of each question."""
    finished: int
    """Number of trajectories that ended before the token limit."""
    num_tokens: int
    """Number of tokens of all trajectories together."""
    sources: Mapping[str, int]
    """Number of questions from each source."""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Number of trajectories with each result of grading, such as `wrong`."""


def trajectories_card(
    repo_id: str, *, model: str, engine: str, settings: Mapping[str, object], counts: Counts, license: str | None = None
) -> str:
    """Return the README.md of a dataset of trajectories.

    Args:
        repo_id: the dataset on the Hub, with its namespace.
        model: the model that wrote the trajectories.
        engine: the engine that ran the model.
        settings: the sampling settings.
        counts: the numbers that the card states. There must be at least one question and one trajectory.
        license: the Hub's identifier of the license; None states no license.
    """
    assert re.fullmatch(r"[\w./-]+", repo_id, re.ASCII), repo_id
    questions, total = len(counts.total), sum(counts.total)
    fewest, most = min(counts.total), max(counts.total)
    amounts = {
        "questions": f"{questions:,}",
        "trajectories": f"{total:,}",
        "correct": _share(sum(counts.correct), total),
        "finished": _share(counts.finished, total),
        "questions with a correct one": _share(sum(map(bool, counts.correct)), questions),
        "tokens per trajectory": f"{counts.num_tokens / total:,.1f}",
    }
    # The reasons why trajectories are not correct, such as a missing answer. All remaining trajectories are "wrong".
    amounts |= {
        f"graded as: {outcome}": _share(number, total)
        for outcome, number in sorted(counts.outcomes.items())
        if outcome not in ("correct", "wrong")
    }
    return markdown_template("trajectories_card.md.j2").render(
        front_matter=_front_matter(questions, license),
        repo_id=repo_id,
        model=escape_for_hub(model),
        questions=questions,
        per_question=most if fewest == most else f"{fewest} to {most}",
        num_trajectories=min(4, most),
        settings=facts_table([("model", model), ("engine", engine)], settings),
        amounts=markdown_table([("", "number"), *amounts.items()], aligned=False),
        pass_rates=_bars("pass rate", pass_rate_histogram(counts.correct, counts.total)),
        sources=_bars("source", _largest(counts.sources)),
        columns=markdown_table(
            [("column", "type", "meaning"), *((f"`{name}`", *about) for name, about in COLUMNS.items())], aligned=False
        ),
        bibtex=BIBTEX,
    )


def pass_rate_histogram(correct: Sequence[int], total: Sequence[int]) -> list[tuple[str, int]]:
    """Return a histogram of the pass rates of questions, as rows with a label and a number of questions.

    The pass rate of a question is the share of its trajectories that are correct. If all questions have the same number
    of trajectories, and fewer than 16, there is a row for each possible number of correct trajectories. Otherwise there
    are twelve rows: "none" for questions without a correct trajectory, ten intervals of 10 % each for pass rates
    between 0 and 100 %, and "all" for questions with only correct trajectories.

    Args:
        correct: number of correct trajectories of each question.
        total: number of all trajectories of each question, at least 1.
    """
    pairs = list(zip(correct, total, strict=True))
    assert all(0 <= right <= number > 0 for right, number in pairs)
    most = max(total)
    if min(total) == most < _MAX_ROWS:
        rows = [f"{right} of {most}" for right in range(most + 1)]
        questions = Counter(rows[right] for right in correct)
    else:
        tenths = [f"{percent} to {percent + 10}%" for percent in range(0, 100, 10)]
        rows = ["none", *tenths, "all"]
        questions = Counter(
            "none" if right == 0 else "all" if right == number else tenths[10 * right // number]
            for right, number in pairs
        )
    return [(row, questions[row]) for row in rows]


def _front_matter(questions: int, license: str | None) -> str:
    content = {
        **({} if license is None else {"license": license}),
        "task_categories": ["text-generation"],
        "tags": ["raml", "trl", "reasoning", "trajectories"],
        "size_categories": [_SIZES[max(len(str(questions)), 3) - 3]],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": SHARDS}]}],
    }
    return yaml.safe_dump(content, sort_keys=False)


def _largest(sources: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the sources with the most questions, and one row for all others together."""
    ordered = sorted(sources.items(), key=lambda item: (-item[1], item[0]))
    rows = [(escape_for_hub(name), number) for name, number in ordered[: _MAX_ROWS - 1]]
    others = [number for _, number in ordered[_MAX_ROWS - 1 :]]
    return [*rows, (f"{len(others)} others", sum(others))] if others else rows


def _share(part: int, total: int) -> str:
    return f"{part:,} ({part / total:.1%})"


def _bars(name: str, rows: Sequence[tuple[str, int]]) -> str:
    """Return a Markdown table with bars. A bar is at least one character long, unless the number is 0."""
    longest = max(number for _, number in rows)
    bars = ["█" * -(-_BAR_LENGTH * number // longest) for _, number in rows]
    cells = [(label, f"{number:,}", bar) for (label, number), bar in zip(rows, bars, strict=True)]
    return markdown_table([(name, "questions", ""), *cells], aligned=False)
