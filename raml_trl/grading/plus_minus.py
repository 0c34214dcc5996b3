r"""Writes out the values that an answer has for the signs \pm and \mp."""

import re
from collections.abc import Iterator
from itertools import product

PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_MAX_SIGNS = 4  # in one answer: 16 values


def both_signs(text: str) -> Iterator[str]:
    r"""Yield the values that `text` stands for: `1 + 2` and `1 - 2` for `1 \pm 2`.

    Several signs \pm are independent. If there is also a \mp, all signs \pm are equal, and \mp is their opposite. A
    text with none of these signs, or with more than 4 of them, is yielded unchanged.
    """
    signs = PLUS_MINUS.findall(text)
    if not signs or len(signs) > _MAX_SIGNS:
        yield text
        return
    for choice in product("+-", repeat=1 if r"\mp" in signs else len(signs)):
        chosen = iter(choice * (len(signs) // len(choice)))

        def signed(match: re.Match[str], chosen: Iterator[str] = chosen) -> str:
            sign = next(chosen)
            return sign if match[0] == r"\pm" else {"+": "-", "-": "+"}[sign]

        spelled = PLUS_MINUS.sub(signed, text)
        yield re.sub(r"(^|[(,=]) ?\+", r"\1", spelled).strip()
