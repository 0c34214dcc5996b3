"""Grade to reward, in the signature TRL calls reward functions with.

Source: RaML, arXiv 2505.19815, eq. 21.
"""

from collections.abc import Callable, Sequence

from raml_trl.grading import Grade, grade
from raml_trl.prompts import find_style

REWARDS: dict[Grade, float] = {
    Grade(correct=True, formatted=True): 1.0,
    Grade(correct=False, formatted=True): 0.0,
    Grade(correct=True, formatted=False): -0.5,
    Grade(correct=False, formatted=False): -1.0,
}
"""Eq. 21. A wrong answer laid out well outranks a right one that is not: what is correct is for metrics to count."""


def make_reward(style: str) -> Callable[..., list[float]]:
    """The reward function for one prompt style: a key of `prompts.STYLES`.

    What it returns is called by TRL with the completions (text, or chat messages of which the last is the model's),
    the data set's `answer` column, and hooks for metrics and for columns of the completions table, to which it reports
    the two bits of every grade.
    """
    find_style(style)

    def answer_reward(
        completions: Sequence[str | list[dict[str, str]]],
        answer: Sequence[str],
        log_metric: Callable[[str, float], None],
        log_extra: Callable[[str, list[bool]], None],
        **_columns: object,
    ) -> list[float]:
        texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
        grades = [grade(text, reference, style=style) for text, reference in zip(texts, answer, strict=True)]
        bits = {"correct": [one.correct for one in grades], "formatted": [one.formatted for one in grades]}
        for name, values in bits.items():
            log_metric(name, sum(values) / len(values))
            log_extra(name, values)
        return [REWARDS[one] for one in grades]

    return answer_reward
