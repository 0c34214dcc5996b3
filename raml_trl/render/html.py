"""Writes HTML pages. Each page is one self-contained file and loads nothing from the network.

Questions, trajectories and tokens come from models and datasets, so they are untrusted. A page holds them as JSON in a
`<script>` element, escaped so that they cannot end this element. The scripts in `templates/` insert them into the page
as text, never as HTML.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raml_trl.render.figures import COLOURS
from raml_trl.runtime.errors import printable
from raml_trl.runtime.files import whole_file

KINDS = ("pseudo_gradient", "loss_landscape", "trajectory_pruning")

_DIGITS = 7  # the precision of float32; a number takes half the bytes that a double with all digits takes
# Characters that could end or open an element, that older scripts read as line ends, that control a terminal or the
# direction of text, or that UTF-8 cannot encode.
_UNSAFE = re.compile("[<>&\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def write_page(path: Path, kind: str, data: Mapping[str, object]) -> None:
    """Write the page of an analysis.

    Args:
        path: the HTML file.
        kind: one of `KINDS`; selects the template.
        data: `title`, `lead` (the introduction) and `model` as text, and the values that the template's script reads.
            Values may be mappings, sequences, text, numbers, booleans and None. Floats keep 7 digits; NaN and infinity
            become null.

    Raises:
        ValueError: if `kind` is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"the kind of a page must be one of {', '.join(KINDS)}; got {kind!r}")
    html = render_page(f"{kind}.html.j2", data, title=data["title"], lead=data["lead"], model=data["model"])
    with whole_file(path) as partial:
        partial.write_text(html, encoding="utf-8", errors="replace")


def render_page(template: str, data: object, **values: object) -> str:
    """Render an HTML template.

    Args:
        template: file name of the template in `templates/`.
        data: the values that the template's script reads, of the types that `write_page` allows.
        values: the values that the template inserts into the HTML; they are escaped.
    """
    environment = Environment(loader=PackageLoader("raml_trl.render"), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template(template).render(**values, colours=COLOURS, data=Markup(_embedded_json(data)))
    return printable(html)  # the data have no control characters left: they are escaped as JSON


def _embedded_json(value: object) -> str:
    """Serialise `value` as JSON that is safe inside a `<script>` element."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: object) -> object:
    """Convert `value` to types that JSON can represent."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
