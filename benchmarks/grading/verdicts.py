r"""Compares the verdicts of four graders on the test cases.

    python -m benchmarks.grading.verdicts

The graders are ours, TRL's `accuracy_reward` with the reference unchanged, TRL's `accuracy_reward` with the reference
in dollar signs, and math-verify with its defaults. The last three run in child processes. A child is killed if a case
takes longer than `--seconds`, because some cases never end.
"""

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import harness
from benchmarks.grading.pairs import REPOSITORY, cases
from raml_trl.grading.pool import GradingPool


def trl_grader(wrap: str) -> Callable[[str, str], bool | None]:
    """Returns a function that judges a completion by TRL's reward. Its verdict is None if TRL skips the example.

    `wrap` is the format of the reference: `"{}"`, or `"${}$"` for dollar signs.
    """
    from trl.rewards import accuracy_reward

    def judge(text: str, answer: str) -> bool | None:
        [reward] = accuracy_reward([[{"role": "assistant", "content": text}]], [wrap.format(answer)])
        return None if reward is None else bool(reward)

    return judge


def math_verify_grader() -> Callable[[str, str], bool | None]:
    """Returns a function that judges a completion by math-verify with its defaults, and the reference in dollars."""
    from math_verify import parse, verify

    return lambda text, answer: verify(parse(f"${answer}$"), parse(text))


GRADERS = {
    "trl": lambda: trl_grader("{}"),
    "trl_in_dollars": lambda: trl_grader("${}$"),
    "math_verify": math_verify_grader,
}


def child(name: str) -> None:
    """Runs the grader `name` in a child process, which reads a pair per line and writes a verdict per line."""
    judge = GRADERS[name]()
    sys.stdout.write("ready\n")
    for line in sys.stdin:
        try:
            verdict: Any = judge(*json.loads(line))
        except Exception as error:
            verdict = f"error: {type(error).__name__}"
        sys.stdout.write(json.dumps(verdict) + "\n")
        sys.stdout.flush()


def seconds(pool: GradingPool, pair: tuple[str, str]) -> float:
    """Returns the wall-clock time in seconds that our grader takes for `pair`."""
    started = time.perf_counter()
    pool.grade([pair], style="boxed")
    return time.perf_counter() - started


def judged(name: str, pairs: Sequence[tuple[str, str]], seconds: float) -> Iterator[Any]:
    """Yields the verdict of the grader `name` on each pair: a bool, None, "hang" or an error.

    It is "hang" after `seconds` without a verdict.
    """
    command = [sys.executable, "-u", "-m", "benchmarks.grading.verdicts", "--child", name]
    process: subprocess.Popen[str] | None = None
    for pair in pairs:
        if process is None:
            process = subprocess.Popen(
                command,
                **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL},
                **{"text": True, "bufsize": 1, "cwd": REPOSITORY},
            )
            process.stdout.readline()
        process.stdin.write(json.dumps(pair) + "\n")
        process.stdin.flush()
        line = process.stdout.readline() if select.select([process.stdout], [], [], seconds)[0] else ""
        if line:
            yield json.loads(line)
            continue
        yield "hang" if process.poll() is None else "error: died"
        process.kill()
        process.communicate()
        process = None
    if process is not None:
        process.kill()
        process.communicate()


def main() -> None:
    """Grades the test cases with all graders, counts their verdicts and writes the results."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2])
        return
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
