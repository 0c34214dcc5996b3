"""Decides which questions can be trained on, and cleans their text.

The patterns were made for collections of competition problems from the web. Such questions contain links to a wiki,
figures in the drawing language Asymptote, solutions that were copied along with the question, and control characters
where a program has replaced a ligature (fi, ff) or a backslash.
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from raml_trl.data.duplicates import Benchmarks, Overlap, SeenQuestions
from raml_trl.data.json_rows import FAULTS
from raml_trl.data.reading import UNUSABLE
from raml_trl.data.records import Task
from raml_trl.grading.references import UnreadableKind, unreadable_kind

REASONS: dict[str, str] = {
    **FAULTS,
    **UNUSABLE,
    "garbled": "control characters in place of a ligature (fi, ff) or of the backslash of a TeX command",
    "solution in the question": "the question contains its own solution, or a boxed answer",
    "needs a figure": "the question shows or mentions a figure, and the model sees only text",
    "duplicate": "the same question occurred before",
    "near duplicate": "it occurred before, except for case, white space, dollar signs and TeX spacing",
    "too long": "more tokens than max_question_tokens",
    "overlaps a benchmark": "it shares too many n-grams with a question of a benchmark",
    "answer the grader cannot read": "no completion could be graded correct against it",
}
"""The explanation of each reason to leave a row out.

`reading.read_tasks` checks for those of `FAULTS` and `UNUSABLE`. `Screen` checks for the others, and again for a blank
question or answer.
"""

_TAGS = "a|b|br|center|code|details|div|em|font|h[1-6]|hr|i|li|ol|p|pre|s|small|span|strong|summary|table|td|th|tr|u|ul"
_ATTRIBUTES = r"""(?:\s+[\w-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))*"""
_TAG = re.compile(rf"<(/?)({_TAGS}){_ATTRIBUTES}\s*/?>", re.IGNORECASE)
_POWER = re.compile(r"<(sup|sub)>([^<>]{1,100})</\1>", re.IGNORECASE)
_LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\((?:https?://|www\.)[^\s()]*(?:\([^\s()]*\)[^\s()]*)*\)")
_URL = re.compile(r"(?:https?://|www\.)[^\s<>\[\](){}\"']+")
_IMAGE = re.compile(r"!\[[^\[\]]*\]\([^\s()]*\)")

_FIGURE = re.compile(
    r"""\[asy\] | \\includegraphics | \\begin\{tikzpicture\} | !\[[^\]]*\]\( | <img\b | \[img\b | \bsee\ attached\b
    | \.(?:png|jpe?g|gif|svg)\b
    | \b(?:figure|diagram|picture|image|drawing)s?\ (?:below|above|shows?|shown|(?:on|to|at)\ the\ (?:right|left))\b
    | \b(?:in|from|on|see)\ (?:the|this)\ (?:(?:following|accompanying|attached|given)\ )?(?:figure|diagram|picture)s?\b
    | \b(?:in|see)\ (?:figure|diagram|picture)s?\b
    | \b(?:as|is|are)\ (?:shown|pictured|depicted|illustrated)\b(?!\ that)
    | \bshown\ (?:below|above|(?:on|to|at)\ the\ (?:right|left))\b
    | \baccompanying\ (?:figure|diagram|picture|graph|table)""",
    re.IGNORECASE | re.VERBOSE,
)
_SOLUTION = re.compile(
    r"\\boxed\s*\{|<summary>\s*(?:solution|answer)|\[hide\s*=\s*\"?(?:solution|answer)|^\**(?:solution|answer)[:.]\**\s",
    re.IGNORECASE | re.MULTILINE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
# TeX commands whose backslash and first letter were read as an escape sequence: the \t of \theta as a tab, the \n of
# \neq as a line feed, the \r of \right as a carriage return.
_LOST_BACKSLASH = re.compile(r"\t(?:heta|imes|ext\{|riangle|frac)|\n(?:eq|abla)\b|\r(?:ight|ho)\b")


@dataclass(frozen=True)
class Refusal:
    """The reason to leave a task out, and details: the overlap with a benchmark, or the kind of unreadable answer."""

    reason: str
    overlap: Overlap | None = None
    kind: UnreadableKind | None = None


class Screen:
    """Checks the tasks of a dataset one by one, and remembers the questions that passed in order to find duplicates.

    Args:
        markup: remove HTML and URLs from the question.
        figures: leave out questions that need a figure.
        duplicates: leave out repeated questions.
        count_tokens: counts the tokens of a question. Default: one for each character.
        max_question_tokens: leave out questions with more tokens, as `count_tokens` counts them.
        benchmarks: leave out questions that overlap with a question of these benchmarks.
        min_overlap: the smallest overlap, from 0 to 1, for which a question is left out.
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
        self._seen = SeenQuestions()

    def check(self, task: Task) -> Task | Refusal:
        """Return the task, its question without HTML and URLs if `markup` is set, or the reason to leave it out."""
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
        if self.figures and needs_figure(question.question):  # in the original text: the markup may be a figure
            return Refusal("needs a figure")
        if self.count_tokens(text) > self.max_question_tokens:
            return Refusal("too long")
        overlap = self.benchmarks.find(text, min_share=self.min_overlap)
        if overlap is not None:
            return Refusal("overlaps a benchmark", overlap)
        kind = unreadable_kind(question.answer)
        if kind is not None:
            return Refusal("answer the grader cannot read", kind=kind)
        # This check comes last, so that a question left out for another reason does not make a usable copy a duplicate.
        if self.duplicates and (repeats := self._seen.add(text)) is not None:
            return Refusal(repeats)
        return replace(task, question=replace(question, question=text))


def strip_markup(text: str) -> str:
    """Return the text without HTML tags and URLs.

    The words of a link remain, `<sup>` and `<sub>` become TeX powers and indices, and HTML entities become characters.
    Only known tags are removed, so the inequality signs of `a<b and c>d` remain.
    """
    if "<" in text:
        closed = {match[2].lower() for match in _TAG.finditer(text) if match[1]}
        text = _POWER.sub(lambda match: ("^{" if match[1].lower() == "sup" else "_{") + match[2] + "}", text)
        # A one-letter tag that is never closed may be part of an inequality, as in a <b> c.
        text = _TAG.sub(lambda match: match[0] if len(match[2]) == 1 and match[2].lower() not in closed else " ", text)
    if "&" in text:
        text = re.sub(r"&(?:[a-z]{2,8}|#[0-9]{1,6});", lambda match: html.unescape(match[0]), text)
    if "http" in text or "www." in text:
        text = _URL.sub("", _LINK.sub(r"\1", _IMAGE.sub("", text)))
    return text


def needs_figure(text: str) -> bool:
    """Return whether the question shows or mentions a figure."""
    return _FIGURE.search(text) is not None


def holds_solution(text: str) -> bool:
    """Return whether the question contains its own solution."""
    return _SOLUTION.search(text) is not None


def is_garbled(text: str) -> bool:
    """Return whether the text contains control characters, or TeX commands that have lost their backslash."""
    return _CONTROL.search(text) is not None or _LOST_BACKSLASH.search(text) is not None
