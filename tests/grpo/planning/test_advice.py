"""Ways to save are compared by the time to the same accuracy of the gradient."""

from math import log

import numpy as np
import pytest

from raml_trl.grpo.planning.advice import Groups, Option, compare_options, recommend
from raml_trl.grpo.planning.step_cost import Split
from raml_trl.grpo.selection import select_rollouts

UPDATE_ONLY = Split(generating=0.0, selecting=0.0, updating=0.0, updating_per_cell=1.0)


def lopsided(number: int, lengths: int, *, dead: int = 0) -> Groups:
    """One correct rollout of eight in every group; the last groups have no signal."""
    rewards = np.tile(np.arange(8) < 1, (number, 1)).astype(float)
    rewards[number - dead :] = 0
    advantages = (rewards - rewards.mean(axis=1, keepdims=True)) / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    return Groups(advantages, np.full((number, 8), lengths), prompt=0, mean_of_row=False)


def by_name(groups: Groups, split: Split) -> dict[str, Option]:
    return {option.name: option for option in compare_options(groups, split, 4, keep=0.5, minimum=0)}


def test_random_saves_nothing_and_importance_saves_where_groups_are_lopsided() -> None:
    """If only the update takes time, `random` needs as long as all G, and `importance` 4 r (1 - r) of it."""
    options = by_name(lopsided(3, 50), UPDATE_ONLY)
    for selected in (1, 2, 4):
        assert options[f"num_generations_update: {selected}"].time == pytest.approx(1)
    assert options["num_generations_update: 1, selection: importance"].time == pytest.approx(4 / 8 * 7 / 8, rel=1e-3)
    assert options["num_generations_update: 8"].time == 1


def test_generation_makes_every_selection_slower() -> None:
    with_generation = Split(generating=1600.0, selecting=0.0, updating=0.0, updating_per_cell=1.0)  # half of the step
    options = by_name(lopsided(3, 50), with_generation)
    assert options["num_generations_update: 4"].seconds == pytest.approx(0.75)
    assert options["num_generations_update: 4"].time == pytest.approx(1.5)
    assert options["num_generations_update: 4, selection: importance"].time < 1


def test_a_prefix_never_saves_time() -> None:
    option = by_name(lopsided(3, 50), UPDATE_ONLY)["token_selection: prefix"]
    assert option.seconds == pytest.approx(0.75)
    assert option.noise == pytest.approx(log(2) / 0.5)
    assert option.time > 1


def test_choosing_questions_saves_at_best_the_share_without_signal() -> None:
    generation_only = Split(generating=1.0, selecting=0.0, updating=0.0, updating_per_cell=0.0)
    assert by_name(lopsided(4, 50, dead=1), generation_only)["question_selection: mixed"].time == pytest.approx(0.75)
    assert by_name(lopsided(4, 50, dead=1), UPDATE_ONLY)["question_selection: mixed"].time == pytest.approx(1)


def test_the_noise_is_that_of_many_selections(rng: np.random.Generator) -> None:
    """The noise of a selection is the mean of its squared sum, for gradients that are independent and random."""
    lengths = rng.integers(5, 200, size=(1, 8))
    advantages = rng.normal(size=(1, 8))
    groups = Groups(advantages - advantages.mean(), lengths, prompt=100, mean_of_row=True)
    option = {option.name: option for option in compare_options(groups, UPDATE_ONLY, 1, keep=1.0, minimum=0)}[
        "num_generations_update: 2, selection: importance"
    ]
    draws = 20_000
    tiled = np.tile(groups.advantages, (draws, 1))
    weights = select_rollouts(tiled, tiled, 2, strategy="importance", seed=0, step=0).row_weights(8) / 2
    gradients = rng.normal(size=(draws, 8)) * groups.sizes
    noise = ((weights * gradients).sum(axis=1) ** 2).mean()
    assert option.noise == pytest.approx(noise / ((gradients.mean(axis=1) ** 2).mean()), rel=0.1)
    assert option.seconds == pytest.approx((100 + (weights > 0) @ lengths[0]).mean() / (100 + lengths.sum()), rel=0.02)


def test_the_recommendation() -> None:
    slow, fast = (Option({"selection": "importance"}, 0.5, 2 * time, time) for time in (0.97, 0.6))
    assert recommend([slow]).startswith("Recommended: all G rollouts. No option saves 5% or more of the time")
    assert "selection: importance, which takes 0.60" in recommend([fast, slow])
