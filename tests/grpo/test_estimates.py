"""Questions, rollouts and tokens drawn together give the gradient of all of them on average: every draw is enumerated.

The gradient of token t of rollout i of question q is a number x[q, i, t] times the advantage. A draw of questions is
one of all orders and starts of the systematic draw, a draw of rollouts likewise, and a cut is one of all intervals
between the survival probabilities. The estimate is what the functions of the trainer make of these draws.
"""

from itertools import pairwise, permutations, product
from typing import Any

import numpy as np
import pytest
import torch

from raml_trl.grpo.inclusion import inclusion_probabilities
from raml_trl.grpo.prefix_cuts import cut_completions, survival
from raml_trl.grpo.question_choice import draw_questions
from raml_trl.grpo.rows import CUT_DRAWS
from raml_trl.grpo.selection import FLOOR, _importance, cost_factors

CHANCES, FLOOR_OF_QUESTIONS, DRAWN = np.array([0.9, 0.2, 0.4]), 0.1, 2
LENGTHS = np.array([[2, 5, 3], [6, 1, 4], [4, 4, 4]])
ADVANTAGES = np.array([[1.4, -0.7, -0.7], [0.2, 1.1, -1.3], [0.0, 1.2, -1.2]])
SELECTED, CUTS = 2, {"minimum": 1, "keep": 0.3}


class Scripted:
    """A generator whose draws are given: the order of the items, and the start of the systematic draw."""

    def __init__(self, order: tuple[int, ...], start: float) -> None:
        self.order, self.start = order, start

    def permutation(self, items: Any) -> np.ndarray:
        return np.array(self.order) if isinstance(items, int) else items

    def random(self, shape: tuple[int, int]) -> np.ndarray:
        return np.full(shape, self.start)


def starts(probabilities: np.ndarray) -> list[tuple[float, float]]:
    """Return a start for every outcome of a systematic draw, and the probability of the outcome."""
    edges = np.unique(np.concatenate([[0, 1], np.cumsum(probabilities) % 1]))
    return [((low + high) / 2, high - low) for low, high in pairwise(edges)]


def questions_drawn() -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Return the probability, the questions and their weights for every draw of questions."""
    orders, outcomes = list(permutations(range(len(CHANCES)))), []
    for order in orders:
        [probabilities] = inclusion_probabilities(CHANCES[None, list(order)] + FLOOR_OF_QUESTIONS, DRAWN)
        for start, share in starts(probabilities):
            rng: Any = Scripted(order, start)
            drawn, known = draw_questions(CHANCES, DRAWN, floor=FLOOR_OF_QUESTIONS, rng=rng)
            outcomes.append((share / len(orders), drawn, DRAWN / (len(CHANCES) * known)))
    return outcomes


def expected_rollouts(question: int, gradients: np.ndarray, mean_of_row: bool) -> float:
    """Return the expectation of a question's estimate over draws of rollouts and tokens."""
    lengths, advantages = LENGTHS[None, question], ADVANTAGES[None, question]
    factors = cost_factors(np.full_like(lengths, 7), lengths, SELECTED, mean_of_row=mean_of_row, shared=True)
    sizes = np.maximum(np.abs(advantages), FLOOR * np.abs(advantages).mean()) * factors
    [probabilities] = inclusion_probabilities(sizes, SELECTED)
    expectation = 0.0
    for order in (orders := list(permutations(range(3)))):
        draws = np.argsort(order) / 3  # orders rollouts with equal advantages
        ranked = np.lexsort((draws, -advantages[0]))
        for start, share in starts(probabilities[ranked]):
            selection = _importance(advantages, np.append(draws, start)[None], SELECTED, factors)
            for row, weight in zip(selection.indices[0], selection.weights[0], strict=True):
                cut = expected_cut(int(lengths[0, row]), float(advantages[0, row]), gradients[row], mean_of_row)
                expectation += share / len(orders) * weight * cut / SELECTED
    return expectation


def expected_cut(length: int, advantage: float, gradients: np.ndarray, mean_of_row: bool) -> float:
    """Return the expectation of a rollout's term in the loss over all cuts."""
    mask = (torch.arange(len(gradients)) < length).long()[None]
    edges = [0.0, *survival(torch.tensor([length]), length, **CUTS)[0].double().unique().tolist()]
    expectation = 0.0
    for low, high in pairwise(edges):
        batch = {"completion_mask": mask, "advantages": torch.tensor([advantage]).double()}
        draw = torch.tensor([(low + high) / 2], dtype=torch.float64)
        cut = cut_completions(batch | {CUT_DRAWS: draw}, row_mean=mean_of_row, mask_only=False, **CUTS)
        expectation += (high - low) * term(cut["advantages"][0], cut["completion_mask"][0], gradients, mean_of_row)
    return expectation


def term(advantages: torch.Tensor, mask: torch.Tensor, gradients: np.ndarray, mean_of_row: bool) -> float:
    total = float((advantages * mask * torch.from_numpy(gradients)).sum())
    return total / int(mask.sum()) if mean_of_row else total


@pytest.mark.parametrize("mean_of_row", [True, False])
def test_the_expected_gradient_is_that_of_everything(mean_of_row: bool, rng: np.random.Generator) -> None:
    gradients = rng.normal(size=(*LENGTHS.shape, LENGTHS.max()))
    wholes = np.zeros(len(CHANCES))
    for question, row in product(range(len(CHANCES)), range(3)):
        mask = torch.arange(LENGTHS.max()) < LENGTHS[question, row]
        advantage = torch.full((len(mask),), ADVANTAGES[question, row])
        wholes[question] += term(advantage, mask, gradients[question, row], mean_of_row) / 3
    estimates = np.array([expected_rollouts(question, gradients[question], mean_of_row) for question in range(3)])
    assert estimates == pytest.approx(wholes, rel=1e-6, abs=1e-9)
    outcomes = questions_drawn()
    assert sum(probability for probability, _, _ in outcomes) == pytest.approx(1, rel=1e-12)
    expectation = sum(chance * (weights * estimates[drawn]).mean() for chance, drawn, weights in outcomes)
    assert expectation == pytest.approx(wholes.mean(), rel=1e-6, abs=1e-9)
    assert len({tuple(sorted(drawn)) for _, drawn, _ in outcomes}) == 3
