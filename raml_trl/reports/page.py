"""The page of a report, and the same as Markdown: sections of figures, tables and completions.

Names, questions and completions may be anything: they are escaped in the HTML and in the Markdown, and the script that
draws the figures shows them as text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raml_trl.render.figures import COLOURS
from raml_trl.render.html import embedded
from raml_trl.render.tables import Table, code_block, escape_markdown, markdown


@dataclass(frozen=True)
class Figure:
    """What the page's script draws: a `kind` it knows, the `data`, and the `title` above it."""

    kind: str
    title: str
    data: dict[str, Any]


@dataclass(frozen=True)
class ShownCompletion:
    """A text of a model; `verdict` is right or wrong, `facts` what else is known; `pale` where it did not count."""

    question: str
    text: str
    verdict: str
    facts: str = ""
    pale: bool = False


@dataclass(frozen=True)
class Block:
    """A part of a section: its title if it needs one, a sentence, figures and their caption, tables, completions."""

    title: str = ""
    text: str = ""
    figures: Sequence[Figure] = ()
    caption: str = ""
    tables: Sequence[Table] = ()
    completions: Sequence[ShownCompletion] = ()
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """What stands under a heading. `name` is its anchor."""

    name: str
    title: str
    blocks: Sequence[Block]


def html_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page, one file that asks the network for nothing. Its script draws the figures; all else stands in it."""
    figures = [figure for section in sections for block in section.blocks for figure in block.figures]
    environment = Environment(loader=PackageLoader("raml_trl.render"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html.j2").render(
        title=title,
        lead=lead,
        sections=sections,
        places={id(figure): place for place, figure in enumerate(figures)},
        identity=id,
        colours=COLOURS,
        data=Markup(embedded({"figures": [{"kind": one.kind, "title": one.title, **one.data} for one in figures]})),
    )


def markdown_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The same text, tables and completions."""
    parts = [f"# {escape_markdown(title)}", escape_markdown(lead)]
    for section in sections:
        blocks = [block for block in section.blocks if block.text or block.tables or block.completions]
        parts.append(f"## {escape_markdown(section.title)}" if blocks else "")
        for block in blocks:
            parts += [f"### {escape_markdown(block.title)}" if block.title else "", escape_markdown(block.text)]
            for table in block.tables:
                parts += [markdown(table), escape_markdown(table.note)]
            for one in block.completions:
                told = ", ".join(filter(None, (one.verdict, one.facts)))
                parts += [escape_markdown(f"{told}: {one.question}"), code_block(one.text)]
    return "\n\n".join(filter(None, parts)) + "\n"
