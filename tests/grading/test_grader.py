"""Tests the grade of a completion, the time limit of grading, and the reward computed from grades."""

import gc
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest

from raml_trl.grading import grader
from raml_trl.grading.boxes import extract_box
from raml_trl.grading.grader import Grade, grade, readable
from raml_trl.grading.pool import GradingPool
from raml_trl.grpo import rewards
from raml_trl.grpo.rewards import REWARDS, make_reward
from raml_trl.prompts import STYLES, lay_out, prompt_messages, with_opening
from raml_trl.runtime.errors import InputError
from tests.helpers.preloaded import python


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"so \boxed{67}", "67"),
        (r"\boxed{1} and then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{3} then cut off \boxed{4", "3"),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}"),
        ("no box", None),
        (r"\boxed{1}\boxed{" + "1" * 2000 + "}", "1" * 2000),
        (r"\boxed{" * 50, None),
        (r"\boxed{" * 50 + "7" + "}" * 3, "7"),
        (r"} \boxed{7}", "7"),
    ],
)
def test_last_complete_box(text: str, box: str | None) -> None:
    assert extract_box(text) == box


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        (r"\boxed{67}", "67", True),
        (r"\boxed{067}", "67", True),
        (r"\boxed{68}", "67", False),
        (r"\boxed{0.5}", r"\frac{1}{2}", True),
        (r"\boxed{\frac43}", r"\frac{4}{3}", True),
        (r"\boxed{3}", r"3\sqrt{13}", False),  # without dollars math-verify would parse the reference as 3
        (r"\boxed{3\sqrt{13}}", r"3\sqrt{13}", True),
        (r"\boxed{5}", "6 - 5i", False),
        (r"\boxed{1,000}", "1000", True),
        (r"<think>\boxed{67}</think>", "67", False),  # a box in the thinking block does not count
        (r"<think>\boxed{1}</think>\boxed{67}", "67", True),
        ("67", "67", False),
        ("", "67", False),
    ],
)
def test_correct(text: str, answer: str, correct: bool) -> None:
    assert grade(text, answer).correct is correct


@pytest.mark.parametrize(
    ("style", "text", "formatted"),
    [
        ("bare", r"<think>a1+2=3;</think>\boxed{34}", True),
        ("bare", r"<think></think>\boxed{34}", True),
        ("bare", r"<think>a1+2=3;\boxed{34}", False),
        ("bare", r"<think>a</think><think>b</think>\boxed{34}", False),
        ("bare", r"<think>a</think>\boxed{34}1", False),
        ("bare", r"<think>a</think>\boxed{3", False),
        ("boxed", r"anything \boxed{34} at all", True),
        ("boxed", "34", False),
        ("conclusion", "<think>\nx\n</think>\n<conclusion>\ny\nThe answer is \\boxed{3}\n</conclusion>", True),
        ("conclusion", "<think>\nx\n</think>\n<conclusion>\ny\n</conclusion>", False),
        ("conclusion", "<think>\nx\n<conclusion>\nThe answer is \\boxed{3}\n</conclusion>", False),
        ("conclusion", "<think>\nx\n</think>\nThe answer is \\boxed{3}", False),
        ("conclusion_only", "x\n<conclusion>so \\boxed{3}</conclusion>", True),
        ("conclusion_only", "x \\boxed{3}", False),
        ("answer", "<think>x</think><answer>\\boxed{3}</answer>", True),
        ("answer", "<answer>\\boxed{3}</answer>", False),
    ],
)
def test_formatted(style: str, text: str, formatted: bool) -> None:
    assert grade(text, "3", style=style).formatted is formatted


@pytest.mark.parametrize("style", STYLES)
def test_laid_out_text_is_formatted_and_correct(style: str) -> None:
    for answer in ("12", r"\frac{1}{2}", r"\{1,2\}", "ANSWER"):
        text = lay_out("first this\nthen that", answer, style)
        assert STYLES[style].layout.fullmatch(text), text
        assert extract_box(text) == answer
    assert grade(lay_out("TRAJECTORY", "12", style), "12", style=style) == Grade(True, True, "correct")


def test_opening_tag_of_the_template_is_restored() -> None:
    assert with_opening("so it is 3\n</think>\\boxed{3}") == "<think>\nso it is 3\n</think>\\boxed{3}"
    for text in ("<think>3</think>3", "3", "<think>cut off", "<think>a</think>b</think>c"):
        assert with_opening(text) == text


def test_layout_patterns_take_linear_time() -> None:
    for style in STYLES.values():
        for bad in ("<think>" * 20_000, "</think>" * 20_000, "\\boxed{" * 20_000, "a" * 200_000, "\n" * 200_000):
            style.layout.fullmatch(bad)  # a quadratic pattern would take minutes


