"""Runs other graders in child processes: TRL's `accuracy_reward` and math-verify.

A child is killed if a case takes too long, because some cases never end.
"""

import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.grading.pairs import REPOSITORY


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
    judge(r"\boxed{\sqrt{2}}", r"\sqrt{3}")  # the first verdict imports modules, which is not part of the time limit
    sys.stdout.write("ready\n")
    for line in sys.stdin:
        try:
            verdict: Any = judge(*json.loads(line))
        except Exception as error:
            verdict = f"error: {type(error).__name__}"
        sys.stdout.write(json.dumps(verdict) + "\n")
        sys.stdout.flush()


def judged(name: str, pairs: Sequence[tuple[str, str]], seconds: float) -> Iterator[Any]:
    """Yields the verdict of the grader `name` on each pair: a bool, None, "hang" or an error.

    It is "hang" after `seconds` without a verdict.
    """
    command = [sys.executable, "-u", "-m", "benchmarks.grading.graders", name]
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


if __name__ == "__main__":
    child(sys.argv[1])
