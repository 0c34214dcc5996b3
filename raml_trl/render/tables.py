"""Formats numbers and tables, writes tables as Markdown, and escapes untrusted text for Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from raml_trl.runtime.errors import printable

DASH = "\N{EN DASH}"

# Characters that Markdown, or HTML inside Markdown, would interpret. Brackets are no link without the character after
# the closing bracket, so only that character is matched.
_ACTIVE = re.compile(r"([\\`*_<>|&~$]|(?<=\])[(\[:]|^(?:[#+-]|\d+[.)])(?= ))")
_ACTIVE_IN_CELL = re.compile(r"([\\`*<>|&~$]|(?<=\])[(\[:])")
# All characters except letters, digits and the few other characters that neither Markdown nor HTML interprets.
_INERT = re.compile(r"[^\w ./,()-]|_")


@dataclass(frozen=True)
class Cell:
    """A table cell: the value as `text`, its interval (or the reason for no value) as `small`, its p-value as `p`."""

    text: str
    small: str = ""
    p: str = ""


@dataclass(frozen=True)
class Table:
    """A table. `head` has the column names; `note` explains the intervals and lists the rows that were left out."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str


class Estimate(Protocol):
    """A mean and the bounds of its interval. Each is None if there are too few values to compute it."""

    @property
    def mean(self) -> float | None: ...

    @property
    def low(self) -> float | None: ...

    @property
    def high(self) -> float | None: ...


def number(value: float | None, digits: str = ".3f") -> str:
    """Format a number by the format specification `digits`, with a true minus sign (U+2212). None becomes a dash."""
    return DASH if value is None else f"{value:{digits}}".replace("-", "\N{MINUS SIGN}")


def p_value(p: float) -> str:
    """Format a p-value with three decimals, or as "< 0.001" if it is smaller than that."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(value: Estimate | None, digits: str = ".3f", p: float | None = None) -> Cell:
    """Return a table cell with a mean, its interval and its p-value, or with a dash if there is no mean.

    `digits` is the format specification of the mean and of the bounds.
    """
    if value is None or value.mean is None:
        return Cell(DASH)
    has_bounds = value.low is not None and value.high is not None
    small = f"[{number(value.low, digits)}, {number(value.high, digits)}]" if has_bounds else ""
    return Cell(number(value.mean, digits), small, "" if p is None else f"p {p_value(p)}")


def format_interval(value: Mapping[str, float]) -> str:
    """Format the entries `mean`, `low` and `high` as "mean [low, high]", each to three significant digits."""
    return "{mean:.3g} [{low:.3g}, {high:.3g}]".format(**value)


def markdown(table: Table) -> str:
    """Write a table as Markdown, with all its text escaped."""
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
    """Escape `text` with backslashes, so that Markdown shows it unchanged on one line, and control characters too."""
    return _ACTIVE.sub(r"\\\1", printable(" ".join(text.split())))


def escape_cell(text: str) -> str:
    """Escape `text` for a table that is also printed: like `escape_markdown`, but with plain underscores and dashes."""
    return _ACTIVE_IN_CELL.sub(r"\\\1", printable(" ".join(text.split())))


def escape_for_hub(text: str) -> str:
    """Escape `text` with character references, so that Markdown and HTML both show it unchanged on one line.

    Characters that cannot be printed become U+FFFD.
    """

    def reference(match: re.Match[str]) -> str:
        return f"&#{ord(match[0])};" if match[0].isprintable() else "\ufffd"

    return _INERT.sub(reference, " ".join(text.split()))


def code_block(text: str, language: str = "text") -> str:
    """Put `text` into a fenced code block whose fence is longer than any run of backticks in it.

    Control characters become escape sequences.
    """
    text = printable(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def markdown_template(name: str) -> Template:
    """Load a Markdown template by file name. It escapes nothing: pass untrusted text through `escape_for_hub` first."""
    templates = Environment(
        loader=PackageLoader("raml_trl.render"), autoescape=False, undefined=StrictUndefined, trim_blocks=True
    )
    return templates.get_template(name)
