"""The choice of K trajectories and their repetition agree with enumeration and have the required properties."""

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest

from raml_trl.runtime.errors import InputError
from raml_trl.sft.choosing import choose, count_examples, in_length_bin, order_trajectories, parse_length_bin

TEXTS = ["a b c d e", "a b c d f", "z y x w v", "a b c d e f g h", "q"]
LENGTHS = [5, 5, 5, 8, 1]


def order(kind: str, seed: int = 0, question: str = "q1") -> list[int]:
    return order_trajectories(TEXTS, LENGTHS, kind, seed=seed, question_id=question)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["random", "shortest", "longest", "most_different"])
def test_every_order_is_a_permutation_keyed_by_seed_and_question(kind: str) -> None:
    assert sorted(order(kind)) == [0, 1, 2, 3, 4]
    assert order(kind) == order(kind)
    assert len({tuple(order(kind, seed)) for seed in range(20)}) > 1
    assert len({tuple(order(kind, question=str(name))) for name in range(20)}) > 1


def test_random_is_uniform() -> None:
    firsts = Counter(order("random", seed)[0] for seed in range(2_000))
    assert all(abs(count - 400) < 4 * np.sqrt(400 * 0.8) for count in firsts.values())


def test_ties_in_length_are_drawn() -> None:
    for seed in range(10):
        assert [LENGTHS[place] for place in order("shortest", seed)] == [1, 5, 5, 5, 8]
        assert [LENGTHS[place] for place in order("longest", seed)] == [8, 5, 5, 5, 1]
    assert len({tuple(order("shortest", seed)) for seed in range(10)}) > 1


def distance(text: str, other: str) -> float:
    first, second = (
        {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))} for words in (text.split(), other.split())
    )
    return 1 - len(first & second) / len(first | second)


def test_most_different_takes_the_farthest_each_time() -> None:
    for seed in range(10):
        taken = order("most_different", seed)
        assert taken[0] == order("random", seed)[0]
        for place in range(1, len(taken)):
            least = {
                left: min(distance(TEXTS[left], TEXTS[right]) for right in taken[:place]) for left in taken[place:]
            }
            assert least[taken[place]] == max(least.values())


def test_most_different_is_within_a_factor_of_two_of_the_best() -> None:
    def spread(chosen: tuple[int, ...]) -> float:
        return min(distance(TEXTS[left], TEXTS[right]) for left, right in combinations(chosen, 2))

    best = max(spread(chosen) for chosen in combinations(range(5), 3))
    assert all(spread(tuple(order("most_different", seed)[:3])) >= best / 2 for seed in range(10))  # Gonzalez 1985


@pytest.mark.parametrize("num_parts", [1, 2, 3, 5])
def test_length_bins_partition_the_trajectories(num_parts: int) -> None:
    parts = [in_length_bin(LENGTHS, part, num_parts) for part in range(1, num_parts + 1)]
    assert sorted(place for part in parts for place in part) == [0, 1, 2, 3, 4]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for shorter, longer in pairwise(parts):
        assert max(LENGTHS[place] for place in shorter) <= min(LENGTHS[place] for place in longer)


def test_too_few_trajectories_for_the_bins() -> None:
    assert in_length_bin([3, 1], 1, 3) == in_length_bin([3, 1], 3, 3) == []


def test_parse_length_bin() -> None:
    assert parse_length_bin("2/3") == (2, 3)
    for wrong in ("0/3", "4/3", "1", "a/b", "1/3/3", "-1/3", ""):
        with pytest.raises(InputError, match="length_bin must have the form i/n"):
            parse_length_bin(wrong)


def test_choose_from_a_length_bin() -> None:
    for seed in range(10):
        assert choose(TEXTS, LENGTHS, seed=seed, question_id="q1") == order("random", seed)
        shorter = choose(TEXTS, LENGTHS, length_bin="1/2", seed=seed, question_id="q1")
        assert sorted(shorter) == sorted(in_length_bin(LENGTHS, 1, 2))
        longer = choose(TEXTS, LENGTHS, "longest", length_bin="2/2", seed=seed, question_id="q1")
        assert longer[0] == 3
        assert choose(TEXTS, LENGTHS, length_bin="1/6", seed=seed, question_id="q1") == []


CORRECT = np.array([5, 1, 3, 8])  # numbers of correct trajectories of four questions


@pytest.mark.parametrize("weight", ["correct", "equal"])
@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_k_changes_diversity_and_nothing_else(k: int, weight: str) -> None:
    question = np.repeat(np.arange(4), np.minimum(CORRECT, k))
    counts = count_examples(question, CORRECT[question], weight=weight, repeat=True)  # type: ignore[arg-type]
    by_question = np.bincount(question, weights=counts)
    assert counts.sum() == 17
    assert by_question.tolist() == (CORRECT.tolist() if weight == "correct" else [5, 4, 4, 4])  # 17 = 4 * 4 + 1
    for number in range(4):
        assert np.ptp(counts[question == number]) <= 1


def test_without_repetition() -> None:
    question = np.array([0, 0, 2])
    assert count_examples(question, np.array([9, 9, 9]), weight="correct", repeat=False).tolist() == [1, 1, 1]
    assert count_examples(np.array([], dtype=int), np.array([], dtype=int), weight="correct", repeat=True).size == 0
