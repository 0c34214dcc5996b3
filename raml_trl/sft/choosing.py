"""Which K trajectories of a question are trained on, and how often each: pure functions of texts, lengths and a seed.

Whatever the order, the K are its first K, so those for K = 4 contain those for K = 2.

Shapes: N distinct correct trajectories of one question; T chosen trajectories of all questions; Q questions.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raml_trl.runtime.errors import InputError

Order = Literal["random", "shortest", "longest", "most_different"]
QuestionWeight = Literal["correct", "equal"]

_SHINGLE_WORDS = 3
_WORD = re.compile(r"\w+|[^\w\s]")


def order_trajectories(
    texts: Sequence[str], lengths: Sequence[int], order: Order, *, seed: int, question_id: str
) -> list[int]:
    """Positions of the N trajectories in the order in which they are taken.

    `random` is drawn by a key of (seed, question), so it depends on no other question. `shortest` and `longest` go by
    `lengths`. `most_different` begins with the first of `random` and always takes the one whose least distance to
    those already taken is greatest (farthest-first traversal: Gonzalez 1985); the distance is Jaccard's, between the
    sets of three words in a row. Ties fall to the one that `random` would take first.
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
    """Positions of those of the N trajectories that lie in the `part`-th of `num_parts` equal parts, shortest first.

    Those of one length are parted as they stand. Empty where N < `num_parts`: then no part gets one, so that all parts
    hold the same questions.
    """
    if len(lengths) < num_parts:
        return []
    ranked = sorted(range(len(lengths)), key=lambda position: lengths[position])
    return ranked[(part - 1) * len(ranked) // num_parts : part * len(ranked) // num_parts]


def parse_length_bin(text: str) -> tuple[int, int]:
    """`2/3` as (2, 3): the second of three parts.

    Raises:
        InputError: unless it has the form i/n with 1 <= i <= n.
    """
    match = re.fullmatch(r"([0-9]{1,3})/([0-9]{1,3})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"length_bin must have the form i/n with 1 <= i <= n, such as 1/3 or 3/3, got {text!r}")
    return int(match[1]), int(match[2])


def count_examples(
    question: NDArray[np.int64], correct: NDArray[np.int64], *, weight: QuestionWeight, repeat: bool
) -> NDArray[np.int64]:
    """How often each chosen trajectory is trained on.

    Args:
        question: `(T,)` number of the question of each, ascending.
        correct: `(T,)` correct trajectories of that question, among all there are.
        weight: `correct`: a question gets as many examples as it has correct trajectories (the paper's: easy questions
            weigh more). `equal`: the same number for every question; the sum over questions is the same.
        repeat: fill a question's examples by repetition, its trajectories taking turns, so that the number of
            examples does not depend on K. If not, every chosen trajectory is trained on once.

    Returns:
        `(T,)` counts; 0 where a question has fewer examples than trajectories were chosen.

    Source: RaML, arXiv 2505.19815, section 4.3, for `correct` with `repeat`.
    """
    if not repeat or not len(question):
        return np.ones_like(question)
    first = np.flatnonzero(np.diff(question, prepend=-1))  # of each question
    chosen = np.diff(first, append=len(question))
    examples = correct[first]
    if weight == "equal":
        each, left = divmod(int(examples.sum()), len(examples))
        examples = np.full_like(examples, each) + (np.arange(len(examples)) < left)
    turn = np.arange(len(question)) - np.repeat(first, chosen)
    return np.repeat(examples // chosen, chosen) + (turn < np.repeat(examples % chosen, chosen))


def _farthest_first(texts: Sequence[str], drawn: Sequence[int]) -> list[int]:
    shingles = [_shingles(texts[position]) for position in drawn]
    distance = [1.0] * len(drawn)
    left = list(range(len(drawn)))
    taken: list[int] = []
    while left:
        last = max(left, key=lambda place: distance[place])  # the first of those that tie
        left.remove(last)
        taken.append(drawn[last])
        for place in left:
            both = len(shingles[place] & shingles[last])
            union = len(shingles[place]) + len(shingles[last]) - both
            distance[place] = min(distance[place], 1 - both / union if union else 0.0)
    return taken


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text)
    return {tuple(words[start : start + _SHINGLE_WORDS]) for start in range(max(1, len(words) - _SHINGLE_WORDS + 1))}
