r"""Measures how much single tokens change the likelihood of the answer, and compares groups of tokens.

L(t) is the loss of the answer after the first t tokens of a trajectory (see `likelihood`). The effect of the next token
is |log L(t + w) - log L(t)|: the change of log L over a window of w tokens that starts with this token. All tokens have
the same w. A group is either a kind of words of reflection, such as "wait", or a class of tokens, such as numbers.

The paper measures |L(t + w) - L(t)| / L(t) instead (RaML, arXiv 2505.19815, fig. 6). The mean of this ratio is not
useful, because L comes near 0. For the same reason, 0.01 nats (`FLOOR`) are added to L, and medians are compared.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raml_trl.evaluation.intervals import holm

Floats = NDArray[np.float64]

FLOOR = 0.01
"""Nats added to L before the logarithm: about the loss of an answer that has probability 99 %."""
_TIE = 1e-12
"""Two differences between medians count as equally large if they are this close."""

REFLECTION: dict[str, tuple[str, ...]] = {
    "wait": ("wait",),
    "however": ("however", "but"),
    "alternatively": ("alternatively", "another way"),
    "check": ("check", "recheck", "verify", "double-check"),
    "retry": ("retry", "let me try", "try again", "hold on", "hmm"),
    "therefore": ("therefore", "thus", "hence", "so"),
    "since": ("since", "because"),
}
"""Words at which a trajectory turns or concludes, in groups. Only whole words count, in upper or lower case."""

CLASSES: dict[str, re.Pattern[str]] = {
    "delimiter": re.compile(r"\s*(?:</?think>|</?answer>|</?conclusion>|<\|[^|>]*\|>|\\boxed\{?)\s*"),
    "space": re.compile(r"\s+"),
    "number": re.compile(r"\s*[0-9][0-9.,]*\s*"),
    "operator": re.compile(r"\s*(?:[-+*/=<>^]|\\(?:times|cdot|div|pm|le|ge|ne))+\s*"),
    "punctuation": re.compile(r"\s*[^\w\s\\]+\s*"),
    "word": re.compile(r"\s*[^\W\d_]+\s*"),
}
"""Classes of tokens. A token is in the first class whose pattern matches all of it, or in "other" if none does."""


@dataclass(frozen=True)
class Effects:
    """Effects of N successive tokens of one trajectory: how much each one changes the log of the answer's loss.

    `values` `(N,)` are the effects. `groups` names, for each token, the kinds of tokens to
    which it belongs, such as "number" or a key of `REFLECTION`.
    """

    question_id: str
    values: Floats
    groups: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class GroupEffect:
    """Median effect of the `n` tokens of a group, compared with `rest`, the median effect of all other tokens.

    The effect of a token is |change of log L|, where L is the loss of the answer. `low` and `high` are the 95 %
    interval of `median`. `p` is the p-value of the difference between `median` and `rest`, adjusted for the number of
    groups. `rest` and `p` are None if there are no other tokens.
    """

    group: str
    n: int
    median: float
    low: float
    high: float
    rest: float | None
    p: float | None


def effects(
    question_id: str, text: str, ends: Sequence[int], nll: Floats, start: int, stop: int, window: int
) -> Effects:
    """Measure how much log L changes over the `window` tokens from each token on, between `start` and `stop`.

    Args:
        question_id: id of the question that the trajectory belongs to.
        text: text of the trajectory, which has T tokens.
        ends: `(T,)`, the number of characters of `text` up to the end of each token.
        nll: `(T + 1,)`, the loss L(t) of the answer after the first t tokens, for t = 0 to T.
        start: first t at which a window starts, in tokens of the trajectory.
        stop: last t at which a window may end, in tokens of the trajectory.
        window: w, the number of tokens over which the change of log L is measured.
    """
    logs = np.log(nll + FLOOR)
    places = range(start, max(start, stop - window + 1))
    words: list[set[str]] = [set() for _ in ends]
    for group, forms in REFLECTION.items():
        for match in re.finditer(rf"(?<![A-Za-z])(?:{'|'.join(map(re.escape, forms))})(?![A-Za-z])", text, re.I):
            words[bisect_right(ends, match.start())].add(group)  # a word counts for the token of its first letter
    begins = (0, *ends[:-1])
    groups = [words[t] | {token_class(text[begins[t] : ends[t]])} for t in places]
    values = np.array([abs(logs[t + window] - logs[t]) for t in places], dtype=np.float64)
    return Effects(question_id, values, tuple(map(frozenset, groups)))


def token_class(token: str) -> str:
    """Return the class of a token: "delimiter", "space", "number", "operator", "punctuation", "word" or "other"."""
    return next((name for name, pattern in CLASSES.items() if pattern.fullmatch(token)), "other")


def compare_groups(
    measured: Sequence[Effects], rng: np.random.Generator, *, num_resamples: int = 1_000, num_permutations: int = 2_000
) -> list[GroupEffect]:
    """Compare the median effect of every group of tokens with the median effect of all other tokens.

    Intervals (95 %) are bootstrapped over questions. The p-values are from a permutation test that shuffles the effects
    within each trajectory, and are adjusted for the number of groups (Holm).

    Args:
        measured: the effects of each trajectory.
        rng: generator of the bootstrap and of the permutations.
        num_resamples: resamples of the bootstrap.
        num_permutations: permutations of the test.

    Returns:
        One row per group, largest median first.
    """
    names = sorted({name for trajectory in measured for groups in trajectory.groups for name in groups})
    values = np.concatenate([trajectory.values for trajectory in measured]) if measured else np.zeros(0)
    inside = {
        name: np.array([name in groups for trajectory in measured for groups in trajectory.groups]) for name in names
    }
    rows = []
    for name in names:
        low, high = _interval(measured, name, rng, num_resamples)
        own, rest = values[inside[name]], values[~inside[name]]
        median_rest = float(np.median(rest)) if len(rest) else None
        rows.append(GroupEffect(name, len(own), float(np.median(own)), low, high, median_rest, None))
    tested = {name: mask for name, mask in inside.items() if not mask.all()}
    lengths = [len(trajectory.values) for trajectory in measured]
    p_values = _permutation_p(values, tested, lengths, rng, num_permutations)
    p_values = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    rows = [replace(row, p=p_values.get(row.group)) for row in rows]
    return sorted(rows, key=lambda row: -row.median)


def _interval(measured: Sequence[Effects], name: str, rng: np.random.Generator, resamples: int) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a group's median, resampling the questions that have the group."""
    by_question: dict[str, list[float]] = {}
    for trajectory in measured:
        pairs = zip(trajectory.values.tolist(), trajectory.groups, strict=True)
        own = [value for value, groups in pairs if name in groups]
        if own:
            by_question.setdefault(trajectory.question_id, []).extend(own)
    pools = [np.array(own) for own in by_question.values()]
    drawn = rng.integers(len(pools), size=(resamples, len(pools)))
    medians = [float(np.median(np.concatenate([pools[index] for index in row]))) for row in drawn]
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def _permutation_p(
    values: Floats,
    inside: Mapping[str, NDArray[np.bool_]],
    lengths: Sequence[int],
    rng: np.random.Generator,
    permutations: int,
) -> dict[str, float]:
    """Return the p-value of each group: how often a shuffle separates its median as far from the rest as the data do.

    A shuffle exchanges the effects of the tokens within each trajectory.
    """

    def differences(shuffled: Floats) -> Floats:
        return np.array([abs(np.median(shuffled[mask]) - np.median(shuffled[~mask])) for mask in inside.values()])

    seen, owner = differences(values), np.repeat(np.arange(len(lengths)), lengths)
    as_large = np.zeros(len(inside))
    for _ in range(permutations if len(inside) else 0):
        as_large += differences(values[np.lexsort((rng.random(len(values)), owner))]) >= seen - _TIE
    return dict(zip(inside, ((1 + as_large) / (1 + permutations)).tolist(), strict=True))
