r"""Sends generated and mutated answers through the grading pool, and counts their outcomes.

    python -m benchmarks.grading.fuzz --inputs 100000

Half of the inputs are drawn from a small grammar of LaTeX. The other half are references of real questions, with pieces
removed, repeated and swapped. The real data lie beside the checkout; without them, the references are those of the test
cases.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np

from benchmarks import harness
from benchmarks.grading.pairs import references
from raml_trl.grading.pool import GradingPool

BATCH = 500
_NAMES = ["x", "y", "n", r"\pi", "e", "i", r"\theta", "AB", r"\text{cm}", r"\infty"]


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


def inputs(number: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yields `number` pairs of a completion and a reference."""
    drawn, golds = random.Random(seed), references()
    for index in range(number):
        gold = drawn.choice(golds)
        if index % 2:
            answer = expression(drawn, drawn.randint(1, 4))
            gold = answer if drawn.random() < 0.2 else gold
        else:
            answer = mutilate(drawn, gold, golds)
            gold = mutilate(drawn, gold, golds) if drawn.random() < 0.1 else gold
        yield rf"\boxed{{{answer}}}", gold


def main() -> None:
    """Grades the inputs in batches, and writes how many had each outcome."""
    given = harness.parse(__doc__, inputs=100_000, seed=0, workers=2)
    outcomes: Counter[str] = Counter()
    late, seconds = [], []
    pairs = inputs(given.inputs, given.seed)
    started = time.perf_counter()
    with GradingPool(given.workers) as pool:
        while batch := list(islice(pairs, BATCH)):
            batch_started = time.perf_counter()
            grades = pool.grade(batch, style="boxed")
            seconds.append(time.perf_counter() - batch_started)
            assert len(grades) == len(batch)
            outcomes.update(graded.outcome for graded in grades)
            late += [pair for pair, graded in zip(batch, grades, strict=True) if graded.outcome in ("timeout", "crash")]
    total = time.perf_counter() - started
    results = {
        "inputs": outcomes.total(),
        "outcomes": dict(outcomes.most_common()),
        "seconds": round(total, 1),
        "seconds_per_batch": harness.spread(np.asarray(seconds).tolist()),
        "timeouts_and_crashes": late[:50],
    }
    settings = {"inputs": given.inputs, "seed": given.seed, "workers": given.workers, "batch": BATCH}
    harness.write(given.output_dir, "grading_fuzz", settings, results)


if __name__ == "__main__":
    main()
