r"""Boxes that a text leaves open: where what is written into one ends.

A box is closed when its braces balance, not at the first `}`: `\frac{1}{2}` has three.
"""

from raml_trl.grading.grader import extract_box


def opens_box(stub: str) -> bool:
    """Whether what is written after `stub` is the answer in a box."""
    return extract_box(stub) is None and extract_box(stub + "0}") == "0"


def box_end(stub: str, text: str) -> int | None:
    """How many characters of `text` it takes to close the box that `stub` opens; None if it stays open."""
    for place, character in enumerate(text, start=1):
        if character == "}" and extract_box(stub + text[:place]) is not None:
            return place
    return None
