r"""Compares our grader, math-verify and TRL's `accuracy_reward` on answer pairs, by kind of pair.

    python -m benchmarks.grading.side_by_side
    python -m benchmarks.grading.side_by_side --pairs ../shared/data/answer_pairs.jsonl

A pair is a completion (`text`) with its `reference`; `expected` is `correct` or `not correct`, and `kind` is the kind
of pair. Rows that are marked `debatable` are left out. The default is all pairs of the tests. The table shows how many
right answers each grader accepts and how many wrong answers it passes. math-verify runs with its defaults, and TRL gets
a plain completion. Both get the reference in dollar signs, because they read few references without. A grader that
raises an error, returns no verdict or takes longer than `--seconds` does not accept the answer.
"""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.grading.graders import judged
from benchmarks.grading.pairs import answer_pairs
from raml_trl.grading.pool import GradingPool
from raml_trl.render.tables import markdown_table

OTHERS = {"math-verify": "math_verify", "TRL": "trl_in_dollars"}
"""The other graders of the table, by their name in `graders.GRADERS`."""


def verdicts(rows: Sequence[dict[str, Any]], seconds: float) -> dict[str, list[bool]]:
    """Returns whether each grader accepts the answer of each row."""
    pairs = [(row["text"], row["reference"]) for row in rows]
    with GradingPool(1) as pool:
        accepted = {"ours": [graded.correct for graded in pool.grade(pairs, style="boxed")]}
    for name, grader in OTHERS.items():
        accepted[name] = [verdict is True for verdict in judged(grader, pairs, seconds)]
    return accepted


def tabulate(rows: Sequence[dict[str, Any]], accepted: dict[str, list[bool]], *, by_kind: bool = True) -> str:
    """Returns the Markdown table: for each kind and for all, the right and wrong answers and those accepted."""
    table = [["kind of pair", "right answers", *accepted, "wrong answers", *accepted]]
    kinds = sorted({row["kind"] for row in rows}, key=str.lower) if by_kind else []
    for kind in (*kinds, None):
        line = ["all" if kind is None else kind]
        for expected in ("correct", "not correct"):
            places = [
                place for place, row in enumerate(rows) if row["expected"] == expected and kind in (None, row["kind"])
            ]
            counts = [sum(given[place] for place in places) for given in accepted.values()]
            line += [str(len(places)), *(str(count) if places else "" for count in counts)]
        table.append(line)
    return markdown_table(table)


def main() -> None:
    """Grades the pairs with all graders, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, help="JSON Lines file of pairs; the default is all pairs of the tests")
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit of a verdict of another grader")
    parser.add_argument("--totals", action="store_true", help="print only the totals")
    given = parser.parse_args()
    rows = answer_pairs(given.pairs)
    print(tabulate(rows, verdicts(rows, given.seconds), by_kind=not given.totals))
    print("; ".join(f"{name} {version(name)}" for name in ("math-verify", "trl")))


if __name__ == "__main__":
    main()
