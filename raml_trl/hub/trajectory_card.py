"""The card of a data set of trajectories: the README.md that the Hub shows, and where `load_dataset` finds the shards.

Names of models and sources from outside are escaped by `escape_for_hub`, because the Hub renders Markdown and HTML.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from raml_trl.data.shards import TRAJECTORIES
from raml_trl.render.tables import escape_for_hub, markdown_table, markdown_template

SHARDS = f"{TRAJECTORIES}-*.parquet"

# What the shards hold, of `shards.SCHEMAS`: type and meaning of each column.
COLUMNS = {
    "id": ("string", "of the question"),
    "problem": ("string", "the question"),
    "answer": ("string", "the reference that the trajectories are graded against"),
    "source": ("string", "where the question is from"),
    "generations": ("list of strings", "the trajectories"),
    "labels": ("list of integers", "for each of them, 1 if it is correct and 0 if not"),
    "models": ("list of strings", "for each of them, the model that wrote it"),
    "num_tokens": ("list of integers", "for each of them, its length with the end token"),
}

# Of the paper, for the cards of models and of data sets.
BIBTEX = """\
@article{liu2025deciphering,
  title   = {Deciphering Trajectory-Aided {LLM} Reasoning: An Optimization Perspective},
  author  = {Junnan Liu and Hongwei Liu and Linchen Xiao and Shudong Liu and Taolin Zhang and Zihan Ma and
             Songyang Zhang and Kai Chen},
  journal = {arXiv preprint arXiv:2505.19815},
  year    = {2025}
}"""

# As TRL's trainers name the paper of their method.
PAPER = {
    "title": "Deciphering Trajectory-Aided LLM Reasoning: An Optimization Perspective",
    "id": "2505.19815",
    "citation": BIBTEX,
}

_MAX_ROWS = 16  # of a table whose length is in the data
_BAR_LENGTH = 24  # characters
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


@dataclass(frozen=True)
class Counts:
    """What was sampled: by question, how many trajectories are correct of how many; and sums over all of them."""

    correct: Sequence[int]
    total: Sequence[int]
    finished: int  # trajectories that were not cut
    num_tokens: int
    sources: Mapping[str, int]  # questions by source
    outcomes: Mapping[str, int] = field(default_factory=dict)  # trajectories by how their grading ended


def trajectories_card(
    repo_id: str, *, model: str, engine: str, settings: Mapping[str, object], counts: Counts, license: str | None = None
) -> str:
    """The README.md of a data set of trajectories.

    Args:
        repo_id: of the data set, with its namespace.
        model: that the trajectories are of.
        engine: that ran it.
        settings: of sampling, by name.
        counts: of questions and trajectories; there is at least one of each.
        license: as the Hub names it; left out if None.
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
    # Of those that are not correct, why; "wrong" is the rest.
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
        settings=markdown_table(
            [("setting", "value"), ("model", escape_for_hub(model)), ("engine", escape_for_hub(engine))]
            + [(f"`{name}`", escape_for_hub(str(value))) for name, value in settings.items()],
            aligned=False,
        ),
        amounts=markdown_table([("", "number"), *amounts.items()], aligned=False),
        pass_rates=_bars("pass rate", pass_rate_histogram(counts.correct, counts.total)),
        sources=_bars("source", _largest(counts.sources)),
        columns=markdown_table(
            [("column", "type", "meaning"), *((f"`{name}`", *about) for name, about in COLUMNS.items())], aligned=False
        ),
        bibtex=BIBTEX,
    )


def pass_rate_histogram(correct: Sequence[int], total: Sequence[int]) -> list[tuple[str, int]]:
    """Questions by how many of their trajectories are correct, from none to all.

    There is a row for every number, or, where these are many or not all questions have as many trajectories, one for
    none, one for all and one for every tenth between.

    Args:
        correct: by question.
        total: by question, each at least 1.
    """
    pairs = list(zip(correct, total, strict=True))
    assert all(0 <= right <= of > 0 for right, of in pairs)
    most = max(total)
    if min(total) == most < _MAX_ROWS:
        rows = [f"{right} of {most}" for right in range(most + 1)]
        found = Counter(rows[right] for right in correct)
    else:
        tenths = [f"{percent} to {percent + 10}%" for percent in range(0, 100, 10)]
        rows = ["none", *tenths, "all"]
        found = Counter(
            "none" if right == 0 else "all" if right == of else tenths[10 * right // of] for right, of in pairs
        )
    return [(row, found[row]) for row in rows]


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
    """The sources with the most questions, and the others together."""
    ordered = sorted(sources.items(), key=lambda item: (-item[1], item[0]))
    rows = [(escape_for_hub(name), number) for name, number in ordered[: _MAX_ROWS - 1]]
    others = [number for _, number in ordered[_MAX_ROWS - 1 :]]
    return [*rows, (f"{len(others)} others", sum(others))] if others else rows


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})"


def _bars(name: str, rows: Sequence[tuple[str, int]]) -> str:
    """A table with bars; one question is enough for a bar to be seen."""
    longest = max(number for _, number in rows)
    bars = ["█" * -(-_BAR_LENGTH * number // longest) for _, number in rows]
    shown = [(label, f"{number:,}", bar) for (label, number), bar in zip(rows, bars, strict=True)]
    return markdown_table([(name, "questions", ""), *shown], aligned=False)
