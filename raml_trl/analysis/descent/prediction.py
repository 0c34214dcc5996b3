"""Measures how well the loss L of the answer, partway through the thinking, predicts that a trajectory will be right.

L is the loss of the reference answer after the trajectory up to this place, in nats (see `curves`). The measure is the
AUC: the probability that, of a right and a wrong trajectory, the right one has the smaller L at the same fraction of
its thinking; 0.5 is chance. The AUC is computed over all pairs, and again over the pairs of the same question only,
because a difference between easy and hard questions says nothing about the trajectory. A trajectory is left out at a
place if its text up to there already states (contains) the answer.

"LLM Reasoning as Trajectories" reports an AUC of .87 halfway through the thinking, for a classifier that reads hidden
states instead of L.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raml_trl.analysis.descent.curves import Curve, Floats
from raml_trl.evaluation.intervals import MeanInterval, mean_interval
from raml_trl.render.tables import bounded, markdown_table

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the prediction is made, as fractions of the length of the thinking."""


@dataclass(frozen=True)
class Prediction:
    """How well the loss L of the answer, at one place of the thinking, predicts which trajectories are right.

    - `share`: the place, as a fraction of the length of the thinking.
    - `right`, `wrong`: the numbers of right and of wrong trajectories that are compared.
    - `left_out`: the number of trajectories that are left out, because they already state the answer.
    - `auc`: the AUC over all pairs of a right and a wrong trajectory; None if there is no such pair.
    - `questions`: the number of questions with both right and wrong trajectories among those compared.
    - `auc_within`: the mean over these questions of the AUC over the pairs of one question; None without such a
      question.
    """

    share: float
    right: int
    wrong: int
    left_out: int
    questions: int
    auc: float | None
    auc_within: MeanInterval | None


def predict_correctness(curves: Sequence[Curve], rng: np.random.Generator) -> list[Prediction]:
    """Return a `Prediction` at the start, each quarter and the end of the thinking (`PLACES`).

    Only the trajectories of `curves` that were sampled with thinking are used.

    `rng` draws the resamples for the bootstrap intervals.
    """
    thinking = [curve for curve in curves if curve.mode == "thinking"]
    return [_predict(thinking, share, rng) for share in PLACES]


def prediction_table(predictions: Sequence[Prediction]) -> str:
    """Format the predictions as a Markdown table, one row for each place of the thinking."""
    rows = [["share of the thinking", "AUC, pairs of one question", "AUC, all pairs", "right", "wrong", "left out"]]
    for row in predictions:
        within = row.auc_within
        rows.append(
            [
                f"{row.share:g}",
                "-" if within is None else bounded(within.mean, within.low, within.high),
                "-" if row.auc is None else f"{row.auc:.3f}",
                *(f"{number:,}" for number in (row.right, row.wrong, row.left_out)),
            ]
        )
    return markdown_table(rows)


def auc(right: Floats, wrong: Floats) -> float:
    """Return the share of pairs in which the right trajectory has the smaller loss; equal losses count half.

    `right` and `wrong` hold the loss of the answer in each right and in each wrong trajectory. Every right trajectory
    is paired with every wrong one.
    """
    differences = wrong[None, :] - right[:, None]
    return float((np.sign(differences).mean() + 1) / 2)


def _predict(curves: Sequence[Curve], share: float, rng: np.random.Generator) -> Prediction:
    values: dict[str, dict[bool, list[float]]] = {}
    counts = {True: 0, False: 0}
    for curve in curves:
        place = curve.start + round(share * (curve.end - curve.start))
        if place <= curve.last:
            values.setdefault(curve.question_id, {True: [], False: []})[curve.correct].append(float(curve.nll[place]))
            counts[curve.correct] += 1
    everything = {kind: np.array([value for own in values.values() for value in own[kind]]) for kind in (True, False)}
    both = [{kind: np.array(of) for kind, of in own.items()} for own in values.values() if own[True] and own[False]]
    return Prediction(
        share,
        counts[True],
        counts[False],
        left_out=len(curves) - sum(counts.values()),
        questions=len(both),
        auc=auc(everything[True], everything[False]) if all(counts.values()) else None,
        auc_within=mean_interval([auc(own[True], own[False]) for own in both], rng) if both else None,
    )
