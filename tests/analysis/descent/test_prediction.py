"""The likelihood partway through a trajectory predicts correctness as well as an enumeration of pairs says."""

from itertools import product

import numpy as np
import pytest

from raml_trl.analysis.descent.curves import Curve
from raml_trl.analysis.descent.prediction import PLACES, auc, predict_correctness


def curve(question: str, correct: bool, nll: list[float], stated: int | None = None) -> Curve:
    return Curve(question, 0, correct, "thinking", np.array(nll), start=1, end=len(nll) - 2, stated=stated)


def test_auc_is_a_share_of_pairs(rng: np.random.Generator) -> None:
    right, wrong = rng.integers(0, 5, size=7).astype(float), rng.integers(0, 5, size=9).astype(float)
    wins = [(a < b) + 0.5 * (a == b) for a, b in product(right, wrong)]
    assert auc(right, wrong) == pytest.approx(np.mean(wins))
    assert auc(np.zeros(2), np.ones(3)) == 1


def test_questions_are_compared_apart() -> None:
    """Within each question L says nothing, but the question with more right trajectories has the smaller L."""
    easy = [curve("easy", correct, [9.0, 1.0, 1.0, 1.0, 9.0]) for correct in (True, True, True, False)]
    hard = [curve("hard", correct, [9.0, 3.0, 3.0, 3.0, 9.0]) for correct in (True, False, False, False)]
    for row in predict_correctness([*easy, *hard], np.random.default_rng(0)):
        assert row.auc == pytest.approx((3 * 3 + 0.5 * (3 * 1 + 1 * 3)) / 16)
        assert row.auc_within is not None
        assert row.auc_within.mean == 0.5
        assert (row.right, row.wrong, row.left_out, row.questions) == (4, 4, 0, 2)


def test_the_place_is_within_the_thinking_and_before_the_answer() -> None:
    curves = [
        curve("q", True, [0.0, 5.0, 5.0, 1.0, 5.0, 5.0, 0.0], stated=None),
        curve("q", False, [0.0, 5.0, 5.0, 2.0, 5.0, 5.0, 0.0], stated=4),
    ]
    rows = {row.share: row for row in predict_correctness(curves, np.random.default_rng(0))}
    assert tuple(rows) == PLACES
    assert rows[0.5].auc == 1
    assert rows[0.0].auc == 0.5
    assert (rows[1.0].auc, rows[1.0].auc_within, rows[1.0].left_out) == (None, None, 1)
