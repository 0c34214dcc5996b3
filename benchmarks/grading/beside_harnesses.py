r"""Compares our metrics with those of lighteval or OpenCompass, on the same counts and the same samples.

    /path/to/lighteval_env/bin/python -m benchmarks.grading.beside_harnesses --harness lighteval
    /path/to/opencompass_env/bin/python -m benchmarks.grading.beside_harnesses --harness opencompass

Runs in the environment of the other harness, where this package cannot be installed (docs/other_harnesses.md). The
script needs numpy, pyarrow and matplotlib, and imports only those modules of this package that need nothing else. It
writes `beside_HARNESS.json` and `beside_HARNESS.svg` to `results/`.

The arguments n, c, k and tau mean the same as in `raml_trl.evaluation.metrics`: samples, correct samples, samples in a
draw, and threshold.
"""

import argparse
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
from matplotlib.ticker import FixedLocator

from raml_trl.evaluation.metrics import each_question, g_pass_at_k, mg_pass_at_k, pass_at_k
from raml_trl.evaluation.voting import majority_at_k
from raml_trl.render.figures import COLOURS, blank_figure, svg

RESULTS = Path(__file__).parents[1] / "results"
NS = (4, 8, 16, 32, 64)
KS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64)
TAUS = tuple(f"{percent / 100:.2f}" for percent in range(0, 101, 5))
HUNDREDTHS = tuple(f"{percent / 100:.2f}" for percent in range(101))
METRICS = {"pass": pass_at_k, "g_pass": g_pass_at_k, "mg_pass": mg_pass_at_k}


class Harness(Protocol):
    """The metrics of a harness, under the names of our metrics."""

    def pass_at_k(self, n: int, c: int, k: int) -> float: ...

    def g_pass_at_k(self, n: int, c: int, k: int, tau: str) -> float: ...

    def mg_pass_at_k(self, n: int, c: int, k: int) -> float: ...


class Lighteval:
    """Calls `compute` of lighteval's metrics on n texts of which c equal the reference answer."""

    packages = ("lighteval", "numpy", "scipy")

    def __init__(self) -> None:
        from lighteval.metrics import metrics_sample
        from lighteval.models.model_output import ModelResponse
        from lighteval.tasks.requests import Doc

        self.metrics, self.response, self.doc = metrics_sample, ModelResponse, Doc

    def compute(self, metric: Any, texts: list[str], answer: str) -> Any:
        return metric.compute(self.doc(query="", choices=[answer], gold_index=0), self.response(text=texts))

    def pass_at_k(self, n: int, c: int, k: int) -> float:
        return float(self.compute(self.metrics.PassAtK(k=k, n=n), ["right"] * c + ["wrong"] * (n - c), "right"))

    def _grouped(self, n: int, c: int, k: int, taus: list[float]) -> dict[str, float]:
        metric = self.metrics.GPassAtK(k=k, n=n, thresholds=taus)
        return self.compute(metric, ["right"] * c + ["wrong"] * (n - c), "right")

    def g_pass_at_k(self, n: int, c: int, k: int, tau: str) -> float:
        return float(self._grouped(n, c, k, [float(tau)])[f"g-pass@{k}_{float(tau)}"])

    def mg_pass_at_k(self, n: int, c: int, k: int) -> float:
        return float(self._grouped(n, c, k, [])[f"mg-pass@{k}"])

    def majority(self, answers: list[str], answer: str) -> float:
        """Returns 1 if the majority vote of `answers` is the reference `answer`, and 0 otherwise."""
        return float(self.compute(self.metrics.MajAtN(n=len(answers)), answers, answer))


class OpenCompass:
    """Calls the functions of OpenCompass's evaluators."""

    packages = ("opencompass", "numpy", "scipy")

    def __init__(self) -> None:
        from opencompass.openicl.icl_evaluator import icl_base_evaluator

        self.pass_at_k: Callable[..., float] = icl_base_evaluator.compute_pass_at_k
        self.mg_pass_at_k: Callable[..., float] = icl_base_evaluator.compute_mg_pass_at_k
        self._g_pass_at_k = icl_base_evaluator.compute_g_pass_at_k

    def g_pass_at_k(self, n: int, c: int, k: int, tau: str) -> float:
        return float(self._g_pass_at_k(n, c, k, float(tau)))


