"""Effects of tokens on the likelihood of the answer: groups of tokens, and a test that detects only real effects."""

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


def test_a_word_counts_in_all_its_forms_for_its_first_token() -> None:
    tokens = ["<think>", " So", " WA", "IT", ",", "wait", "er", " await", "\nHold", " on", ".", "but", " Alternatively"]
    measured_effects = measured(tokens, [1.0] * 14)
    classes = {"word", "delimiter", "punctuation"}
    assert {
        token: groups - classes
        for token, groups in zip(tokens, measured_effects.groups, strict=True)
        if groups - classes
    } == {
        **{" So": {"therefore"}, " WA": {"wait"}, "\nHold": {"retry"}, "but": {"however"}},
        " Alternatively": {"alternatively"},
    }


def test_the_window_has_one_length_and_ends_at_the_stop() -> None:
    nll = [4.0, 2.0, 1.0, 3.0, 0.5, 0.0]
    measured_effects = measured(["a ", "b ", "c ", "d ", "e"], nll, start=1, stop=4, window=2)
    logs = np.log(np.array(nll) + FLOOR)
    assert measured_effects.values == pytest.approx([abs(logs[3] - logs[1]), abs(logs[4] - logs[2])])
    assert len(measured_effects.groups) == 2
    assert len(measured(["a", "b"], [1.0, 2.0, 3.0], start=1, stop=2, window=2).values) == 0


def planted(rng: np.random.Generator, boost: float) -> list[Effects]:
    """Make twenty trajectories of forty tokens. Every fourth token, "planted", has an effect larger by `boost`."""
    groups = tuple(frozenset({"planted" if t % 4 == 0 else "rest"}) for t in range(40))
    made = []
    for number in range(20):
        scale = 10.0 ** (number % 3)  # effects differ between trajectories, so shuffles must stay within a trajectory
        values = scale * rng.random(40) * [boost if "planted" in names else 1.0 for names in groups]
        made.append(Effects(f"q{number // 2}", values, groups))
    return made


@pytest.mark.long
def test_a_planted_effect_is_significant() -> None:
    effects_by_group = compare_groups(planted(np.random.default_rng(0), 3.0), np.random.default_rng(1))
    rows = {row.group: row for row in effects_by_group}
    assert rows["planted"].p < 0.01
    assert rows["planted"].n == 200
    assert rows["planted"].median > 2 * rows["planted"].rest
    assert rows["planted"].rest == rows["rest"].median
    assert rows["planted"].low < rows["planted"].median < rows["planted"].high


@pytest.mark.long
def test_without_an_effect_significance_is_rare() -> None:
    significant = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rows = compare_groups(planted(rng, 1.0), rng, num_resamples=50, num_permutations=99)
        significant += any(row.p < 0.05 for row in rows)
    assert significant <= 5  # of 40; at a level of 5 %, at most 2 are expected


def test_differences_between_trajectories_are_not_effects_of_tokens() -> None:
    made = []
    for level, of_x in ((1, 27), (2, 15), (3, 3)):  # x is frequent where effects are small
        groups = (frozenset({"x"}),) * of_x + (frozenset({"y"}),) * (30 - of_x)
        made.append(Effects(f"q{level}", np.full(30, float(level)), groups))
    rows = compare_groups(made, np.random.default_rng(0), num_permutations=199)
    assert [(row.group, row.median, row.p) for row in rows] == [("y", 3.0, 1.0), ("x", 1.0, 1.0)]


def test_the_interval_resamples_questions() -> None:
    first = Effects("a", np.full(50, 1.0), (frozenset({"x"}),) * 50)
    second = Effects("b", np.full(50, 9.0), (frozenset({"x"}),) * 50)
    [row] = compare_groups([first, second], np.random.default_rng(0))
    assert (row.low, row.median, row.high) == (1.0, 5.0, 9.0)
    assert row.p is row.rest is None  # there are no other tokens to compare with


@pytest.mark.long
def test_p_values_are_adjusted_for_the_number_of_groups() -> None:
    def rows_with(extra: int) -> dict[str, Any]:
        made = [
            Effects(row.question_id, row.values, tuple(g | {f"n{t % extra}"} for t, g in enumerate(row.groups)))
            if extra
            else row
            for row in planted(np.random.default_rng(0), 3.0)
        ]
        rows = compare_groups(made, np.random.default_rng(1), num_resamples=10, num_permutations=999)
        return {row.group: row.p for row in rows}

    assert rows_with(0)["planted"] == pytest.approx(2 / 1000)  # the smallest possible p-value, for two groups
    assert rows_with(7)["planted"] == pytest.approx(9 / 1000)


def test_no_effects_give_no_rows() -> None:
    assert compare_groups([], np.random.default_rng(0)) == []
