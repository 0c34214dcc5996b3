"""Compares pruning methods by tokens and accuracy, and finds the frontier: the methods that no other method beats."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

import numpy as np

from raml_trl.analysis.pruning.answers import MethodOutcome
from raml_trl.analysis.pruning.config import WHOLE, Method
from raml_trl.evaluation.intervals import Difference, MeanInterval, mean_interval, paired_difference
from raml_trl.evaluation.metrics import each_question, pass_at_k
from raml_trl.render.figures import COLOURS, blank_figure, svg
from raml_trl.render.tables import bounded, markdown_table, p_value


@dataclass(frozen=True)
class MethodSummary:
    """Results of a method over `n` trajectories.

    Averages over the trajectories of each question, then over questions:

    - `tokens`: tokens of thinking that the method keeps.
    - `accuracy`: share of correct answers.
    - `difference`: accuracy minus the accuracy of the complete trajectories, paired by question.
    - `pass_at_k`: Pass@k for the largest `k` for which every question has enough trajectories.

    Over all trajectories at once:

    - `kept`: number of tokens of thinking that the method keeps, divided by the number before shortening.
    - `leaked`: share of shortened trajectories that state (contain) the answer.
    - `accuracy_without_leak`: accuracy over trajectories that do not state the answer; None if all state it.
    - `nll`: mean loss of the reference answer, in nats per token.

    A method is on the `frontier` if it is not beaten. Another method beats it by keeping fewer tokens with no lower
    accuracy, or by a higher accuracy with no more tokens.
    """

    name: str
    setting: str | None
    tokens: MeanInterval
    accuracy: MeanInterval
    k: int
    pass_at_k: MeanInterval
    difference: Difference
    kept: float
    leaked: float
    accuracy_without_leak: float | None
    nll: float
    n: int
    frontier: bool = False

    def as_json(self) -> dict[str, object]:
        """Convert to JSON. The name of Pass@k contains the number k, such as `pass@4`."""
        content = {(f"pass@{self.k}" if name == "pass_at_k" else name): value for name, value in asdict(self).items()}
        del content["k"]
        return content


def compare_methods(rows: Sequence[MethodOutcome], seed: int) -> list[MethodSummary]:
    """Return a summary of every method, in the order in which the methods first appear in `rows`.

    Args:
        rows: outcomes of every method on the same trajectories. The methods must include `none`.
        seed: seed of the bootstrap and of the paired test.
    """
    by_method: dict[Method, list[MethodOutcome]] = {}
    for row in rows:
        by_method.setdefault(Method(row.method, row.setting), []).append(row)
    rng = np.random.default_rng(seed)
    questions = list(dict.fromkeys(row.question_id for row in rows))
    whole = _by_question(by_method[Method(WHOLE)], questions)
    counts = [len(own) for own in whole]
    whole_accuracy = [fmean(row.correct for row in own) for own in whole]
    summaries = []
    for method, outcomes in by_method.items():
        by_question = _by_question(outcomes, questions)
        tokens = np.array([fmean(row.tokens_after for row in own) for own in by_question])
        accuracy = np.array([fmean(row.correct for row in own) for own in by_question])
        passed = each_question(pass_at_k, counts, [sum(row.correct for row in own) for own in by_question], min(counts))
        sealed = [row.correct for row in outcomes if not row.leaked]
        summary = MethodSummary(  # the arguments share one random generator, so their order affects the intervals
            name=method.kind,
            setting=method.setting,
            tokens=mean_interval(tokens, rng),
            accuracy=mean_interval(accuracy, rng),
            k=min(counts),
            pass_at_k=mean_interval(passed, rng),
            difference=paired_difference(whole_accuracy, accuracy, rng),
            kept=sum(row.tokens_after for row in outcomes) / max(1, sum(row.tokens_before for row in outcomes)),
            leaked=fmean(row.leaked for row in outcomes),
            accuracy_without_leak=fmean(sealed) if sealed else None,
            nll=fmean(row.nll for row in outcomes),
            n=len(outcomes),
        )
        summaries.append(summary)
    flags = on_frontier([(summary.tokens.mean, summary.accuracy.mean) for summary in summaries])
    return [replace(summary, frontier=flag) for summary, flag in zip(summaries, flags, strict=True)]


def on_frontier(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each point `(tokens, accuracy)` whether no other point beats it.

    A point beats another by fewer tokens with no lower accuracy, or by a higher accuracy with no more tokens.
    """
    flags = {}
    best = -np.inf
    for tokens, accuracy in sorted(set(points), key=lambda point: (point[0], -point[1])):
        flags[tokens, accuracy] = accuracy > best
        best = max(best, accuracy)
    return [flags[point] for point in points]


def frontier_figure(methods: Sequence[MethodSummary]) -> str:
    """Draw the accuracy of every method against its tokens, with intervals of both, and the frontier as steps."""
    figure, axes = blank_figure(7.2, 3.6)
    edge = sorted((row.tokens.mean, row.accuracy.mean) for row in methods if row.frontier)
    axes.plot(*zip(*edge, strict=True), color=COLOURS[-1], linewidth=1, drawstyle="steps-post", alpha=0.6, zorder=1)
    kinds = list(dict.fromkeys(row.name for row in methods))
    for place, row in enumerate(methods):
        tokens, accuracy, colour = row.tokens, row.accuracy, COLOURS[kinds.index(row.name) % len(COLOURS)]
        first = row.name not in (other.name for other in methods[:place])
        axes.errorbar(
            tokens.mean,
            accuracy.mean,
            xerr=[[tokens.mean - tokens.low], [tokens.high - tokens.mean]],
            yerr=[[accuracy.mean - accuracy.low], [accuracy.high - accuracy.mean]],
            fmt="o",
            markersize=5,
            linewidth=1,
            color=colour,
            label=row.name if first else None,
        )
        if row.setting is not None:
            above = place % 2 == 0  # alternate, because neighbours often lie close together
            axes.annotate(
                row.setting,
                (tokens.mean, accuracy.mean),
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


def methods_table(methods: Sequence[MethodSummary]) -> str:
    """Format the methods as a Markdown table, one row each."""
    rows = [["method", "tokens", "kept", "accuracy", "difference to none", "p", "leaked", "frontier"]]
    for row in methods:
        accuracy, difference = row.accuracy, row.difference
        rows.append(
            [
                Method(row.name, row.setting).name,
                f"{row.tokens.mean:.1f}",
                f"{row.kept:.0%}",
                bounded(accuracy.mean, accuracy.low, accuracy.high),
                bounded(difference.mean, difference.low, difference.high, signed=True),
                p_value(difference.p_value, 4),
                f"{row.leaked:.1%}",
                "yes" if row.frontier else "no",
            ]
        )
    return markdown_table(rows)


def _by_question(rows: Sequence[MethodOutcome], questions: Sequence[str]) -> list[list[MethodOutcome]]:
    """Group rows by question, in the order of `questions`."""
    groups: dict[str, list[MethodOutcome]] = {question: [] for question in questions}
    for row in rows:
        groups[row.question_id].append(row)
    return list(groups.values())