HARNESSES: dict[str, type[Lighteval] | type[OpenCompass]] = {"lighteval": Lighteval, "opencompass": OpenCompass}


def cases() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yields the name of a metric and its arguments for every point of the grid."""
    for n in NS:
        for k in (k for k in KS if k <= n):
            for c in range(n + 1):
                yield "pass", (n, c, k)
                if k % 2 == 0:
                    yield "mg_pass", (n, c, k)
                for tau in TAUS:
                    yield "g_pass", (n, c, k, tau)


def on_grid(harness: Harness) -> dict[str, dict[str, float]]:
    """Returns, for each metric, the number of grid points and the greatest difference between harness and ours."""
    results = {name: {"cases": 0, "greatest_difference": 0.0} for name in METRICS}
    for name, case in cases():
        difference = abs(METRICS[name](*case) - getattr(harness, f"{name}_at_k")(*case))
        results[name]["cases"] += 1
        results[name]["greatest_difference"] = max(results[name]["greatest_difference"], float(difference))
    return results


def departures(harness: Harness) -> dict[str, Any]:
    """Returns the cases in which the metrics of the harness differ from ours, with the results of the harness."""
    exactly = {(k, tau): max(-(-k * int(tau.replace(".", "")) // 100), 1) for k in range(1, 65) for tau in HUNDREDTHS}
    rounded = [
        {"k": k, "tau": tau, "needed": needed, "ours": g_pass_at_k(k, needed, k, tau), "theirs": theirs}
        for (k, tau), needed in exactly.items()
        if (theirs := float(harness.g_pass_at_k(k, needed, k, tau))) != 1
    ]
    return {
        "thresholds rounded up by floating point": rounded,
        "mG-Pass@k of a perfect model, odd k (ours: refused)": {k: harness.mg_pass_at_k(8, 8, k) for k in (1, 3, 5)},
        "Pass@8 of four wrong samples (ours: refused)": float(harness.pass_at_k(4, 0, 8)),
        "G-Pass@8 of four right samples (ours: refused)": float(harness.g_pass_at_k(4, 4, 8, "0.50")),
    }  # fmt: skip


def on_samples(harness: Harness, n: list[int], correct: list[int], ks: tuple[int, ...]) -> dict[str, Any]:
    """Compares the metrics on an evaluation whose questions have `n` samples, of which `correct` are correct.

    Returns for each metric the mean over questions, ours and theirs, and the greatest difference on one question.
    """
    metrics = [("pass", (k,)) for k in ks] + [("mg_pass", (k,)) for k in ks if k % 2 == 0]
    metrics += [("g_pass", (k, tau)) for k in ks for tau in TAUS]
    results = {}
    for name, settings in metrics:
        ours = each_question(METRICS[name], n, correct, *settings)
        theirs = each_question(getattr(harness, f"{name}_at_k"), n, correct, *settings)
        results[f"{name}@{'_'.join(map(str, settings))}"] = {
            "ours": float(ours.mean()),
            "theirs": float(theirs.mean()),
            "greatest_difference": float(np.abs(ours - theirs).max()),
        }
    return results


def on_votes(harness: Lighteval, texts: dict[str, list[str]], correct: dict[str, list[bool]]) -> dict[str, Any]:
    """Compares the majority vote of all samples of each question.

    Skips questions with a tie, because lighteval then chooses the first answer, and our metric shares the vote.
    """
    results: dict[str, Any] = {"questions": len(texts), "ties": 0, "greatest_difference_without_tie": 0.0}
    for question, written in texts.items():
        answers = [text.rpartition("\\boxed{")[2].partition("}")[0] for text in written]
        right = {answer for answer, good in zip(answers, correct[question], strict=True) if good}
        counts = Counter(answers)
        answer = right.pop() if right else "none of them"
        index = list(counts).index(answer) if answer in counts else None
        ours = majority_at_k(list(counts.values()), index, len(answers))
        if Counter(counts.values())[max(counts.values())] > 1:
            results["ties"] += 1
            continue
        difference = abs(ours - harness.majority(answers, answer))
        results["greatest_difference_without_tie"] = max(results["greatest_difference_without_tie"], difference)
    return results


def gather(path: Path) -> tuple[dict[str, list[str]], dict[str, list[bool]]]:
    """Returns the texts of the samples of each question, and whether each sample is correct. Both are by question."""
    rows = pq.read_table(path, columns=["question_id", "text", "correct"]).to_pylist()
    texts: dict[str, list[str]] = {}
    correct: dict[str, list[bool]] = {}
    for row in rows:
        texts.setdefault(row["question_id"], []).append(row["text"])
        correct.setdefault(row["question_id"], []).append(row["correct"])
    return texts, correct


def agreement_figure(
    harness: str, results: dict[str, Any], n: list[int], correct: list[int], ks: tuple[int, ...]
) -> str:
    """Draws G-Pass@k against the threshold tau: ours as lines, theirs as crosses.

    The lines have steps where tau k is an integer.
    """
    figure, axes = blank_figure(5.2, 3.2)
    for k, colour in zip(ks, COLOURS, strict=False):
        steps = [Fraction(needed, k) for needed in range(k + 1)]
        ours = [each_question(g_pass_at_k, n, correct, k, tau).mean() for tau in steps]
        axes.plot(list(map(float, steps)), ours, color=colour, linewidth=1.4, label=f"k = {k}", drawstyle="steps-pre")
        theirs = [results[f"g_pass@{k}_{tau}"]["theirs"] for tau in TAUS]
        axes.plot(list(map(float, TAUS)), theirs, "x", color=colour, markersize=5)
    axes.set_title(f"G-Pass@k of one evaluation: lines ours, crosses {harness}'s", fontsize=9, loc="left")
    axes.set_xlabel("threshold τ", fontsize=8)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.set_ylim(0, 1.03)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    return svg(figure)


def main() -> None:
    """Compares the metrics, writes the results and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harness", choices=tuple(HARNESSES), required=True)
    parser.add_argument("--samples", type=Path, default=Path("runs/demo/eval_grpo/samples.parquet"))
    parser.add_argument("--output_dir", type=Path, default=RESULTS)
    given = parser.parse_args()
    harness = HARNESSES[given.harness]()
    texts, correct = gather(given.samples)
    n, c = [len(grades) for grades in correct.values()], [sum(grades) for grades in correct.values()]
    ks = tuple(k for k in (2, 4, 8, 16) if k <= min(n))
    samples = on_samples(harness, n, c, ks)
    results: dict[str, Any] = {
        "grid": on_grid(harness),
        "samples": samples,
        "greatest_difference": 0.0,
        "departures": departures(harness),
    }
    compared = [*results["grid"].values(), *samples.values()]
    results["greatest_difference"] = max(comparison["greatest_difference"] for comparison in compared)
    if isinstance(harness, Lighteval):
        results["votes"] = on_votes(harness, texts, correct)
    record = {
        "settings": {
            "harness": given.harness,
            "samples": given.samples.as_posix(),
            "grid": {"n": NS, "k": KS, "tau": TAUS},
            "questions": len(n),
            "samples_per_question": sorted(set(n)),
        },
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "versions": {name: version(name) for name in harness.packages},
        },
        "results": results,
    }
    given.output_dir.mkdir(parents=True, exist_ok=True)
    name = f"beside_{given.harness}"
    (given.output_dir / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (given.output_dir / f"{name}.svg").write_text(agreement_figure(given.harness, samples, n, c, ks), encoding="utf-8")
    print(json.dumps({key: value for key, value in results.items() if key != "samples"}, indent=1))


if __name__ == "__main__":
    main()
