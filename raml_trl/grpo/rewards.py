"""Grade to reward, in the signature TRL calls reward functions with.

Source: RaML, arXiv 2505.19815, eq. 21.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from raml_trl.grading.pool import GradingPool
from raml_trl.prompts import find_style

REWARDS: dict[tuple[bool, bool], float] = {
    (True, True): 1.0,
    (False, True): 0.0,
    (True, False): -0.5,
    (False, False): -1.0,
}
"""Eq. 21, by correct and formatted. A wrong answer laid out well outranks a right one that is not: what is correct is
for metrics to count."""


def make_reward(style: str, *, num_graders: int = 2) -> Callable[..., list[float]]:
    """The reward function for one prompt style: a key of `prompts.STYLES`.

    What it returns is called by TRL with the completions (text, or chat messages of which the last is the model's),
    the data set's `answer` column, and hooks for metrics and for columns of the completions table. It reports the two
    bits of every grade and, where there are any, the shares of completions that no answer could be compared for
    ("timeout", "crash", "unreadable answer", "unreadable reference"), which count as wrong.

    Grading takes at most `num_graders` child processes, started by the first completions that need algebra. They end
    with the function or with the interpreter.
    """
    find_style(style)
    pool = GradingPool(num_graders)

    def answer_reward(
        completions: Sequence[str | list[dict[str, str]]],
        answer: Sequence[str],
        log_metric: Callable[[str, float], None],
        log_extra: Callable[[str, list[Any]], None],
        **_columns: object,
    ) -> list[float]:
        texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
        grades = pool.grade(list(zip(texts, answer, strict=True)), style=style)
        bits = {"correct": [one.correct for one in grades], "formatted": [one.formatted for one in grades]}
        for name, values in bits.items():
            log_metric(name, sum(values) / len(values))
            log_extra(name, values)
        for outcome, number in Counter(one.outcome for one in grades).items():
            if outcome not in ("correct", "wrong", "no answer"):
                log_metric(outcome, number / len(grades))
        return [REWARDS[one.correct, one.formatted] for one in grades]

    weakref.finalize(answer_reward, pool.close)
    return answer_reward
