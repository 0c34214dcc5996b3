r"""Sends generated, mutilated and hostile texts through the grader, and reports crashes, hangs and the slowest texts.

    python -m benchmarks.grading.robustness --inputs 100000 --seed 0

About half of the inputs are drawn from a small grammar of LaTeX. The other half are references of real questions, with
pieces removed, repeated and swapped. A tenth of all inputs are completions whose pieces are repeated up to 3,000 times.
The real data lie beside the checkout; without them, the references are those of the test cases. The command ends with
exit code 1 if a child process crashes, or if an input keeps the calling process busy for more than two seconds of CPU.
"""

import argparse
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from benchmarks.grading.pairs import references
from raml_trl.grading.boxes import extract_answer
from raml_trl.grading.grader import SECONDS, decide_without_algebra, formatted
from raml_trl.grading.notation import normalise
from raml_trl.grading.numbers import exact
from raml_trl.grading.pool import GradingPool
from raml_trl.prompts import STYLES

BATCH = 500
SLOWEST = 10
"""Number of slow inputs that the report shows."""
MOST_SECONDS = 2.0
"""CPU seconds that an input may take in the calling process."""
SHOWN = 80
"""Number of characters of a text that the report shows."""

_NAMES = ["x", "y", "n", r"\pi", "e", "i", r"\theta", "AB", r"\text{cm}", r"\infty"]
_PIECES = [
    *("1", "(", ")", "[", "]", "{", "}", r"\{", r"\}", "(1,", r"\{x,", "x=", "x<", "|", "^{", "_", "!", "-", "1+"),
    *("&", r"\\", "~", " ", "\n", ".", "'", "e-07", r"\frac", r"\frac{1}{", r"\sqrt", r"\text{", r"\text{ and }"),
    *(r"\cup ", r"\pm ", r"\in ", r"\begin{cases}", r"\end{cases}", r"\left(", r"\boxed{", r"\boxed ", "°", "½", "²"),
    *("\u200b", "、", "厘米", "cm ", "kg/", " 123", "1,234,", "3^{60000},", r"\binom{20}{10},", r"0.\overline{6},"),
    *(r"\infty", "(A)", "A, ", "3:4 ", "10:30 ", "21st ", r"\sin ", "sqrt", "pi", "million ", r"\equiv ", ";"),
    *("*", "1/", " or ", "$", "<think>", "</think>", "<conclusion>", "</conclusion>"),
]  # fmt: skip


def expression(drawn: random.Random, depth: int) -> str:
    """Returns an answer drawn from the grammar, with expressions nested up to `depth` levels."""
    if depth == 0 or drawn.random() < 0.2:
        return drawn.choice([str(drawn.randint(-20, 10 ** drawn.randint(1, 6))), drawn.choice(_NAMES), "0.5", "1,000"])
    forms = [
        "{}+{}",
        "{}-{}",
        r"{}\cdot {}",
        r"\frac{{{}}}{{{}}}",
        "{}/{}",
        "({})({})",
        "({},{})",
        r"\{{{},{}\}}",
        "[{},{})",
    ]
    forms += [
        r"\sqrt{{{}}}",
        "{}^{{{}}}",
        "({})^{{{}}}",
        "{}!",
        r"\binom{{{}}}{{{}}}",
        "{}={}",
        r"{} \le {}",
        r"{} \pm {}",
    ]
    forms += [
        r"\begin{{pmatrix}} {} \\ {} \end{{pmatrix}}",
        r"{} \cup {}",
        r"{} \text{{ and }} {}",
        r"{}\%",
        r"{}^\circ",
    ]
    forms += [
        r"\sin({})",
        r"\log_{{{}}} {}",
        r"\sum_{{k=1}}^{{{}}} {}",
        r"\int_0^{{{}}} {} dx",
        "|{}|",
        "{}:{}",
        r"x \in {}",
    ]
    form = drawn.choice(forms)
    return form.format(*(expression(drawn, depth - 1) for _ in range(form.replace("{{", "").count("{}"))))


def mutilate(drawn: random.Random, answer: str, others: list[str]) -> str:
    """Returns `answer` with pieces removed, repeated, reversed or replaced by pieces of another answer."""
    for _ in range(drawn.randint(1, 3)):
        start = drawn.randint(0, len(answer))
        end = min(len(answer), start + drawn.randint(0, 6))
        piece = answer[start:end]
        other = drawn.choice(others)
        put = [
            "",
            piece * drawn.choice([2, 3, 50]),
            piece[::-1],
            drawn.choice(r"{}()[]\^_!,=<>$%&~") * drawn.randint(1, 2),
            other[: drawn.randint(0, len(other))],
            chr(drawn.randint(1, 0x2FFF)),
        ]
        answer = answer[:start] + drawn.choice(put) + answer[end:]
    return answer


