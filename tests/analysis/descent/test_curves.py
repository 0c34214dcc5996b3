"""Curves of the loss of the answer along trajectories: where the thinking is, how far they descend, and averages."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raml_trl.analysis.descent.curves import Curve, bands, descent, summarise_descent, summarise_modes
from raml_trl.evaluation.intervals import MeanInterval


def curve(nll: list[float], question: str = "q", **named: Any) -> Curve:
    settings = {"number": 0, "correct": True, "mode": "thinking", "start": 0, "end": len(nll) - 1, "stated": None}
    return Curve(question_id=question, nll=np.array(nll), **settings | named)


def test_thinking_and_its_part_before_the_answer_is_stated() -> None:
    thought = curve([9.0, 5, 4, 3, 2, 1, 0], start=1, end=5, stated=4)
    assert thought.thinking.tolist() == [5, 4, 3, 2, 1]
    assert thought.unstated.tolist() == [5, 4, 3]  # stated after four tokens
    assert curve([9.0, 5, 4, 3, 2, 1, 0], start=1, end=3, stated=6).unstated.tolist() == [5, 4, 3]
    assert len(curve([9.0, 5, 4], start=2, end=2, stated=1).unstated) == 0


def test_descent_after_sentences() -> None:
    thought = curve([9.0, 5, 8, 3, 7, 1, 0], start=1, end=5, stated=6, sentences=(3, 5))
    assert thought.unstated_sentences.tolist() == [5, 3, 1]
    assert replace(thought, stated=5).unstated_sentences.tolist() == [5, 3]
    [row] = summarise_descent([thought], np.random.default_rng(0), by_sentence=True)
    assert row.slope.mean == pytest.approx(-4)
    [left_out] = summarise_descent([curve([2.0, 1.0])], np.random.default_rng(0), by_sentence=True)
    assert left_out.left_out == 1  # without a sentence, L has a single value


@given(st.lists(st.floats(0, 20), min_size=2, max_size=30))
def test_the_slope_is_that_of_least_squares(values: list[float]) -> None:
    measured = descent(np.array(values))
    assert measured is not None
    slope, _ = np.polyfit(np.linspace(0, 1, len(values)), values, 1)
    assert measured.slope == pytest.approx(slope, abs=1e-8)
    assert measured.change == values[-1] - values[0]
    assert measured.area == pytest.approx(np.mean(values) - values[0])


def test_descent_needs_two_places() -> None:
    assert descent(np.array([3.0])) is None
    assert descent(np.array([])) is None


def test_every_question_counts_once_whatever_its_number_of_trajectories() -> None:
    falls, rises = [2.0, 1.0], [1.0, 2.0]
    curves = [curve(falls, "a"), curve(rises, "b"), curve(rises, "b"), curve(rises, "b")]
    curves += [curve([1.0, 0.0], "c", stated=1), curve(rises, "d", correct=False)]
    right, wrong = summarise_descent(curves, np.random.default_rng(0))
    assert (right.trajectories, right.left_out, right.questions) == (4, 1, 2)
    assert right.slope.mean == pytest.approx(0)
    assert right.share == MeanInterval(0.5, 0.0, 1.0)
    assert (wrong.correct, wrong.share.mean, wrong.change.mean) == (False, 0.0, 1.0)


def test_trajectories_without_descent_are_counted_as_left_out() -> None:
    [row] = summarise_descent([curve([1.0, 0.0], stated=1)], np.random.default_rng(0))
    assert (row.trajectories, row.left_out) == (0, 1)
    assert row.slope is None


def test_bands_over_tokens_count_trajectories_that_are_long_enough() -> None:
    [band] = bands([curve([4.0, 2.0, 1.0]), curve([6.0, 2.0]), curve([5.0, 9.0, 7.0], start=1)], "tokens")
    assert band.x == [0, 1, 2]
    assert band.count == [3, 3, 1]
    assert band.mean == pytest.approx([(4 + 6 + 9) / 3, (2 + 2 + 7) / 3, 1.0])
    assert band.low[0] == pytest.approx(np.quantile([4, 6, 9], 0.1))
    assert band.high[0] == pytest.approx(np.quantile([4, 6, 9], 0.9))


def test_bands_over_shares_interpolate_between_tokens() -> None:
    curves = [curve([4.0, 2.0, 1.0]), curve([6.0, 2.0]), curve([3.0], correct=False)]
    right, wrong = bands(curves, "share")
    assert right.count == [2] * 101
    assert right.mean[50] == pytest.approx((2 + 4) / 2)
    assert right.mean[25] == pytest.approx((3 + 5) / 2)
    assert (right.mean[0], right.mean[100]) == (5, 1.5)
    assert wrong.mean == [3.0] * 101


def test_summary_of_modes() -> None:
    curves = [curve([3.0, 1.0], "a"), curve([5.0, 1.0, 2.0], "a", correct=False), curve([7.0, 1.0], "b")]
    curves += [curve([9.0], "a", mode="no_thinking")]
    summary = summarise_modes(curves, np.random.default_rng(0))
    thinking = summary["thinking"]
    assert (thinking.questions, thinking.trajectories) == (2, 3)
    assert thinking.accuracy.mean == pytest.approx((0.5 + 1) / 2)
    assert thinking.tokens.mean == pytest.approx((1.5 + 1) / 2)
    assert thinking.first.mean == pytest.approx((4 + 7) / 2)
    assert thinking.final.mean == pytest.approx((1.5 + 1) / 2)
    assert summary["no_thinking"].questions == 1
