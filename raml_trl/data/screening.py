"""Which questions can be trained on: every check in turn, and the reason for each that is left out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from raml_trl.data.duplicates import Benchmarks, Overlap
from raml_trl.data.filtering import holds_solution, is_garbled, needs_figure, normalise, strip_markup
from raml_trl.data.key_set import KeySet
from raml_trl.data.records import Task
from raml_trl.grading.grader import readable

REASONS: dict[str, str] = {
    "line is not JSON": "a line in the middle of the file that does not parse",
    "line is not UTF-8": "a line with bytes that are no text",
    "not a row of columns": "a number, a string or null where a mapping should be",
    "id has come before": "two rows with one id: samples are counted by it",
    "no question": "the question is missing or blank",
    "no answer": "the answer is missing or blank, or the solution has no final answer in the form asked for",
    "garbled": "control characters, left where a ligature (fi, ff) or the backslash of a TeX command was lost",
    "solution in the question": "the question brings its own solution along, or a boxed answer",
    "needs a figure": "the question shows a figure or speaks of one, and the model sees only text",
    "duplicate": "the very question has come before",
    "near duplicate": "it has come before but for case, white space, dollar signs and TeX spacing",
    "too long": "more tokens than max_question_tokens",
    "overlaps a benchmark": "it shares too many n-grams with a question of a benchmark",
    "answer the grader cannot read": "no completion could ever be graded right against it",
}
"""What every reason means; those of a row's form are `data.read_tasks`'s."""


@dataclass(frozen=True)
class Refusal:
    """Why a task cannot be trained on, and what shows it."""

    reason: str
    overlap: Overlap | None = None


class Screen:
    """The checks of one pass over a data set; it remembers the questions it has seen.

    Args:
        markup: take HTML and URLs off the question.
        figures: leave questions out that need one.
        duplicates: leave out what has come before.
        count_tokens: of a text, for `max_question_tokens`.
        max_question_tokens: leave out longer questions.
        benchmarks: leave out what overlaps with them by `min_overlap`.
        min_overlap: from 0 to 1.
    """

    def __init__(
        self,
        *,
        markup: bool = True,
        figures: bool = True,
        duplicates: bool = True,
        count_tokens: Callable[[str], int] = len,
        max_question_tokens: float = inf,
        benchmarks: Benchmarks | None = None,
        min_overlap: float = 0.5,
    ) -> None:
        self.markup, self.figures, self.duplicates = markup, figures, duplicates
        self.count_tokens, self.max_question_tokens = count_tokens, max_question_tokens
        self.benchmarks, self.min_overlap = benchmarks or Benchmarks([], ngram_size=1), min_overlap
        self._exact, self._normalised = KeySet(), KeySet()

    def check(self, task: Task) -> Task | Refusal:
        """The task as it is to be kept, its question without markup; or why it is not."""
        question = task.question
        text = question.question
        if self.markup and (stripped := strip_markup(text)) != text:
            text = stripped.strip()
        if not text.strip():
            return Refusal("no question")
        if not question.answer.strip():
            return Refusal("no answer")
        if is_garbled(text) or is_garbled(question.answer):
            return Refusal("garbled")
        if holds_solution(question.question):
            return Refusal("solution in the question")
        if self.figures and needs_figure(question.question):  # markup is what shows it
            return Refusal("needs a figure")
        if self.count_tokens(text) > self.max_question_tokens:
            return Refusal("too long")
        overlap = self.benchmarks.find(text, min_share=self.min_overlap)
        if overlap is not None:
            return Refusal("overlaps a benchmark", overlap)
        if not readable(question.answer):
            return Refusal("answer the grader cannot read")
        if self.duplicates:  # last, so that a copy may stand in for one that was left out
            new = self._exact.add(text)
            if not self._normalised.add(normalise(text)):
                return Refusal("near duplicate" if new else "duplicate")
        return replace(task, question=replace(question, question=text))