def test_readable() -> None:
    for answer in (
        "12",
        r"\frac{1}{2}",
        r"\text{east}",
        "(C)",
        "x = 3, y = \\sqrt{2}",
        "3^{6567340}",
        r"9\frac{1}{2}\%",
        r"(1, \ldots, 1)",
        r"f(x) = cx, c \in \mathbb{R}",
        r"\begin{cases} 1 & x > 0 \\ 0 & x \le 0 \end{cases}",
        r"x \equiv 3 \pmod 7",
        r"\{x \in \mathbb{Z} \mid 0 < x < 3\}",
    ):
        assert readable(answer), answer
    for answer in ("", " ", "$$", r"DQ \parallel AB", r"\frac{", "1" * 2000):
        assert not readable(answer), answer


@pytest.mark.parametrize(
    ("text", "answer", "outcome"),
    [
        (r"\boxed{0.5}", r"\frac{1}{2}", "correct"),
        (r"\boxed{\sqrt{4x^2}}", r"\sqrt{x}", "wrong"),
        ("1", "1", "no answer"),
        (r"\boxed{}", "1", "no answer"),
        (r"\boxed{\frac{}", "x", "no answer"),
        (r"\boxed{\frac{}{}}", "x", "unreadable answer"),
        (r"\boxed{9^{9^{9^9}}}", "x", "unreadable answer"),
        (r"\boxed{\sqrt{2}}", "9^{9^{9^9}}", "wrong"),
        (r"\boxed{1}", "", "unreadable reference"),
        (r"\boxed{1}", r"DQ \parallel AB", "unreadable reference"),
        (r"\boxed{DQ \parallel AB}", r"DQ\parallel AB", "correct"),
    ],
)
def test_outcome(text: str, answer: str, outcome: str) -> None:
    assert grade(text, answer) == Grade(outcome == "correct", r"\boxed{" in text and r"\boxed{}" not in text, outcome)


