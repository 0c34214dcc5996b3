"""Results of `pseudo_gradient`: its summary, figures and page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from raml_trl.analysis.descent.curves import Band, GroupDescent, ModeSummary, bands
from raml_trl.analysis.descent.measure import MeasuredTrajectory
from raml_trl.analysis.descent.prediction import Prediction
from raml_trl.analysis.descent.token_effects import GroupEffect
from raml_trl.render.figures import COLOURS, INK, dress, smooth, svg
from raml_trl.render.html import write_page
from raml_trl.runtime.files import whole_file

_WINDOWS = 100
_NAMES = {"thinking": "thinking", "no_thinking": "no thinking"}


@dataclass(frozen=True)
class Summary:
    """Content of `pseudo_gradient.json`. It depends only on the model name, the curves, `window` and the seed.

    `window` is the number of tokens over which the effect of a token is measured.
    """

    model: str
    modes: dict[str, ModeSummary]
    descent: list[GroupDescent]
    descent_by_sentence: list[GroupDescent]
    token_effects: list[GroupEffect]
    window: int
    prediction: list[Prediction]

    def as_json(self) -> dict[str, object]:
        """Convert to JSON. The means of a group are omitted if descent was measured in none of its trajectories."""
        rows = {"descent": self.descent, "descent_by_sentence": self.descent_by_sentence}
        return asdict(self) | {name: list(map(_descent_json, own)) for name, own in rows.items()}


def write_figures_and_page(
    directory: Path, rows: Sequence[MeasuredTrajectory], summary: Summary, *, num_shown: int
) -> None:
    """Write the figures, and `page.html`, which shows up to `num_shown` of the trajectories."""
    curves = [row.curve for row in rows]
    along = [band for axis in ("share", "tokens") for band in bands(curves, axis)]
    figures = {
        "curves.svg": bands_figure(along),
        "token_effects.svg": effects_figure(summary.token_effects),
        "prediction.svg": prediction_figure(summary.prediction),
    }
    for name, figure in figures.items():
        with whole_file(directory / name) as partial:
            partial.write_text(figure, encoding="utf-8")
    content = {
        "title": "Pseudo gradient descent: the likelihood of the answer along trajectories",
        "lead": "How unlikely the model finds the reference answer after every token of a trajectory: the mean of "
        "-log p over the answer's tokens, in nats. Where the answer already stands in the text, it can be copied.",
        "trajectories": [_page_row(row) for row in choose_shown(rows, num_shown)],
        "measured": len(rows),
        "bands": [asdict(band) for band in along],
        "descent": [
            {**_descent_json(row), "after": unit}
            for unit, own in (("token", summary.descent), ("sentence", summary.descent_by_sentence))
            for row in own
        ],
    }
    write_page(directory / "page.html", "pseudo_gradient", summary.as_json() | content)


def choose_shown(rows: Sequence[MeasuredTrajectory], number: int) -> list[MeasuredTrajectory]:
    """Choose up to `number` trajectories to show on the page, and return them sorted by question.

    There are up to four groups: right and wrong trajectories, each with and without thinking. The groups take turns:
    in each turn, a group contributes its next trajectory in the order of the questions. Trajectories without any text
    are not chosen.
    """
    groups: dict[tuple[str, bool], list[MeasuredTrajectory]] = {}
    written = [row for row in rows if row.ends]
    for row in sorted(written, key=lambda row: (row.question_id, row.number)):
        groups.setdefault((row.mode, row.correct), []).append(row)
    longest = max(map(len, groups.values()), default=0)
    in_turn = [group[place] for place in range(longest) for group in groups.values() if place < len(group)]
    return sorted(in_turn[:number], key=lambda row: (row.question_id, row.mode != "thinking", row.number))


def bands_figure(bands: Sequence[Band]) -> str:
    """Draw mean and quantiles of the loss of the answer: once against tokens, once against shares of the thinking.

    The mean is drawn as a moving average over a hundredth of the points of the axis. With fewer than 200 points, it is
    not smoothed.

    Args:
        bands: result of `curves.bands`, for both axes.
    """
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    titles = {"tokens": "tokens of thinking", "share": "share of the thinking"}
    for axes, (axis, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        dress(axes)
        for band, colour in zip([band for band in bands if band.axis == axis], COLOURS, strict=False):
            name = f"{_NAMES[band.mode]}, {'right' if band.correct else 'wrong'}"
            axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.15, linewidth=0)
            mean = smooth(band.mean, max(1, len(band.x) // _WINDOWS))
            axes.plot(band.x, mean, color=colour, linewidth=1.6, label=name)
        axes.set_xlabel(title, fontsize=8)
        axes.set_ylim(bottom=0)
    first = figure.axes[0]
    first.set_title("-log p(answer), nats per token", fontsize=9, loc="left", color=INK)
    figure.axes[1].legend(frameon=False, fontsize=8)
    return svg(figure)


def effects_figure(rows: Sequence[GroupEffect]) -> str:
    """Draw the median effect of every group of tokens with its interval, the largest median at the top.

    The effect of a token is |change of log L|, where L is the loss of the answer.

    Args:
        rows: result of `token_effects.compare_groups`.
    """
    figure = Figure(figsize=(7.2, 0.8 + 0.3 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e6e8ec", linewidth=0.8)
    for place, row in enumerate(reversed(rows)):
        significant = row.p is not None and row.p < 0.05
        axes.plot([row.low, row.high], [place, place], color=INK, linewidth=1)
        axes.plot(row.median, place, "o", color=COLOURS[0] if significant else COLOURS[5], markersize=5)
    axes.set_yticks(range(len(rows)), [f"{row.group} ({row.n:,})" for row in reversed(rows)])
    axes.set_title("|change of log L|, median; blue where p < .05", fontsize=9, loc="left", color=INK)
    return svg(figure)


def prediction_figure(rows: Sequence[Prediction]) -> str:
    """Draw how well the loss L of the answer predicts, at each place of the thinking, which trajectories are right.

    Args:
        rows: result of `prediction.predict_correctness`.
    """
    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    overall = [(row.share, row.auc) for row in rows if row.auc is not None]
    axes.plot([share for share, _ in overall], [auc for _, auc in overall], color=COLOURS[0], label="all pairs")
    within = [(row.share, row.auc_within) for row in rows if row.auc_within is not None]
    shares = [share for share, _ in within]
    axes.fill_between(
        shares, [own.low for _, own in within], [own.high for _, own in within], color=COLOURS[1], alpha=0.15
    )
    axes.plot(shares, [own.mean for _, own in within], color=COLOURS[1], label="pairs of the same question")
    axes.set_xlabel("share of the thinking", fontsize=8)
    axes.set_title("AUC of L for a right trajectory; dotted: chance", fontsize=9, loc="left", color=INK)
    axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def _descent_json(row: GroupDescent) -> dict[str, object]:
    return {name: value for name, value in asdict(row).items() if value is not None}


def _page_row(row: MeasuredTrajectory) -> dict[str, object]:
    return {
        "question": row.question,
        "answer": row.answer,
        "number": row.number,
        "correct": row.correct,
        "mode": row.mode,
        "nll": row.nll,
        "stated": row.stated,
        "tokens": row.tokens,
        "thinking_end": row.end if row.mode == "thinking" and row.end < len(row.ends) else None,
    }
