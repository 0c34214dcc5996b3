"""Tests that `GradingPool` returns the same grades as `grade`, in order, even if a pair hangs or kills a child process.

The tests use psutil to find children that are left behind.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from raml_trl.grading import pool as grading_pool
from raml_trl.grading.grader import Grade, grade
from raml_trl.grading.pool import GradingPool
from raml_trl.grading.worker import MEMORY_BYTES
from raml_trl.prompts import STYLES
from raml_trl.runtime.errors import InputError
from tests.grading import test_grader as test_grading

# `decide_without_algebra` leaves this pair to algebra, which never finishes.
TOWER = (r"\boxed{e^{e^{e^{e^{e^{79}}}}}}", r"2\pi")
BINOMIAL = (r"\boxed{\binom{10000000}{5000000}}", r"\pi")
ROOT = (r"\boxed{\sqrt{12}}", r"2\sqrt{3}")  # equal only by algebra

RIGHT = Grade(correct=True, formatted=True, outcome="correct")
WRONG = Grade(correct=False, formatted=True, outcome="wrong")
LATE = Grade(correct=False, formatted=True, outcome="timeout")
CRASHED = Grade(correct=False, formatted=True, outcome="crash")

[_CASES] = test_grading.test_correct.pytestmark
TABLE: list[tuple[str, str]] = [(text, answer) for text, answer, _ in _CASES.args[1]]


def roots(number: int) -> tuple[list[tuple[str, str]], list[Grade]]:
    """Returns `number` distinct pairs that need algebra, and their expected grades. Every third pair is right."""
    right = [index % 3 == 0 for index in range(1, number + 1)]
    # sqrt(4p) is 2 sqrt(p), and sqrt(4p + 1) is not.
    pairs = [(rf"\boxed{{\sqrt{{{4 * p + (not same)}}}}}", rf"2\sqrt{{{p}}}") for p, same in enumerate(right, 1001)]
    return pairs, [RIGHT if same else WRONG for same in right]


def still_running(processes: list[psutil.Process], *, seconds: float = 0) -> list[psutil.Process]:
    """Returns the processes that have not ended within `seconds`. A zombie counts as ended."""
    until = time.monotonic() + seconds
    while True:
        left = [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        if not left or time.monotonic() >= until:
            return left
        time.sleep(0.05)


def children() -> list[psutil.Process]:
    """Returns the child processes that are graders. multiprocessing may have started other child processes."""
    running = still_running(psutil.Process().children())
    return [child for child in running if "raml_trl.grading.worker" in child.cmdline()]


def children_beside(others: list[psutil.Process]) -> list[psutil.Process]:
    return [child for child in children() if child not in others]


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[GradingPool]:
    """A pool for all tests that leave its children intact, because a child takes a second to start."""
    with GradingPool(2) as pool:
        yield pool


@pytest.mark.children
@pytest.mark.parametrize("style", STYLES)
def test_pool_gives_the_grades_of_the_grader(shared_pool: GradingPool, style: str) -> None:
    grades = shared_pool.grade(TABLE, style=style)
    assert grades == [grade(*pair, style=style) for pair in TABLE]


@pytest.mark.children
def test_outcomes(shared_pool: GradingPool) -> None:
    pairs = [(r"\boxed{x}", ""), ("12", "12"), (r"\boxed{12}", "13"), (r"\boxed{2x}", "y"), ROOT, (r"\boxed{12}", "12")]
    outcomes = ["unreadable reference", "no answer", "wrong", "wrong", "correct", "correct"]
    assert [graded.outcome for graded in shared_pool.grade(pairs, style="boxed")] == outcomes
    assert shared_pool.grade([], style="boxed") == []
    with pytest.raises(InputError, match="'shouted' is unknown"):
        shared_pool.grade(pairs, style="shouted")


@pytest.mark.children
def test_number_of_workers_changes_neither_grades_nor_order(shared_pool: GradingPool) -> None:
    pairs, expected = roots(100)
    grades = shared_pool.grade(pairs + TABLE, style="boxed")
    assert grades[:100] == expected
    with GradingPool(1) as pool:
        assert pool.grade(pairs + TABLE, style="boxed") == grades


@pytest.mark.children
def test_pairs_without_algebra_start_no_child() -> None:
    others = children()
    with GradingPool(2) as pool:
        simple = [(r"\boxed{012}", "12"), (r"\boxed{x + 1}", "x + 1"), (r"\boxed{0.5}", r"\frac12")]
        assert pool.grade(simple, style="boxed") == [RIGHT] * 3
        assert not children_beside(others)
        assert pool.grade([ROOT], style="boxed") == [RIGHT]
        assert len(children_beside(others)) == 1  # a single pair starts a single child


@pytest.mark.children
def test_the_same_pair_is_compared_once(shared_pool: GradingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    take = grading_pool._Child.take
    monkeypatch.setattr(grading_pool._Child, "take", lambda child, pair: (taken.append(pair), take(child, pair)))
    again = ("again " + ROOT[0], ROOT[1])
    assert shared_pool.grade([ROOT, again, ROOT], style="boxed") == [RIGHT] * 3
    assert taken == [(r"\sqrt{12}", ROOT[1])]


def test_child_that_has_parsed_an_expression_gets_its_pairs() -> None:
    first, second = object(), object()
    pairs = [("a", "b"), ("b", "e"), ("c", "d"), ("d", "a"), ("f", "c"), ("g", "e")]
    waiting, readers = [*pairs], {}
    given = [grading_pool._next_for(child, waiting, readers) for child in (first, second, first, first, first, second)]
    # `second` skips ("b", "e"), since `first` has parsed b. Later, `first` prefers pairs that share an expression with
    # its earlier pairs. In the end, every pair has been given to a child.
    assert given == [("a", "b"), ("c", "d"), ("b", "e"), ("d", "a"), ("g", "e"), ("f", "c")]
    assert not waiting


@pytest.mark.children
def test_each_reference_is_parsed_by_a_single_child_and_none_is_idle(
    shared_pool: GradingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[grading_pool._Child, list[grading_pool.Pair]] = {}
    take = grading_pool._Child.take
    monkeypatch.setattr(
        grading_pool._Child, "take", lambda child, pair: (taken.setdefault(child, []).append(pair), take(child, pair))
    )
    pairs, expected = roots(2)
    spelt = [[(rf"\boxed{{{number} + {text[7:-1]}}}", answer) for number in range(1, 20)] for text, answer in pairs]
    mixed = [pair for both in zip(*spelt, strict=True) for pair in both]
    assert shared_pool.grade([*mixed, *pairs], style="boxed") == [WRONG] * len(mixed) + expected
    assert len(taken) == 2
    # At the very end, the child that is faster takes over a few pairs of the other child.
    shares = [sum(pair[1] == answer for pair in some) / len(some) for some in taken.values() for _, answer in pairs]
    assert sum(max(share, 1 - share) for share in shares) / len(shares) > 0.7


@pytest.mark.children
# `test_pair_whose_child_is_killed_is_retried_once` has a time limit with a single child, too.
@pytest.mark.parametrize("num_workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_endless_pairs_time_out_without_affecting_others(num_workers: int) -> None:
    pairs, expected = roots(60)
    started = time.monotonic()
    with GradingPool(num_workers, seconds=2) as pool:
        grades = pool.grade([*pairs[:30], *[TOWER, BINOMIAL] * 40, *pairs[30:]], style="boxed")
    assert grades[30:110] == [LATE] * 80
    assert grades[:30] + grades[110:] == expected
    # The time goes into two time limits of two seconds (TOWER and BINOMIAL once each) and three starts of one or two
    # seconds. It would be longer with 80 time limits, or with the default limit of eight seconds.
    assert time.monotonic() - started < 30


@pytest.mark.children
def test_idle_child_that_died_is_replaced(shared_pool: GradingPool) -> None:
    pairs, expected = roots(20)
    shared_pool.grade(pairs, style="boxed")
    before = children()
    assert len(before) == 2
    for child in before:
        os.kill(child.pid, signal.SIGKILL)
    assert not still_running(before, seconds=10)
    assert shared_pool.grade(pairs, style="boxed") == expected
    assert len(children()) == 2


@pytest.mark.children
@pytest.mark.parametrize(("num_kills", "expected_grade"), [(1, LATE), (2, CRASHED)])
def test_pair_whose_child_is_killed_is_retried_once(
    num_kills: int, expected_grade: Grade, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, killed = grading_pool._Child._ask, []

    def ask_and_kill(child: grading_pool._Child) -> None:
        ask(child)
        if child.pair[1] == TOWER[1] and len(killed) < num_kills:
            killed.append(child._process.pid)
            os.kill(child._process.pid, signal.SIGKILL)

    monkeypatch.setattr(grading_pool._Child, "_ask", ask_and_kill)
    pairs, expected = roots(20)
    with GradingPool(1, seconds=2) as pool:
        grades = pool.grade([*pairs[:10], TOWER, *pairs[10:]], style="boxed")
    assert len(set(killed)) == num_kills
    assert grades.pop(10) == expected_grade
    assert grades == expected


@pytest.mark.children
def test_child_that_cannot_start_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with GradingPool(2) as pool, pytest.raises(RuntimeError, match="does not start"):
        pool.grade([ROOT], style="boxed")


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Restores the default SIGINT handler: a shell starts background processes with SIGINT ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.children
@pytest.mark.usefixtures("_interruptible")
def test_interrupted_call_leaves_no_busy_child() -> None:
    others = children()
    with GradingPool(2, seconds=60) as pool:
        pool.grade(roots(2)[0], style="boxed")
        assert len(children_beside(others)) == 2
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            pool.grade([TOWER], style="boxed")
        assert len(children_beside(others)) == 1  # the idle child is kept
        assert pool.grade([ROOT], style="boxed") == [RIGHT]
    assert not children_beside(others)


@pytest.mark.children
def test_killed_parent_leaves_no_child() -> None:
    script = f"""
