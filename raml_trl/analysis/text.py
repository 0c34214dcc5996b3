r"""Finds where the text of a trajectory first states the answer, and splits the text into sentences.

A text states the answer if it contains the answer anywhere. From there on the model can copy the answer, so
the likelihood of the answer no longer says anything about the reasoning.
"""

import re
from collections.abc import Iterator

from raml_trl.grading.notation import compact, normalise
from raml_trl.grading.numbers import MAX_CHARACTERS, exact

_NUMBER = re.compile(
    r"\\[dtc]?frac\s*\{[^{}]{1,40}\}\s*\{[^{}]{1,40}\}|(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:\s?/\s?[0-9]+)?|\.[0-9]+",
    re.ASCII,
)
_SIGN = re.compile(r"[-−]\s*\Z")  # noqa: RUF001

# A sentence ends at the end of a line, at a semicolon (which ends a step in the embedded arithmetic world; `\;` is a
# space in LaTeX), or at a full stop, exclamation mark or question mark before a space.
_SENTENCE_END = re.compile(r"(?:\n|(?<!\\);|[.!?][)\]}\"'*$]*(?=\s))\s*")
_LABEL = re.compile(r"\s*(?:[0-9]{1,3}[.)]|[-*+])\s*")


def first_statement(text: str, answer: str) -> int | None:
    r"""Return the length in characters of the shortest prefix of `text` that contains the answer; None without one.

    A number counts in any form, but not as part of a longer number: `0.50` states `\frac{1}{2}`, and `17` does not
    state `7`. Any other answer must appear as `answer` spells it, or as the grader spells it
    (`grading.notation.normalise`); spaces are ignored. The text may contain the answer by chance, for example as an
    intermediate result. The prefix therefore ends at the earliest place from which the model could copy the answer, not
    where the text concludes.
    """
    value = exact(normalise(answer))
    if value is None:
        return _first_spelling(text, answer)
    for match in _NUMBER.finditer(text):
        negative = _SIGN.search(text, max(0, match.start() - 3), match.start()) is not None
        for length in _number_lengths(match.group()):
            number = exact(normalise(match.group()[:length]))
            # A minus before a number may be its sign or a subtraction: either reading states the answer.
            if number is not None and (number == value or (negative and -number == value)):
                return match.start() + length
    return None


def split_sentences(text: str) -> list[str]:
    """Split `text` into sentences, each with the white space that follows it. Joined, the sentences give `text` again.

    The label of a list item, such as `2. `, belongs to the sentence after it.
    """
    sentences, start = [], 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
        piece = text[start:end]
        if piece and (end == len(text) or (piece.strip() and not _LABEL.fullmatch(piece))):
            sentences.append(piece)
            start = end
    return sentences


def _number_lengths(number: str) -> Iterator[int]:
    """Yield the lengths that a matched number may have: `3/4` may be a 3 and a slash."""
    yield len(number)
    if "/" in number and not number.startswith("\\"):
        yield number.index("/")


def _first_spelling(text: str, answer: str) -> int | None:
    """Return what `first_statement` returns, for an answer that is not a number."""
    if len(answer) > MAX_CHARACTERS:
        return None
    ends = []
    for spelling in {"".join(answer.split()), compact(normalise(answer))} - {""}:
        pattern = r"\s*".join(map(re.escape, spelling))
        before = r"(?<![A-Za-z0-9])" if spelling[0].isalnum() else ""
        after = r"(?![A-Za-z0-9])" if spelling[-1].isalnum() else ""
        ends += [match.end() for match in [re.search(before + pattern + after, text)] if match]
    return min(ends, default=None)