@pytest.mark.long
def test_grade_times_out_and_restores_the_callers_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grader, "SECONDS", 0.5)
    previous = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        handler = signal.getsignal(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 600)
        started = time.monotonic()
        assert (
            grade(r"\boxed{\sum_{k=1}^{9999} \frac{x^k}{k^2}}", r"\sum_{k=2}^{9999} \frac{x^k}{k^2}").outcome
            == "timeout"
        )
        assert time.monotonic() - started < 5
        assert signal.getsignal(signal.SIGALRM) is handler
        assert 500 < signal.getitimer(signal.ITIMER_REAL)[0] < 600
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("caught", [1, 2])
def test_time_limit_survives_a_bare_except(caught: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare` stands for a library that swallows the exception of the time limit.

    It then returns a verdict (`caught` = 1), or loops until it has swallowed the exception again (`caught` = 2).
    """

    def compare(_predicted: str, _answer: str) -> str:
        for _ in range(caught):
            try:
                while True:
                    pass
            except BaseException:
                continue
        return "wrong"

    monkeypatch.setattr(grader, "decide_with_algebra", compare)
    monkeypatch.setattr(grader, "SECONDS", 0.2)
    before = signal.getsignal(signal.SIGALRM)
    assert grade(r"\boxed{\sqrt{8}}", r"2\sqrt{2}").outcome == "timeout"
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def _spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def _import_slowly(tmp_path: Path) -> str:
    (tmp_path / "slow_module.py").write_text(f"from {__name__} import _spin\n_spin(0.4)\nstate = 'complete'")
    return import_module("slow_module").state


def _finalize_slowly(_tmp_path: Path) -> str:
    states = ["incomplete"]

    class Finalized:
        def __del__(self) -> None:
            _spin(0.4)
            states.append("complete")

    Finalized()
    return states[-1]


def _call_back_slowly(_tmp_path: Path) -> str:
    states = ["incomplete"]

    def call_back() -> None:
        _spin(0.4)
        states.append("complete")

    class Referred:
        pass

    weakref.finalize(Referred(), call_back)
    return states[-1]


@pytest.mark.parametrize("step", [_import_slowly, _finalize_slowly, _call_back_slowly])
def test_time_limit_waits_for_imports_and_finalizers(
    step: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit must not raise its exception there.

    Raised in an import, the exception would leave broken modules behind. Raised in a finalizer, Python would ignore it
    with a warning.
    """
    unraisable: list[object] = []
    states: list[str] = []

    def decide(_predicted: str, _answer: str) -> str:
        states.append(step(tmp_path))
        while True:
            pass

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    monkeypatch.setattr(grader, "decide_with_algebra", decide)
    monkeypatch.setattr(grader, "SECONDS", 0.1)
    monkeypatch.setattr(grader, "_AGAIN_SECONDS", 0.1)
    assert grade(r"\boxed{\sqrt{8}}", r"2\sqrt{2}").outcome == "timeout"
    assert (states, unraisable) == (["complete"], [])
    monkeypatch.delitem(sys.modules, "slow_module", raising=False)


@pytest.mark.children
def test_timeout_of_the_first_grade_breaks_no_later_grade() -> None:
    """An interrupted import of math-verify would leave broken modules behind, so this test needs a new process."""
    script = r"""
import sys
from raml_trl.grading import grader

sys.unraisablehook = lambda unraisable: print("unraisable", unraisable.object)
for grader.SECONDS in (0.001, 0.05, 0.2):
    grader.grade(r"\boxed{\sqrt{12}}", r"2\sqrt{3}")
grader.SECONDS = 60
print(grader.grade(r"\boxed{\sqrt{12}}", r"2\sqrt{3}").outcome)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "correct\n"


def test_grade_on_another_thread() -> None:
    grades: list[Grade] = []
    thread = threading.Thread(target=lambda: grades.append(grade(r"\boxed{\sqrt{12}}", r"2\sqrt{3}")))
    thread.start()
    thread.join()
    assert grades == [Grade(True, True, "correct")]


def test_reward_is_equation_21() -> None:
    assert REWARDS == {(True, True): 1, (False, True): 0, (True, False): -0.5, (False, False): -1}
    metrics: dict[str, float] = {}
    columns: dict[str, list[bool]] = {}
    given = make_reward("bare")(
        prompts=[],
        completions=[
            [{"role": "assistant", "content": text}]
            for text in (r"<think></think>\boxed{34}", r"<think></think>\boxed{35}", r"\boxed{34}", "34")
        ],
        answer=["34"] * 4,
        log_metric=metrics.__setitem__,
        log_extra=columns.__setitem__,
    )
    assert given == [1, 0, -0.5, -1]
    not_compared = dict.fromkeys(("timeout", "crash", "unreadable answer", "unreadable reference"), 0)
    assert metrics == {"correct": 0.5, "formatted": 0.5} | not_compared
    assert columns["raml/correct"] == [True, False, True, False]


def call(reward: Callable[..., list[float]], *pairs: tuple[str, str]) -> tuple[list[float], dict[str, float]]:
    metrics: dict[str, float] = {}
    given = reward(
        prompts=[],
        completions=[text for text, _ in pairs],
        answer=[answer for _, answer in pairs],
        log_metric=metrics.__setitem__,
        log_extra=lambda _name, _values: None,
    )
    return given, metrics


ALGEBRA = (r"\boxed{\sqrt{12}}", r"2\sqrt{3}")
HOPELESS = (r"\boxed{\binom{10000000}{5000000}}", r"\pi")


@pytest.mark.children
def test_reward_of_pairs_that_cannot_be_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "GradingPool", lambda number: GradingPool(number, seconds=1))
    pairs = [ALGEBRA, HOPELESS, (r"\boxed{1}", r"DQ \parallel AB"), (r"\boxed{\frac{}{}}", "x"), ("no box", "1")] * 2
    given, metrics = call(make_reward("boxed"), *pairs)
    assert given == [1, 0, 0, 0, -1] * 2
    assert metrics == {
        **{"correct": 0.2, "formatted": 0.8},
        **{"timeout": 0.2, "crash": 0, "unreadable reference": 0.2, "unreadable answer": 0.2},
    }


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.children
def test_children_end_with_their_reward() -> None:
    before = children()
    reward = make_reward("boxed", num_graders=1)
    assert call(reward, (r"\boxed{2}", "2"))[0] == [1]
    assert children() == before  # no algebra, no child
    assert call(reward, ALGEBRA)[0] == [1]
    assert len(children()) == len(before) + 1
    del reward
    gc.collect()
    assert children() == before


def _grade_and_leave(reward: Callable[..., list[float]], results: Any) -> None:
    results.put((call(reward, ALGEBRA)[0], len(children())))


@pytest.mark.children
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_reward_in_a_forked_process() -> None:
    """A forked process, such as a DataLoader worker, starts its own graders and does not touch its parent's graders."""
    reward = make_reward("boxed", num_graders=1)
    assert call(reward, ALGEBRA)[0] == [1]
    before = children()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    worker = context.Process(target=_grade_and_leave, args=(reward, results))
    worker.start()
    assert results.get(timeout=60) == ([1], 1)
    worker.join()
    assert worker.exitcode == 0
    assert call(reward, (r"\boxed{\sqrt{20}}", r"2\sqrt{5}"))[0] == [1]
    assert children() == before


@pytest.mark.children
@pytest.mark.parametrize(
    "end", ["pass", "raise SystemExit(3)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
)
def test_reward_leaves_no_orphans(end: str) -> None:
    script = f"""
import psutil
from raml_trl.grpo.rewards import make_reward
reward = make_reward("boxed", num_graders=1)
ignore = lambda *_: None
assert reward(completions=[{ALGEBRA[0]!r}], answer=[{ALGEBRA[1]!r}], log_metric=ignore, log_extra=ignore) == [1]
print(psutil.Process().children()[0].pid, flush=True)
{end}
"""
    done = subprocess.run([*python(), "-c", script], capture_output=True, text=True, check=False)
    assert "Error" not in done.stderr, done.stderr
    until = time.monotonic() + 20
    while psutil.pid_exists(int(done.stdout)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(done.stdout))


def test_prompts() -> None:
    assert prompt_messages("1+1", "bare") == [{"role": "user", "content": "1+1"}]
    system, user = prompt_messages("1+1", "conclusion")
    assert (system["role"], user) == ("system", {"role": "user", "content": "1+1"})
    assert prompt_messages("1+1", "boxed")[0]["content"].startswith("1+1\n\n")
    with pytest.raises(InputError, match="'shouted' is unknown"):
        prompt_messages("1+1", "shouted")
