"""Turns grades into rewards: makes the reward function that TRL calls.

Source: RaML, arXiv 2505.19815, eq. 21.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Sequence

from raml_trl.grading.pool import GradingPool
from raml_trl.prompts import find_style

REWARDS: dict[tuple[bool, bool], float] = {
    (True, True): 1.0,
    (False, True): 0.0,
    (True, False): -0.5,
    (False, False): -1.0,
}
"""Eq. 21: the reward by (correct, formatted).

A wrong answer in the right format earns more than a correct answer in the wrong format. Use the metric `correct`, not
the reward, to count correct answers.
"""


def make_reward(style: str, *, num_graders: int = 2) -> Callable[..., list[float]]:
    """Return a reward function for TRL.

    TRL calls it with the completions (text, or chat messages that end with the model's), the dataset's `answer` column,
    and hooks for metrics and for columns of the completions table. It logs `correct` and `formatted` of every grade. If
    some answers could not be compared, it also logs their share by outcome ("timeout", "crash", "unreadable answer",
    "unreadable reference"); they count as wrong.

    Args:
        style: of the prompt, a key of `prompts.STYLES`.
        num_graders: child processes for grading, at most. They start with the first completions that need computer
            algebra, and end with the function or the interpreter.
    """
    find_style(style)
    pool = GradingPool(num_graders)

    def answer_reward(
        completions: Sequence[str | list[dict[str, str]]],
        answer: Sequence[str],
        log_metric: Callable[[str, float], None],
        log_extra: Callable[[str, list[bool]], None],
        **_columns: object,
    ) -> list[float]:
        texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
        grades = pool.grade(list(zip(texts, answer, strict=True)), style=style)
        bits = {"correct": [grade.correct for grade in grades], "formatted": [grade.formatted for grade in grades]}
        for name, values in bits.items():
            log_metric(name, sum(values) / len(values))
            log_extra(name, values)
        for outcome, number in Counter(grade.outcome for grade in grades).items():
            if outcome not in ("correct", "wrong", "no answer"):
                log_metric(outcome, number / len(grades))
        return [REWARDS[grade.correct, grade.formatted] for grade in grades]

    weakref.finalize(answer_reward, pool.close)
    return answer_reward
