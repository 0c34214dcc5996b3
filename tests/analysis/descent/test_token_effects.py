"""What tokens do to the answer's likelihood: whose effect is whose, and a test that finds what is there and no more."""

from typing import Any

import numpy as np
import pytest

from raml_trl.analysis.descent.token_effects import FLOOR, Effects, compare_groups, effects, token_class


@pytest.mark.parametrize(
    ("token", "name"),
    [
        (" Wait", "word"),
        ("12", "number"),
        (" 3.5", "number"),
        ("+", "operator"),
        (" =", "operator"),
        ("\\times", "operator"),
        (".", "punctuation"),
        ("$\n", "punctuation"),
        ("\n\n", "space"),
        (" ", "space"),
        ("</think>", "delimiter"),
        ("<|im_end|>", "delimiter"),
        ("\\boxed{", "delimiter"),
        ("é", "word"),
        ("b5", "other"),
        ("", "other"),
        ("\\alpha", "other"),
    ],
)
def test_token_class(token: str, name: str) -> None:
    assert token_class(token) == name


def measured(tokens: list[str], nll: list[float], start: int = 0, stop: int | None = None, window: int = 1) -> Effects:
    ends = np.cumsum([len(token) for token in tokens]).tolist()
    return effects("q", "".join(tokens), ends, np.array(nll), start, len(tokens) if stop is None else stop, window)


def test_a_word_is_found_in_all_its_forms_at_its_first_token() -> None:
    tokens = ["<think>", " So", " WA", "IT", ",", "wait", "er", " await", "\nHold", " on", ".", "but", " Alternatively"]
    found = measured(tokens, [1.0] * 14)
    classes = {"word", "delimiter", "punctuation"}
    assert {
        token: groups - classes for token, groups in zip(tokens, found.groups, strict=True) if groups - classes
    } == {
        **{" So": {"therefore"}, " WA": {"wait"}, "\nHold": {"retry"}, "but": {"however"}},
        " Alternatively": {"alternatively"},
    }


def test_the_window_is_the_same_everywhere_and_ends_before_the_answer_is_stated() -> None:
    nll = [4.0, 2.0, 1.0, 3.0, 0.5, 0.0]
    found = measured(["a ", "b ", "c ", "d ", "e"], nll, start=1, stop=4, window=2)
    logs = np.log(np.array(nll) + FLOOR)
    assert found.values == pytest.approx([abs(logs[3] - logs[1]), abs(logs[4] - logs[2])])
    assert len(found.groups) == 2
    assert len(measured(["a", "b"], [1.0, 2.0, 3.0], start=1, stop=2, window=2).values) == 0


def planted(rng: np.random.Generator, boost: float) -> list[Effects]:
    """Twenty trajectories of forty places, every fourth of group "planted"."""
    groups = tuple(frozenset({"planted" if t % 4 == 0 else "rest"}) for t in range(40))
    made = []
    for number in range(20):
        scale = 10.0 ** (number % 3)  # trajectories differ: only places within one change places
        values = scale * rng.random(40) * [boost if "planted" in one else 1.0 for one in groups]
        made.append(Effects(f"q{number // 2}", values, groups))
    return made


def test_what_is_there_is_found() -> None:
    found = compare_groups(planted(np.random.default_rng(0), 3.0), np.random.default_rng(1))
    rows = {row.group: row for row in found}
    assert rows["planted"].p < 0.01
    assert rows["planted"].n == 200
    assert rows["planted"].median > 2 * rows["planted"].rest
    assert rows["planted"].rest == rows["rest"].median
    assert rows["planted"].low < rows["planted"].median < rows["planted"].high


def test_what_is_not_there_is_seldom_found() -> None:
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rows = compare_groups(planted(rng, 1.0), rng, num_resamples=50, num_permutations=99)
        found += any(row.p < 0.05 for row in rows)
    assert found <= 5  # of 40, expected 2 at most


def test_a_difference_between_trajectories_is_no_effect_of_tokens() -> None:
    made = []
    for level, of_x in ((1, 27), (2, 15), (3, 3)):  # x is frequent where effects are small
        groups = (frozenset({"x"}),) * of_x + (frozenset({"y"}),) * (30 - of_x)
        made.append(Effects(f"q{level}", np.full(30, float(level)), groups))
    rows = compare_groups(made, np.random.default_rng(0), num_permutations=199)
    assert [(row.group, row.median, row.p) for row in rows] == [("y", 3.0, 1.0), ("x", 1.0, 1.0)]


def test_the_interval_draws_questions_not_places() -> None:
    one = Effects("a", np.full(50, 1.0), (frozenset({"x"}),) * 50)
    other = Effects("b", np.full(50, 9.0), (frozenset({"x"}),) * 50)
    [row] = compare_groups([one, other], np.random.default_rng(0))
    assert (row.low, row.median, row.high) == (1.0, 5.0, 9.0)
    assert row.p is row.rest is None  # there is nothing else to compare with


def test_p_values_are_adjusted_for_the_groups() -> None:
    def rows_with(extra: int) -> dict[str, Any]:
        made = [
            Effects(one.question_id, one.values, tuple(g | {f"n{t % extra}"} for t, g in enumerate(one.groups)))
            if extra
            else one
            for one in planted(np.random.default_rng(0), 3.0)
        ]
        rows = compare_groups(made, np.random.default_rng(1), num_resamples=10, num_permutations=999)
        return {row.group: row.p for row in rows}

    assert rows_with(0)["planted"] == pytest.approx(2 / 1000)  # the least there is, for two groups
    assert rows_with(7)["planted"] == pytest.approx(9 / 1000)


def test_nothing_measured() -> None:
    assert compare_groups([], np.random.default_rng(0)) == []
