"""Tables of a report: made once, shown as HTML by the template and as Markdown here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raml_trl.render.figures import markdown_table

DASH = "\N{EN DASH}"

# What Markdown, or the HTML within it, would read as more than text. Brackets alone are no link.
_ACTIVE = re.compile(r"([\\`*_<>|&~$]|(?<=\])[(\[:]|^(?:[#+-]|\d+[.)])(?= ))")


@dataclass(frozen=True)
class Cell:
    """A value, and beside it what is small: its interval, or the reason why there is no value; and its p-value."""

    text: str
    small: str = ""
    p: str = ""


@dataclass(frozen=True)
class Table:
    """`head` names the columns of `rows`; `note` says what the intervals mean, and what is left out."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str


def number(value: float | None, digits: str = ".3f") -> str:
    """A number, or a dash for None; with a true minus sign."""
    return DASH if value is None else f"{value:{digits}}".replace("-", "\N{MINUS SIGN}")


def interval(value: Mapping[str, Any] | None, digits: str = ".3f") -> Cell:
    """Of `mean`, `low` and `high`, the last two of which may be None; with `p_value`, that too."""
    if value is None or value["mean"] is None:
        return Cell(DASH)
    small = "" if value["low"] is None else f"[{number(value['low'], digits)}, {number(value['high'], digits)}]"
    p = f"p {p_value(value['p_value'])}" if "p_value" in value else ""
    return Cell(number(value["mean"], digits), small, p)


def difference(value: Mapping[str, Any], digits: str = "+.3f") -> Cell:
    """Of `mean`, `low`, `high` and `p_value`; or of `reason`, why there is none."""
    return Cell(DASH, value["reason"]) if "reason" in value else interval(value, digits)


def p_value(p: float) -> str:
    """To three places, and below that as a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def markdown(table: Table) -> str:
    """The table."""
    rows = [[escaped(name) for name in table.head]]
    return markdown_table(
        rows + [[escaped(f"{cell.text} {cell.small} {cell.p}") for cell in row] for row in table.rows]
    )


def escaped(text: str) -> str:
    """`text` as Markdown that shows it, on one line."""
    return _ACTIVE.sub(r"\\\1", " ".join(text.split()))


def fenced(text: str) -> str:
    """`text` as a block of code, whatever backticks it has."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
