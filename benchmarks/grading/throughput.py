r"""Measures grades per second on real pairs: math-verify as in TRL, `grade`, and the pool with one and two workers.

    python -m benchmarks.grading.throughput --rounds 5

A pair is a completion with its reference. Each round has its own pairs, and a call grades all pairs of a round: 1,500
pairs correspond to 375 questions with 4 samples. All graders grade the same pairs, and take turns in a different order
in each round. The result is the ratio of their speeds within a round. Since few real pairs need algebra, results with
`algebra` in their name are measured on other pairs that all need it.

The result `cores` compares one core with two (see `cores.py`). Every round of this comparison has all real pairs, in an
order of its own, because 1,500 pairs take only half a second, which is too short for an exact ratio. `cores` is null if
the system cannot bind a process to a core.
"""

import random
import time
from collections.abc import Callable, Sequence

from math_verify import LatexExtractionConfig, parse, verify

from benchmarks import harness
from benchmarks.grading.cores import Arrangements, clear_caches, two_cores
from benchmarks.grading.pairs import cases, real_pairs, references
from raml_trl.grading.boxes import extract_answer
from raml_trl.grading.grader import decide_without_algebra, grade
from raml_trl.grading.pool import GradingPool

Pairs = Sequence[tuple[str, str]]


def math_verify(pairs: Pairs) -> list[bool]:
    """Grades as `trl.rewards.accuracy_reward` does, but with the reference in dollar signs and without logging."""
    from latex2sympy2_extended import NormalizationConfig

    spelling = NormalizationConfig(units=True)
    config = LatexExtractionConfig(
        normalization_config=spelling, boxed_match_priority=0, try_extract_without_anchor=False
    )
    right = []
    for text, answer in pairs:
        gold = parse(f"${answer}$", parsing_timeout=10)
        target = parse(text, extraction_config=[config], extraction_mode="first_match", parsing_timeout=10)
        right.append(verify(gold, target, timeout_seconds=5))
    return right


def seconds(run: Callable[[Pairs], object], pairs: Pairs) -> float:
    """Returns the wall-clock time in seconds to grade `pairs` with empty caches in this process."""
    clear_caches()
    started = time.perf_counter()
    run(pairs)
    return time.perf_counter() - started


def algebra_pairs(drawn: random.Random, number: int) -> list[tuple[str, str]]:
    r"""Draws `number` pairs that only algebra can decide.

    In a pair, the answer is the reference multiplied by `\sqrt{r} / \sqrt{r}`, or the reference of another question.
    """
    golds, pairs = references(), dict[tuple[str, str], None]()
    while len(pairs) < number:
        gold = drawn.choice(golds)
        root = drawn.randint(2, 99)
        right = rf"\frac{{\sqrt{{{root}}}({gold})}}{{\sqrt{{{root}}}}}"
        answer = right if drawn.random() < 0.5 else drawn.choice(golds)
        if decide_without_algebra(answer, gold) is None:
            pairs[rf"\boxed{{{answer}}}", gold] = None
    return list(pairs)


def over_one_core(kinds: dict[str, Sequence[Pairs]], cores: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns the speed-ups of a pool with two children, and of two processes, on two `cores` over a pool on one core.

    The first round starts the children and is not counted. In each round, the kinds of pairs follow one another. The
    pairs of kind `algebra` have more expressions than the cache of a child holds, so they evict the expressions of the
    real pairs, which come again in the next round.

    Args:
        kinds: for each kind of pairs, the pairs of each round.
        cores: the two cores to use.
    """
    ratios = {kind: {"two_over_one": list[float](), "two_processes_over_one": list[float]()} for kind in kinds}
    with Arrangements(cores) as arrangements:
        for number, parts in enumerate(zip(*kinds.values(), strict=True)):
            names = ["single", "pair", "two_processes"]
            names = names[number % 3 :] + names[: number % 3]  # each goes first in turn
            for kind, pairs in zip(kinds, parts, strict=True):
                taken = {name: arrangements.seconds(name, pairs) for name in names}
                if number:
                    ratios[kind]["two_over_one"].append(taken["single"] / taken["pair"])
                    ratios[kind]["two_processes_over_one"].append(taken["single"] / taken["two_processes"])
    return {kind: {name: harness.spread(values) for name, values in of.items()} for kind, of in ratios.items()}


def main() -> None:
    """Measures the speeds and writes the results."""
    given = harness.parse(__doc__, rounds=5, pairs=1_500, algebra_pairs=400)
    drawn = random.Random(0)
    pairs = real_pairs() or [(text, answer) for text, answer, _ in cases()]
    drawn.shuffle(pairs)
    size = min(given.pairs, len(pairs) // given.rounds)
    answers = [(extract_answer(text), answer) for text, answer in pairs[: size * given.rounds]]
    decided = sum(decide_without_algebra(*pair) is not None for pair in answers)
    hard = algebra_pairs(drawn, given.algebra_pairs * given.rounds)
    taken: dict[str, list[float]] = {}
    with GradingPool(1) as pool_1, GradingPool(2) as pool_2:
        runs: dict[str, Callable[[Pairs], object]] = {
            "math_verify": math_verify,
            "grade": lambda pairs: [grade(*pair) for pair in pairs],
            "pool_1": lambda pairs: pool_1.grade(pairs, style="boxed"),
            "pool_2": lambda pairs: pool_2.grade(pairs, style="boxed"),
        }
        warm = [(rf"\boxed{{\sqrt{{{4 * p}}}}}", rf"2\sqrt{{{p}}}") for p in range(2, 12)]
        for run in runs.values():
            run(warm)
        for number in range(given.rounds):
            chunk = pairs[number * size : (number + 1) * size]
            some = hard[number * given.algebra_pairs : (number + 1) * given.algebra_pairs]
            order = list(runs)
            drawn.shuffle(order)
            for name in order:
                taken.setdefault(name, []).append(len(chunk) / seconds(runs[name], chunk))
                taken.setdefault(f"{name}_algebra", []).append(len(some) / seconds(runs[name], some))
    orders = [drawn.sample(pairs, len(pairs)) for _ in range(given.rounds)]
    chunks = [hard[i : i + given.algebra_pairs] for i in range(0, len(hard), given.algebra_pairs)]
    cores = two_cores()
    if not cores:
        print("skipping one core against two: it needs two cores, and a system that can bind a process to a core")
    results = {
        "pairs": size * given.rounds,
        "told_without_algebra": round(decided / (size * given.rounds), 4),
        "per_second": {name: harness.spread(values) for name, values in taken.items()},
        "over_math_verify": {
            name: harness.spread([x / y for x, y in zip(taken[name], taken["math_verify"], strict=True)])
            for name in ("grade", "pool_1", "pool_2")
        },
        "pool_2_over_pool_1": {
            name or "all": harness.spread(
                [x / y for x, y in zip(taken[f"pool_2{name}"], taken[f"pool_1{name}"], strict=True)]
            )
            for name in ("", "_algebra")
        },
        "cores": over_one_core({"all": [warm, *orders], "algebra": [warm, *chunks]}, cores) if cores else None,
    }
    settings = {"rounds": given.rounds, "pairs_per_round": size, "algebra_pairs_per_round": given.algebra_pairs}
    settings |= {"pairs_per_round_of_cores": len(pairs)}
    harness.write(given.output_dir, "grading_throughput", settings, results)


if __name__ == "__main__":
    main()