from raml_trl.grading.pool import GradingPool
pool = GradingPool(2, seconds=1)
pool.grade({roots(2)[0]}, style="boxed")
print(flush=True)
pool.grade([{TOWER}] , style="boxed")
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    left = psutil.Process(parent.pid).children(recursive=True)
    time.sleep(0.5)  # one child evaluates TOWER, the other is idle
    parent.kill()
    parent.communicate()
    assert len(left) == 2
    still = still_running(left, seconds=30)
    for child in still:
        child.kill()
    assert not still


@pytest.mark.children
def test_any_thread_may_grade_and_signal_handlers_are_kept(shared_pool: GradingPool) -> None:
    grades: list[Grade] = []
    previous = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        handler = signal.getsignal(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 600)
        thread = threading.Thread(target=lambda: grades.extend(shared_pool.grade(TABLE, style="boxed")))
        thread.start()
        thread.join()
        assert grades == shared_pool.grade(TABLE, style="boxed")
        assert signal.getsignal(signal.SIGALRM) is handler
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.children
def test_child_has_a_memory_limit_and_ignores_interrupts(shared_pool: GradingPool) -> None:
    shared_pool.grade([ROOT], style="boxed")
    for child in children():
        assert child.rlimit(psutil.RLIMIT_AS)[0] == MEMORY_BYTES
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
        os.kill(child.pid, signal.SIGINT)
    before = children()
    assert shared_pool.grade([ROOT], style="boxed") == [RIGHT]
    assert children() == before


@pytest.mark.children
def test_output_of_libraries_is_not_taken_for_a_reply() -> None:
    script = """
import os, sys
from raml_trl.grading import worker as grading_worker

compare = grading_worker.decide_with_algebra

def noisy(**arguments):
    print("noise")
    os.write(1, b"more noise")
    return compare(**arguments)

assert "math_verify" not in sys.modules
ready = grading_worker.json.loads
grading_worker.json.loads = lambda line: ("math_verify" in sys.modules) and ready(line)  # it is imported already
grading_worker.decide_with_algebra = lambda *pair, **named: noisy(**dict(zip(("predicted", "answer"), pair)), **named)
grading_worker.main(8)
assert not {"torch", "transformers"} & set(sys.modules)
"""
    requests = '{"predicted": "0.5", "answer": "1/2"}\n{"predicted": "x", "answer": "y"}\n'
    done = subprocess.run([sys.executable, "-c", script], input=requests, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['"ready"', '"correct"', '"wrong"']
    assert done.stderr.count("more noise") == 2
