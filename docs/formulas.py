r"""Formulas of the pages as MathML, for mkdocs: browsers show them without JavaScript and without a network.

The Markdown extension `arithmatex` marks a formula as `\(...\)` or `\[...\]` in an element of the class `arithmatex`.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace the formulas of a page."""

    def converted(formula: re.Match[str]) -> str:
        element, tex = formula.groups()
        return convert(html.unescape(tex), display="block" if element == "div" else "inline")

    return _FORMULA.sub(converted, content)
