"""Metrics of a step match calculations by hand."""

import numpy as np
import pytest

from raml_trl.grpo.step_metrics import group_outcomes, latest_correct, same_value_fraction


def test_group_outcomes() -> None:
    correct = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]], dtype=bool)
    everything = np.ones_like(correct)
    assert group_outcomes(correct, everything) == {"all_right": 0.25, "mixed": 0.5, "all_wrong": 0.25}
    chosen = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1]], dtype=bool)
    # all right, all wrong, none chosen, mixed: three groups count
    assert group_outcomes(correct, chosen) == pytest.approx({"all_right": 1 / 3, "mixed": 1 / 3, "all_wrong": 1 / 3})
    assert np.isnan(list(group_outcomes(correct, ~everything).values())).all()


def test_groups_with_equal_rewards() -> None:
    rewards = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert same_value_fraction(rewards, np.ones((2, 3), dtype=bool)) == 0.5
    assert same_value_fraction(rewards, np.array([[True] * 3, [False, True, True]])) == 1.0
    assert np.isnan(same_value_fraction(rewards, np.zeros((2, 3), dtype=bool)))
    missing = np.array([[1.0, np.nan, 1.0], [1.0, np.nan, 2.0], [np.nan, np.nan, np.nan]])
    assert same_value_fraction(missing, np.ones((3, 3), dtype=bool)) == 0.5


def test_latest_correct_takes_the_rows_of_the_last_generation() -> None:
    ours, users = {"raml/correct": [False, True, False, False, True]}, {"correct": [5, True, 0, 0.0, 1]}
    for columns in (ours, users, ours | {"correct": ["no"] * 5}):
        assert latest_correct(columns, (2, 2)).tolist() == [[True, False], [False, True]]
    for unreadable in ([True], ["no"] * 4, [None, 1, 0, 1], [0.5, 1, 0, 1], [float("nan")] * 4):
        assert latest_correct({"correct": unreadable}, (2, 2)) is None
