"""Chooses K trajectories of each question, and decides how often to train on each of them.

The trajectories of a question are ranked in one of several orders, and the first K are taken. So the trajectories for
K = 4 contain the trajectories for K = 2. The choice depends only on the texts, their lengths and a seed.

In shapes, N is the number of distinct correct trajectories of one question, T the number of chosen trajectories of all
questions together, and Q the number of questions.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raml_trl.runtime.errors import InputError

Order = Literal["random", "shortest", "longest", "most_different"]
QuestionWeight = Literal["correct", "equal"]

_SHINGLE_WORDS = 3
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Choice:
    """Which trajectories to train on, how often, and with which prompt. `SFTArguments` explains the fields."""

    num_trajectories: int | None
    trajectory_order: Order
    length_bin: str | None
    question_weight: QuestionWeight
    repeat_to_fill: bool
    overlong: Literal["drop", "cut"]
    prompt_style: str
    max_length: int | None
    completion_only: bool
    seed: int


def choose(
    texts: Sequence[str],
    lengths: Sequence[int],
    order: Order = "random",
    *,
    length_bin: str | None = None,
    seed: int,
    question_id: str,
) -> list[int]:
    """Rank the trajectories of a question, and return their positions in `texts`. Training takes the first K.

    Args:
        texts: the N distinct correct trajectories of a question.
        lengths: the length of each trajectory, in tokens or characters.
        order: the order of the ranking, as in `order_trajectories`.
        length_bin: the length bin to choose from, such as `1/3` for the shortest third; None takes all trajectories.
        seed: the seed of the random order.
        question_id: the id of the question.

    Raises:
        InputError: if `length_bin` is malformed.
    """
    if length_bin is None:
        return order_trajectories(texts, lengths, order, seed=seed, question_id=question_id)
    kept = in_length_bin(lengths, *parse_length_bin(length_bin))
    texts, lengths = [texts[position] for position in kept], [lengths[position] for position in kept]
    ranking = order_trajectories(texts, lengths, order, seed=seed, question_id=question_id)
    return [kept[position] for position in ranking]


def order_trajectories(
    texts: Sequence[str], lengths: Sequence[int], order: Order, *, seed: int, question_id: str
) -> list[int]:
    """Return the positions of the N trajectories in the order in which they are taken.

    - `random`: a random permutation. Its generator is seeded with `seed` and `question_id`, so that other questions
      have no influence.
    - `shortest`, `longest`: sorted by `lengths`.
    - `most_different`: farthest-first traversal (Gonzalez 1985). It starts with the first trajectory of `random`. Each
      further trajectory is the one whose smallest distance to the trajectories already taken is largest. The distance
      of two trajectories is the Jaccard distance between their sets of sequences of three consecutive words.

    Trajectories that tie are taken in the order of `random`.
    """
    digest = hashlib.blake2b(question_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest, "big")])
    drawn: list[int] = rng.permutation(len(texts)).tolist()
    if order == "random":
        return drawn
    if order == "most_different":
        return _farthest_first(texts, drawn)
    sign = 1 if order == "shortest" else -1
    return sorted(drawn, key=lambda position: sign * lengths[position])


def in_length_bin(lengths: Sequence[int], part: int, num_parts: int) -> list[int]:
    """Return the positions of the trajectories in one length bin, shortest first.

    The N trajectories of a question, sorted by length, are cut into `num_parts` bins of equal size up to rounding, and
    `part` is the number of the bin, from 1. Trajectories of equal length keep their order. If N < `num_parts`, every
    bin is empty, so that all bins cover the same questions.
    """
    if len(lengths) < num_parts:
        return []
    ranked = sorted(range(len(lengths)), key=lambda position: lengths[position])
    return ranked[(part - 1) * len(ranked) // num_parts : part * len(ranked) // num_parts]


def parse_length_bin(text: str) -> tuple[int, int]:
    """Return the number of a length bin and the number of bins: (2, 3) for `2/3`, the second of three bins.

    Raises:
        InputError: unless `text` has the form i/n with 1 <= i <= n.
    """
    match = re.fullmatch(r"([0-9]{1,3})/([0-9]{1,3})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"length_bin must have the form i/n with 1 <= i <= n, such as 1/3 or 3/3, got {text!r}")
    return int(match[1]), int(match[2])


def count_examples(
    question: NDArray[np.int64], correct: NDArray[np.int64], *, weight: QuestionWeight, repeat: bool
) -> NDArray[np.int64]:
    """Return how often each chosen trajectory is trained on.

    Args:
        question: `(T,)` index of the question that each chosen trajectory belongs to, in ascending order.
        correct: `(T,)` number of correct trajectories of that question, chosen or not.
        weight: `correct`: a question gets as many examples as it has correct trajectories, as in the paper, so easy
            questions weigh more. `equal`: all questions together get as many examples as with `correct`, divided
            equally between the questions.
        repeat: whether to cycle through the chosen trajectories of a question until it has its number of examples, so
            that this number does not depend on K. Otherwise each chosen trajectory is trained on once, whatever
            `weight` is.

    Returns:
        `(T,)` counts. If a question gets fewer examples than it has chosen trajectories, its last counts are 0.

    Source: RaML, arXiv 2505.19815, section 4.3, for `correct` with `repeat`.
    """
    if not repeat or not len(question):
        return np.ones_like(question)
    first = np.flatnonzero(np.diff(question, prepend=-1))  # (Q,) the first trajectory of each question
    chosen = np.diff(first, append=len(question))  # (Q,)
    examples = correct[first]  # (Q,)
    if weight == "equal":
        per_question, remainder = divmod(int(examples.sum()), len(examples))
        examples = np.full_like(examples, per_question) + (np.arange(len(examples)) < remainder)
    turn = np.arange(len(question)) - np.repeat(first, chosen)
    return np.repeat(examples // chosen, chosen) + (turn < np.repeat(examples % chosen, chosen))


def _farthest_first(texts: Sequence[str], drawn: Sequence[int]) -> list[int]:
    shingles = [_shingles(texts[position]) for position in drawn]
    distance = [1.0] * len(drawn)
    remaining = list(range(len(drawn)))
    taken: list[int] = []
    while remaining:
        farthest = max(remaining, key=lambda place: distance[place])  # the first of several that tie
        remaining.remove(farthest)
        taken.append(drawn[farthest])
        for place in remaining:
            shared = len(shingles[place] & shingles[farthest])
            union = len(shingles[place]) + len(shingles[farthest]) - shared
            distance[place] = min(distance[place], 1 - shared / union if union else 0.0)
    return taken


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text)
    return {tuple(words[start : start + _SHINGLE_WORDS]) for start in range(max(1, len(words) - _SHINGLE_WORDS + 1))}
