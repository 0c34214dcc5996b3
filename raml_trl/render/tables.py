"""Formats numbers and tables, writes tables as Markdown, and escapes untrusted text for Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite, log10
from typing import Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from raml_trl.runtime.errors import printable

DASH = "\N{EN DASH}"

_MOST_DECIMALS = 9
_ROUNDING = 1e-12  # differences below this are errors of rounding

# Characters that Markdown, or HTML inside Markdown, would interpret. Brackets are no link without the character after
# the closing bracket, so only that character is matched.
# An underscore between letters or digits emphasizes nothing.
_EMPHASIS = r"(?<![^\W_])_|_(?![^\W_])"
_ACTIVE = re.compile(rf"([\\`*<>|&~$]|{_EMPHASIS}|(?<=\])[(\[:]|^(?:[#+-]|\d+[.)])(?= ))")
_ACTIVE_IN_CELL = re.compile(r"([\\`*<>|&~$]|(?<=\])[(\[:])")
# All characters except letters, digits and the few other characters that neither Markdown nor HTML interprets.
_INERT = re.compile(rf"[^\w ./,()-]|{_EMPHASIS}")


@dataclass(frozen=True)
class Cell:
    """A table cell.

    `text` is the value, `small` its confidence interval or the reason why there is no value, and `p` its p-value.
    """

    text: str
    small: str = ""
    p: str = ""


Terms = tuple[tuple[str, str], ...]
"""Technical terms, each with a line that explains it."""


@dataclass(frozen=True)
class Table:
    """A table.

    `head` has the column names. `note` explains the intervals and lists the rows that were left out. `terms` explains
    the terms in the head. `label` says what the table shows, for readers who cannot see it.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    terms: Terms = ()
    label: str = "table"


class Estimate(Protocol):
    """A mean and the bounds of its confidence interval. Each is None if there are too few values to compute it."""

    @property
    def mean(self) -> float | None: ...

    @property
    def low(self) -> float | None: ...

    @property
    def high(self) -> float | None: ...


def number(value: float | None, digits: str = ".3f") -> str:
    """Format a number by the format specification `digits`, with a true minus sign (U+2212). None becomes a dash."""
    return DASH if value is None else f"{value:{digits}}".replace("-", "\N{MINUS SIGN}")


def p_value(p: float, places: int = 3) -> str:
    """Format a p-value with `places` decimals. With three, a p-value below 0.001 becomes "< 0.001"."""
    least: float = 10**-places
    return f"< {least:.{places}f}" if p < least else f"{p:.{places}f}"


def decimal_places(*values: float | None, least: int = 3) -> int:
    """Return the number of decimals with which a mean and the bounds of its interval are written.

    The interval must be at least five units of the last decimal wide, because a small interval would otherwise look
    empty. If there is no interval, or its bounds are equal, the size of the mean must be at least five such units.

    Args:
        values: the mean and the bounds; None and values that are not finite are ignored.
        least: the smallest result. The largest is 9.
    """
    known = [value for value in values if value is not None and isfinite(value)]
    width = max(known, default=0.0) - min(known, default=0.0)
    size = width if width > _ROUNDING else max(map(abs, known), default=0.0)
    return max(least, min(_MOST_DECIMALS, ceil(log10(5 / size) - _ROUNDING))) if size > _ROUNDING else least


def bounded(mean: float, low: float, high: float, *, signed: bool = False, least: int = 3) -> str:
    """Format a mean and its interval as "mean [low, high]", with ASCII signs.

    The function `decimal_places` chooses the number of decimals, which is at least `least`. With `signed`, positive
    numbers have a plus sign.
    """
    form = f"{'+' if signed else ''}.{decimal_places(mean, low, high, least=least)}f"
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def interval(value: Estimate | None, *, signed: bool = False, least: int = 3, p: float | None = None) -> Cell:
    """Return a table cell with the mean of `value`, its interval and the p-value `p`, or a dash if there is no mean.

    The function `decimal_places` chooses the number of decimals of the mean and the bounds, which is at least `least`.
    With `signed`, positive numbers have a plus sign.
    """
    if value is None or value.mean is None:
        return Cell(DASH)
    digits = f"{'+' if signed else ''}.{decimal_places(value.mean, value.low, value.high, least=least)}f"
    has_bounds = value.low is not None and value.high is not None
    small = f"[{number(value.low, digits)}, {number(value.high, digits)}]" if has_bounds else ""
    return Cell(number(value.mean, digits), small, "" if p is None else f"p {p_value(p)}")


def format_interval(value: Mapping[str, float]) -> str:
    """Format the entries `mean`, `low` and `high` as "mean [low, high]", each to three significant digits."""
    return "{mean:.3g} [{low:.3g}, {high:.3g}]".format(**value)


def markdown(table: Table) -> str:
    """Return the head and the rows of a table as Markdown, with all text escaped. Its note and terms are left out."""
    rows = [[escape_markdown(name) for name in table.head]]
    rows += [[escape_markdown(f"{cell.text} {cell.small} {cell.p}") for cell in row] for row in table.rows]
    return markdown_table(rows)


def markdown_table(rows: Sequence[Sequence[str]], *, aligned: bool = True) -> str:
    """Write `rows` as a Markdown table. Nothing is escaped.

    Args:
        rows: the rows, each a sequence of cells; the first row is the head.
        aligned: pad all cells of a column to the same width.
    """
    head, *body = rows
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if aligned else [0] * len(head)
    rule = ["-" * (width or 3) for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (head, rule, *body)
    )


def escape_markdown(text: str) -> str:
    r"""Escape `text` with backslashes, so that Markdown shows it unchanged on one line.

    Control characters become escape sequences such as `\x1b`.
    """
    return _ACTIVE.sub(r"\\\1", printable(" ".join(text.split())))


def escape_cell(text: str) -> str:
    """Escape `text` for a Markdown table that the terminal shows as well.

    This does the same as `escape_markdown`, but leaves underscores and dashes without a backslash.
    """
    return _ACTIVE_IN_CELL.sub(r"\\\1", printable(" ".join(text.split())))


def escape_for_hub(text: str) -> str:
    """Escape `text` with character references, so that Markdown and HTML both show it unchanged on one line.

    Characters that cannot be printed become U+FFFD.
    """

    def reference(match: re.Match[str]) -> str:
        return f"&#{ord(match[0])};" if match[0].isprintable() else "\ufffd"

    return _INERT.sub(reference, " ".join(text.split()))


def code_block(text: str, language: str = "text") -> str:
    """Put `text` into a fenced code block whose fence is longer than any run of backticks in the text.

    `language` stands behind the first fence. Control characters become escape sequences.
    """
    text = printable(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def code_span(text: str) -> str:
    """Put `text` into a code span of one line. Its backticks become apostrophes, and control characters are escaped."""
    return f"`{printable(' '.join(text.split())).replace('`', chr(39))}`"


def markdown_template(name: str) -> Template:
    """Return the Jinja template of a Markdown page, by file name.

    The template escapes nothing: pass untrusted text through `escape_for_hub` first.
    """
    templates = Environment(
        loader=PackageLoader("raml_trl.render"), autoescape=False, undefined=StrictUndefined, trim_blocks=True
    )
    return templates.get_template(name)
