"""Renders the sections of a report as one HTML page and as Markdown.

Names, questions and completions are untrusted text. They are escaped in both formats, and the script that draws the
figures inserts them as text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raml_trl.render.html import render_page
from raml_trl.render.tables import Table, Terms, code_block, escape_markdown, markdown


@dataclass(frozen=True)
class Figure:
    """A figure that the script of the page draws. `kind` names the drawing function, and `data` is its input."""

    kind: str
    title: str
    data: Mapping[str, object]


@dataclass(frozen=True)
class ShownCompletion:
    """A completion as the page shows it.

    `verdict` is right, wrong or not graded. `facts` is more text about the completion, shown after the verdict, such as
    "selected, advantage +0.54". If `pale` is set, the completion is shown faded, as rollouts that were not selected
    are.
    """

    question: str
    text: str
    verdict: str
    facts: str = ""
    pale: bool = False


@dataclass(frozen=True)
class Block:
    """A part of a section. It shows its title, text, figures with their caption, tables and completions, in this order.

    `terms` explains the terms in the figures, below their caption. A `folded` block shows only its title until the
    reader opens it.
    """

    title: str = ""
    text: str = ""
    figures: Sequence[Figure] = ()
    caption: str = ""
    terms: Terms = ()
    tables: Sequence[Table] = ()
    completions: Sequence[ShownCompletion] = ()
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """Blocks under one heading; `name` is the anchor of the heading."""

    name: str
    title: str
    blocks: Sequence[Block]


def html_page(
    title: str, lead: str, sections: Sequence[Section], *, status: str = "", refresh: int | None = None
) -> str:
    """Render a self-contained HTML page. It loads nothing from the network; its script draws the figures.

    Args:
        title: heading of the page.
        lead: introduction below the title.
        sections: the content.
        status: text that says which runs are still running.
        refresh: a browser loads the page again after this number of seconds; None: never.
    """
    figures = [figure for section in sections for block in section.blocks for figure in block.figures]
    data = {"figures": [{"kind": figure.kind, "title": figure.title, **figure.data} for figure in figures]}
    return render_page(
        "report.html.j2",
        data,
        title=title,
        lead=lead,
        sections=sections,
        places={id(figure): place for place, figure in enumerate(figures)},
        identity=id,
        status=status,
        refresh=refresh,
    )


def markdown_page(title: str, lead: str, sections: Sequence[Section], *, status: str = "") -> str:
    """Render the text, tables and completions of `sections` as Markdown, without the figures.

    The arguments are those of `html_page`.
    """
    parts = [f"# {escape_markdown(title)}", escape_markdown(lead), escape_markdown(status)]
    for section in sections:
        blocks = [block for block in section.blocks if block.text or block.tables or block.completions]
        parts.append(f"## {escape_markdown(section.title)}" if blocks else "")
        for block in blocks:
            parts += [f"### {escape_markdown(block.title)}" if block.title else "", escape_markdown(block.text)]
            for table in block.tables:
                parts += [markdown(table), escape_markdown(table.note), _terms(table.terms)]
            for completion in block.completions:
                facts = ", ".join(filter(None, (completion.verdict, completion.facts)))
                parts += [escape_markdown(f"{facts}: {completion.question}"), code_block(completion.text)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _terms(terms: Terms) -> str:
    return "\n".join(f"- {escape_markdown(f'{term}: {meaning}')}" for term, meaning in terms)
