r"""How much the tokens of a trajectory move the likelihood of its answer: words of reflection, and classes of tokens.

The effect at a place is |log L(t + w) - log L(t)| over w tokens from its first one, the same w everywhere; the paper's
|L(t + w) - L(t)| / L(t) (RaML, arXiv 2505.19815, fig. 6) has no mean worth the name, for L comes near 0. For the same
reason L counts as `FLOOR` nats more than it is, and medians are compared.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FLOOR = 0.01
"""Nats: an answer that is found with 99 % has as many."""
_TIE = 1e-12

REFLECTION: dict[str, tuple[str, ...]] = {
    "wait": ("wait",),
    "however": ("however", "but"),
    "alternatively": ("alternatively", "another way"),
    "check": ("check", "recheck", "verify", "double-check"),
    "retry": ("retry", "let me try", "try again", "hold on", "hmm"),
    "therefore": ("therefore", "thus", "hence", "so"),
    "since": ("since", "because"),
}
"""Words at which a trajectory turns or concludes: each group by all its forms, in any case, as words of their own."""

CLASSES: dict[str, re.Pattern[str]] = {
    "delimiter": re.compile(r"\s*(?:</?think>|</?answer>|</?conclusion>|<\|[^|>]*\|>|\\boxed\{?)\s*"),
    "space": re.compile(r"\s+"),
    "number": re.compile(r"\s*[0-9][0-9.,]*\s*"),
    "operator": re.compile(r"\s*(?:[-+*/=<>^]|\\(?:times|cdot|div|pm|le|ge|ne))+\s*"),
    "punctuation": re.compile(r"\s*[^\w\s\\]+\s*"),
    "word": re.compile(r"\s*[^\W\d_]+\s*"),
}
"""Classes of tokens, by what a token has to be as a whole; the first that fits. What fits none is "other"."""


@dataclass(frozen=True)
class Effects:
    """The effects at the places of one trajectory `(N,)`, and the groups that each place belongs to."""

    question_id: str
    values: Floats
    groups: tuple[frozenset[str], ...]


def effects(
    question_id: str, text: str, ends: Sequence[int], nll: Floats, start: int, stop: int, window: int
) -> Effects:
    """The effects at the tokens from `start` on whose window ends at `stop` or before.

    Args:
        question_id: of the trajectory's question.
        text: of the trajectory.
        ends: `(T,)` characters of `text` up to the end of each token.
        nll: `(T + 1,)`.
        start: prefix length.
        stop: prefix length.
        window: w, in tokens.
    """
    logs = np.log(nll + FLOOR)
    places = range(start, max(start, stop - window + 1))
    words: list[set[str]] = [set() for _ in ends]
    for group, forms in REFLECTION.items():
        for match in re.finditer(rf"(?<![A-Za-z])(?:{'|'.join(map(re.escape, forms))})(?![A-Za-z])", text, re.I):
            words[bisect_right(ends, match.start())].add(group)  # the token that its first letter is in
    begins = (0, *ends[:-1])
    groups = [words[t] | {token_class(text[begins[t] : ends[t]])} for t in places]
    values = np.array([abs(logs[t + window] - logs[t]) for t in places], dtype=np.float64)
    return Effects(question_id, values, tuple(map(frozenset, groups)))


def token_class(token: str) -> str:
    """The class of a token by its text."""
    return next((name for name, pattern in CLASSES.items() if pattern.fullmatch(token)), "other")


def compare_groups(
    measured: Sequence[Effects], rng: np.random.Generator, *, num_resamples: int = 1_000, num_permutations: int = 2_000
) -> list[dict[str, Any]]:
    """For each group that occurs: how often, and its median effect beside that of all other places.

    Intervals (95 %) are bootstrapped over questions. `p` is that of a permutation test of the difference of the two
    medians, in which the effects of each trajectory change places, adjusted for the number of groups (Holm); None
    where all places of all trajectories are of the group.
    """
    names = sorted({name for one in measured for groups in one.groups for name in groups})
    values = np.concatenate([one.values for one in measured]) if measured else np.zeros(0)
    inside = {name: np.array([name in groups for one in measured for groups in one.groups]) for name in names}
    rows: list[dict[str, Any]] = []
    for name in names:
        low, high = _interval(measured, name, rng, num_resamples)
        rest = values[~inside[name]]
        rows.append(
            {"group": name, "n": int(inside[name].sum()), "median": float(np.median(values[inside[name]]))}
            | {"low": low, "high": high, "rest": float(np.median(rest)) if len(rest) else None, "p": None}
        )
    tested = {name: mask for name, mask in inside.items() if not mask.all()}
    p_values = _permutation_p(values, tested, [len(one.values) for one in measured], rng, num_permutations)
    for row in rows:
        row["p"] = p_values.get(row["group"])
    _adjust([row for row in rows if row["p"] is not None])
    return sorted(rows, key=lambda row: -row["median"])


def _interval(measured: Sequence[Effects], name: str, rng: np.random.Generator, resamples: int) -> tuple[float, float]:
    """Percentile interval of the median of a group, questions that have it drawn with replacement."""
    by_question: dict[str, list[float]] = {}
    for one in measured:
        own = [value for value, groups in zip(one.values.tolist(), one.groups, strict=True) if name in groups]
        if own:
            by_question.setdefault(one.question_id, []).extend(own)
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
    """For each group, how often the medians differ as much once the effects of each trajectory have changed places."""

    def apart(shuffled: Floats) -> Floats:
        return np.array([abs(np.median(shuffled[mask]) - np.median(shuffled[~mask])) for mask in inside.values()])

    seen, owner = apart(values), np.repeat(np.arange(len(lengths)), lengths)
    as_much = np.zeros(len(inside))
    for _ in range(permutations if len(inside) else 0):
        as_much += apart(values[np.lexsort((rng.random(len(values)), owner))]) >= seen - _TIE
    return dict(zip(inside, ((1 + as_much) / (1 + permutations)).tolist(), strict=True))


def _adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Holm: the smallest of n p-values counts n-fold, the next n - 1 times, none less than the one before."""
    least = 0.0
    for place, row in enumerate(sorted(rows, key=lambda row: row["p"])):
        least = row["p"] = min(1.0, max(least, row["p"] * (len(rows) - place)))
