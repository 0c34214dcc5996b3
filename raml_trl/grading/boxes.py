r"""Finds the contents of `\boxed{...}` in a text.

A box ends where its braces balance, not at the first `}`: the content of `\boxed{\frac{1}{2}}` is `\frac{1}{2}`.
"""

import re
from collections.abc import Iterator

_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)  # `\\.` skips escaped braces, which are text
_BLANK = re.compile(r"\s*")


def extract_answer(text: str) -> str | None:
    """Return the content of the last complete box after the thinking block, or None if there is no such box.

    A box inside a thinking block does not count, even if that block never ends. If every backslash is escaped, as in
    JSON, the box is read without the escapes.
    """
    text = text.rpartition("</think>")[2].partition("<think>")[0]
    box = extract_box(text)
    return extract_box(text.replace("\\\\", "\\")) if box is None and "\\\\boxed" in text else box


def extract_box(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` whose braces balance, or None if there is none.

    An empty box counts only if all boxes are empty.
    """
    last = (-1, -1)  # an empty box counts only if there is no other
    for box in _boxes(text):
        if last[0] < 0 or not _BLANK.fullmatch(text, *box):
            last = max(last, box)
    start, end = last
    return None if start < 0 else text[start:end].strip()


def opens_box(stub: str) -> bool:
    r"""Return whether `stub`, the text that introduces an answer, ends with `\boxed{`, so that the answer is boxed."""
    return extract_box(stub) is None and extract_box(stub + "0}") == "0"


def box_end(stub: str, text: str) -> int | None:
    """Return the number of characters in `text` up to and including the brace that closes the box open at its start.

    `stub` is the text before, which opens the box. Return None if `text` does not close the box.
    """
    first = next((end for _, end in _boxes(stub + text)), None)
    if first is None:
        return None
    brace = text.find("}", max(0, first - len(stub)))
    return None if brace < 0 else brace + 1


def _boxes(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of the content of each complete box, in the order in which the boxes end."""
    if "\\boxed" not in text:
        return
    open_braces: list[int] = []  # for each open brace, the start of its box content, or -1 for an ordinary brace
    for match in _BRACE.finditer(text):
        token = match.group()
        if token == "}":
            start = open_braces.pop() if open_braces else -1
            if start >= 0:
                yield start, match.start()
        elif token[-1] == "{" and token != r"\{":
            open_braces.append(match.end() if len(token) > 1 else -1)
