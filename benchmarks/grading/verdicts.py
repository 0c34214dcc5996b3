r"""Compares the verdicts of four graders on the test cases.

    python -m benchmarks.grading.verdicts

The graders are ours, TRL's `accuracy_reward` with the reference unchanged, TRL's `accuracy_reward` with the reference
in dollar signs, and math-verify with its defaults. The last three run in child processes. A child is killed if a case
takes longer than `--seconds`, because some cases never end.
"""

import time
from typing import Any

from benchmarks import harness
from benchmarks.grading.graders import GRADERS, judged
from benchmarks.grading.pairs import cases
from raml_trl.grading.pool import GradingPool


def seconds(pool: GradingPool, pair: tuple[str, str]) -> float:
    """Returns the wall-clock time in seconds that our grader takes for `pair`."""
    started = time.perf_counter()
    pool.grade([pair], style="boxed")
    return time.perf_counter() - started


def main() -> None:
    """Grades the test cases with all graders, counts their verdicts and writes the results."""
    given = harness.parse(__doc__, seconds=20.0)
    table = cases()
    pairs = [(text, answer) for text, answer, _ in table]
    with GradingPool(2) as pool:
        verdicts_by_grader: dict[str, list[Any]] = {
            "ours": [graded.correct for graded in pool.grade(pairs, style="boxed")]
        }
        slowest = max((seconds(pool, pair), pair) for pair in pairs)
    for name in GRADERS:
        verdicts_by_grader[name] = list(judged(name, pairs, given.seconds))
    kinds = {True: "false positive", False: "false negative", None: "skipped", "hang": "hang"}
    results: dict[str, Any] = {"cases": len(table), "counts": {}, "differ": {}}
    results["slowest_of_ours"] = {"seconds": round(slowest[0], 3), "answer": slowest[1][0][:200]}
    for name, verdicts in verdicts_by_grader.items():
        named = [
            "right" if verdict is right else kinds.get(verdict, "error")
            for verdict, (_, _, right) in zip(verdicts, table, strict=True)
        ]
        results["counts"][name] = {
            kind: named.count(kind) for kind in ("right", *kinds.values(), "error") if kind in named
        }
        results["differ"][name] = [
            [text[:200], answer, kind] for kind, (text, answer, _) in zip(named, table, strict=True) if kind != "right"
        ]
    harness.write(given.output_dir, "grading_verdicts", {"seconds": given.seconds}, results)


if __name__ == "__main__":
    main()
