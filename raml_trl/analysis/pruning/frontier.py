"""What methods that shorten trajectories give for what they leave: tokens against accuracy, and which are worth it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raml_trl.analysis.pruning.config import WHOLE, Method
from raml_trl.evaluation.intervals import bootstrap_interval, paired_difference
from raml_trl.evaluation.metrics import each_question, pass_at_k
from raml_trl.render.figures import COLOURS, blank_figure, svg
from raml_trl.render.tables import markdown_table

Row = Mapping[str, Any]
"""A trajectory as a method left it: `question_id`, `method`, `setting`, `tokens_after`, `correct`, `leaked`, ..."""


def compare_methods(rows: Sequence[Row], seed: int) -> list[dict[str, Any]]:
    """For each method, in the order in which they come: means over questions of their trajectories, with intervals.

    `tokens` and `accuracy` are `mean`, `low`, `high`; `difference` is that of the accuracy to the whole trajectory's,
    paired by question; `pass@k` has the k that every question has trajectories for; `kept` is the share of all tokens,
    `leaked` that of trajectories, and `accuracy_without_leak` over those that do not hold the answer, None if all do.
    `frontier` marks the methods that no other one beats in tokens without losing in accuracy, or the other way round.

    Args:
        rows: of every method, the same trajectories, and `none` among the methods.
    """
    by_method: dict[Method, list[Row]] = {}
    for row in rows:
        by_method.setdefault(Method(row["method"], row["setting"]), []).append(row)
    rng = np.random.default_rng(seed)
    questions = list(dict.fromkeys(row["question_id"] for row in rows))
    whole = _by_question(by_method[Method(WHOLE)], questions, "correct")
    counts = [len(of_question) for of_question in whole]
    compared = []
    for method, own in by_method.items():
        correct = _by_question(own, questions, "correct")
        tokens = np.array([fmean(values) for values in _by_question(own, questions, "tokens_after")])
        accuracy = np.array([fmean(values) for values in correct])
        passed = each_question(pass_at_k, counts, [round(sum(values)) for values in correct], min(counts))
        sealed = [row["correct"] for row in own if not row["leaked"]]
        one: dict[str, Any] = {
            "name": method.kind,
            "setting": method.setting,
            "tokens": _with_interval(tokens, rng),
            "accuracy": _with_interval(accuracy, rng),
            f"pass@{min(counts)}": _with_interval(passed, rng),
            "difference": asdict(paired_difference([fmean(values) for values in whole], accuracy, rng)),
            "kept": sum(row["tokens_after"] for row in own) / max(1, sum(row["tokens_before"] for row in own)),
            "leaked": fmean(row["leaked"] for row in own),
            "accuracy_without_leak": fmean(sealed) if sealed else None,
            "nll": fmean(row["nll"] for row in own),
            "n": len(own),
        }
        compared.append(one)
    worth = on_frontier([(one["tokens"]["mean"], one["accuracy"]["mean"]) for one in compared])
    for one, flag in zip(compared, worth, strict=True):
        one["frontier"] = flag
    return compared


def on_frontier(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each `(tokens, accuracy)`, whether no other is as short and as accurate, and better in one of the two."""
    flags = {}
    best = -np.inf
    for tokens, accuracy in sorted(set(points), key=lambda point: (point[0], -point[1])):
        flags[tokens, accuracy] = accuracy > best
        best = max(best, accuracy)
    return [flags[point] for point in points]


def frontier_figure(methods: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy against tokens, with both intervals, and in steps the best that so many tokens give."""
    figure, axes = blank_figure(7.2, 3.6)
    edge = sorted((one["tokens"]["mean"], one["accuracy"]["mean"]) for one in methods if one["frontier"])
    axes.plot(*zip(*edge, strict=True), color=COLOURS[-1], linewidth=1, drawstyle="steps-post", alpha=0.6, zorder=1)
    kinds = list(dict.fromkeys(one["name"] for one in methods))
    for place, one in enumerate(methods):
        tokens, accuracy, colour = one["tokens"], one["accuracy"], COLOURS[kinds.index(one["name"]) % len(COLOURS)]
        first = one["name"] not in (other["name"] for other in methods[:place])
        axes.errorbar(
            tokens["mean"],
            accuracy["mean"],
            xerr=[[tokens["mean"] - tokens["low"]], [tokens["high"] - tokens["mean"]]],
            yerr=[[accuracy["mean"] - accuracy["low"]], [accuracy["high"] - accuracy["mean"]]],
            fmt="o",
            markersize=5,
            linewidth=1,
            color=colour,
            label=one["name"] if first else None,
        )
        if one["setting"] is not None:
            above = place % 2 == 0  # neighbours often lie close together
            axes.annotate(
                one["setting"],
                (tokens["mean"], accuracy["mean"]),
                xytext=(3, 12 if above else -18),
                textcoords="offset points",
                fontsize=8,
                color=colour,
            )
    axes.set_xlabel("tokens of thinking", fontsize=8)
    axes.set_ylabel("accuracy", fontsize=8)
    axes.set_ylim(-0.1, 1.1)
    axes.legend(frameon=False, fontsize=8, ncols=len(kinds), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return svg(figure)


def methods_table(methods: Sequence[Mapping[str, Any]]) -> str:
    """A row for each method, as Markdown."""
    rows = [["method", "tokens", "kept", "accuracy", "difference to none", "p", "leaked", "frontier"]]
    for one in methods:
        accuracy, difference = one["accuracy"], one["difference"]
        rows.append(
            [
                Method(one["name"], one["setting"]).name,
                f"{one['tokens']['mean']:.1f}",
                f"{one['kept']:.0%}",
                f"{accuracy['mean']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]",
                f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]",
                f"{difference['p_value']:.4f}",
                f"{one['leaked']:.1%}",
                "yes" if one["frontier"] else "no",
            ]
        )
    return markdown_table(rows)


def _by_question(rows: Sequence[Row], questions: Sequence[str], column: str) -> list[list[float]]:
    """The values of a column for each question."""
    values: dict[str, list[float]] = {question: [] for question in questions}
    for row in rows:
        values[row["question_id"]].append(float(row[column]))
    return list(values.values())


def _with_interval(values: NDArray[np.float64], rng: np.random.Generator) -> dict[str, float]:
    low, high = bootstrap_interval(values, rng)
    return {"mean": float(values.mean()), "low": low, "high": high}
