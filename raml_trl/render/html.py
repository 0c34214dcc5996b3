"""One self-contained page of an analysis: its data, and what draws them, in one file that asks the network for nothing.

Questions, trajectories and tokens are written by models and by the makers of data sets, and may be anything. They stand
in the page as JSON that cannot end its element, and the scripts of `templates/` show them as text, never as HTML.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raml_trl.render.figures import COLOURS
from raml_trl.runtime.files import whole_file

KINDS = ("pseudo_gradient", "loss_landscape", "trajectory_pruning")

_DIGITS = 7  # what float32 has, in half the bytes that a double prints to
# What could end or open an element, what old scripts take for the end of a line, and what UTF-8 does not have.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def write_page(path: Path, kind: str, data: Mapping[str, Any]) -> None:
    """Write a page of one of `KINDS`.

    Args:
        path: the HTML file.
        kind: which of `templates/<kind>.html.j2` draws it.
        data: `title`, `lead` and `model` as text, and what the script of the template reads: mappings, sequences,
            text, integers, floats (kept to 7 digits; those that are not finite become null), booleans and None.

    Raises:
        ValueError: if there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"a page is of a kind in {', '.join(KINDS)}; got {kind!r}")
    environment = Environment(loader=PackageLoader("raml_trl.render"), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template(f"{kind}.html.j2").render(
        title=data["title"], lead=data["lead"], model=data["model"], colours=COLOURS, data=Markup(embedded(data))
    )
    with whole_file(path) as partial:
        partial.write_text(html, encoding="utf-8", errors="replace")


def embedded(value: Any) -> str:
    """JSON of `value` that may stand inside a `<script>` element."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value