def hostile(drawn: random.Random, others: list[str]) -> str:
    """Returns a completion whose pieces are repeated many times, inside or outside its box."""
    pieces = [drawn.choice([*_PIECES, drawn.choice(others)[:20]]) for _ in range(drawn.randint(1, 3))]
    text = "".join(pieces) * drawn.choice([3, 30, 300, 3_000])
    layout = drawn.choice([r"\boxed{{{}}}", "{}", r"<think>{}</think>\boxed{{1}}", r"\boxed{{1}}{}", r"{}\boxed{{1}}"])
    return layout.format(text[:30_000])


def inputs(number: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yields `number` pairs of a completion and a reference."""
    drawn, golds = random.Random(seed), references()
    for index in range(number):
        gold = drawn.choice(golds)
        if index % 10 == 9:
            text = hostile(drawn, golds)
            yield text, (extract_answer(text) or gold) if drawn.random() < 0.2 else gold
            continue
        if index % 2:
            answer = expression(drawn, drawn.randint(1, 4))
            gold = answer if drawn.random() < 0.2 else gold
        else:
            answer = mutilate(drawn, gold, golds)
            gold = mutilate(drawn, gold, golds) if drawn.random() < 0.1 else gold
        yield rf"\boxed{{{answer}}}", gold


@dataclass
class Report:
    """The outcomes of the inputs, the inputs that crashed or timed out, and the slowest in the calling process."""

    outcomes: Counter[str] = field(default_factory=Counter)
    by_algebra: int = 0
    crashes: list[tuple[str, str]] = field(default_factory=list)
    timeouts: list[tuple[str, str]] = field(default_factory=list)
    slowest: list[tuple[float, str, str]] = field(default_factory=list)
    """CPU seconds in the calling process, the completion and the reference; the greatest first."""

    def add(self, pool: GradingPool, batch: list[tuple[str, str]]) -> None:
        """Grade a batch: without algebra in this process, one by one, and then all of them in the pool."""
        undecided = []
        for text, gold in batch:
            normalise.cache_clear()
            exact.cache_clear()
            started = time.process_time()
            for style in STYLES:
                formatted(text, style)
            predicted = extract_answer(text)
            outcome = decide_without_algebra(predicted, gold)
            self.slowest.append((time.process_time() - started, text, gold))
            if outcome is None:
                undecided.append((predicted, gold))
            else:
                self.outcomes[outcome] += 1
        self.slowest = sorted(self.slowest, reverse=True)[:SLOWEST]
        self.by_algebra += len(undecided)
        for (predicted, gold), outcome in zip(undecided, pool.compare(undecided), strict=True):
            self.outcomes[outcome] += 1
            if outcome in ("crash", "timeout"):
                (self.crashes if outcome == "crash" else self.timeouts).append((predicted or "", gold))

    @property
    def fails(self) -> bool:
        """Whether an input has crashed, or kept the calling process busy for too long."""
        return bool(self.crashes) or any(seconds > MOST_SECONDS for seconds, _, _ in self.slowest)


def report_on(number: int, seed: int, workers: int, seconds: float) -> Report:
    """Grades `number` inputs in batches, and returns the report."""
    report, source = Report(), inputs(number, seed)
    with GradingPool(workers, seconds=seconds) as pool:
        while batch := list(islice(source, BATCH)):
            report.add(pool, batch)
    return report


def peak_memory() -> list[int]:
    """Returns the peak resident memory of this process and of its largest ended child, in MiB."""
    return [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def main() -> None:
    """Grades the inputs in batches, and prints the outcomes, the crashes, the timeouts and the slowest inputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="child processes that run algebra")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of one comparison by algebra")
    given = parser.parse_args()
    started = time.perf_counter()
    report = report_on(given.inputs, given.seed, given.workers, given.seconds)
    print(f"{report.outcomes.total():,} inputs, {report.by_algebra:,} of them through algebra, seed {given.seed}:")
    for outcome, number in report.outcomes.most_common():
        print(f"  {outcome}: {number:,}")
    print(f"{time.perf_counter() - started:.0f} s; peak MiB of this process and of a child: {peak_memory()}")
    for name, pairs in (("crashed", report.crashes), ("timed out", report.timeouts)):
        for predicted, gold in pairs:
            print(f"{name}: {predicted[:SHOWN]!r} for {gold[:SHOWN]!r}")
    for seconds, text, gold in report.slowest:
        print(f"{seconds:.2f} s in the calling process: {text[:SHOWN]!r} for {gold[:SHOWN]!r}")
    sys.exit(1 if report.fails else 0)


if __name__ == "__main__":
    main()
