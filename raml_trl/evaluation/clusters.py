"""Which samples of a question give the same answer, as the grader sees it: what each of them votes for in maj@k."""

from collections import Counter
from collections.abc import Sequence

from raml_trl.grading.grader import Outcome, extract_answer
from raml_trl.grading.pool import GradingPool

_CORRECT = ""  # stands for all correct answers; none is empty
_ABSTAINING = ("no answer", "unreadable answer")
_UNFINISHED = ("timeout", "crash")


def number_answers(questions: Sequence[Sequence[tuple[str, Outcome]]], pool: GradingPool) -> list[list[int | None]]:
    """The number of every sample's answer within its question, from 0 in order of first appearance; None abstains.

    Samples graded correct have one answer, since each is equal to the reference, and no other sample joins them. The
    others are held against each other by the grader, all questions at once in as many rounds as one of them has
    different answers: in each, what is left of a question is held against the commonest of it, as the reference.

    Who has no answer abstains, and so does who has one that cannot be read: no other can be told to equal it, so that
    counting it as a vote would scatter what may be one answer. An answer on which the grader ran out of time or died
    can be read. It votes, together with those spelt alike, and is not compared again, as that would end no better.

    The grader's equality is not quite one: 50% equals 0.5 and 50, which differ, and it may say another thing of two
    answers held against each other the other way round. Which answers are held against which follows from their number
    and spelling, not from the order of the samples; so which samples agree does not depend on the order either, unless
    a comparison is near its deadline.

    Args:
        questions: of every sample of each, its text and the outcome of its grading.
        pool: compares, with its deadline for each pair.
    """
    keys = [[_key(text, outcome) for text, outcome in samples] for samples in questions]
    leaders: list[dict[str, str]] = [{} for _ in questions]
    waiting = [_to_compare(own, samples) for own, samples in zip(keys, questions, strict=True)]
    while any(waiting):
        told = iter(pool.compare([(one, left[0]) for left in waiting for one in left[1:]]))
        for led, left in zip(leaders, waiting, strict=True):
            led |= {one: left[0] for one in left[1:] if next(told) == "correct"}
            left[:] = [one for one in left[1:] if one not in led]
    return [_numbers(own, led) for own, led in zip(keys, leaders, strict=True)]


def _key(text: str, outcome: Outcome) -> str | None:
    """What is equal for samples that need no comparison; None for one that abstains."""
    if outcome in _ABSTAINING:
        return None
    return _CORRECT if outcome == "correct" else extract_answer(text)


def _to_compare(keys: Sequence[str | None], samples: Sequence[tuple[str, Outcome]]) -> list[str]:
    """The answers to hold against each other, the commonest first, then the shortest."""
    counts = Counter(key for key in keys if key)
    unfinished = {key for key, (_, outcome) in zip(keys, samples, strict=True) if outcome in _UNFINISHED}
    return sorted(counts.keys() - unfinished, key=lambda one: (-counts[one], len(one), one))


def _numbers(keys: Sequence[str | None], leaders: dict[str, str]) -> list[int | None]:
    numbers: dict[str, int] = {}
    return [None if key is None else numbers.setdefault(leaders.get(key, key), len(numbers)) for key in keys]
