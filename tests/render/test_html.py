"""Pages of analyses: text in their data stays text, nothing is loaded from the network, and a browser shows them.

The browser is a headless Chromium, if one is installed. The tests add a script to the page (`pages_in_browser.js`) that
moves the pointer over it and records what the page then shows.
"""

import html
import itertools
import json
import math
import re
import shutil
import subprocess
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from raml_trl.render.figures import COLOURS
from raml_trl.render.html import KINDS, write_page
from raml_trl.render.tables import decimal_places
from tests.helpers import REPOSITORY

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--",
    "<!--<script>",
    "-->",
    "]]>",
    "</title></style><img src=x onerror=alert(1)>",
    "&lt;script&gt;&amp;",
    "\u2028\u2029",
    "a\nb\tc\r\0",
    "\"'`\\u003c ${alert(1)} {{ 1 }} {% raw %}",
    "\ud83d",
    "模型 ✓ \u202e",
]
COMMON = {"title": "A title", "lead": "A lead", "model": "a/model"}


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


def pseudo_gradient() -> dict[str, Any]:
    tokens = [
        "<think>",
        "\n",
        " Wait",
        "\u202e,",
        "</script><script>alert(1)</script>",
        "<!--",
        " 4",
        " 2",
        "</think>",
        "",
    ]
    trajectories = [
        {
            "question": f"What is {number} & <b>?",
            "answer": "42",
            "number": number,
            "correct": correct,
            "mode": mode,
            "tokens": tokens[: len(tokens) - number],
            "nll": [2.5, 2.7, 2.2, 3.5, 3.4, 1.2, 1.3, 1.0, 0.25, 0.15, float("nan")][: 11 - number],
            "thinking_end": 8,
            "stated": 8 if correct else None,
        }
        for number, (correct, mode) in enumerate([(True, "thinking"), (False, "thinking"), (True, "no_thinking")])
    ]
    bands = [
        {"mode": "thinking", "correct": True, "axis": axis, "x": x, "mean": [mean, 1.5, 1.0]}
        | {"low": [1.0, 0.5, 0.25], "high": [4.0, 2.5, 2.0], "count": [7, 6, 5]}
        for axis, x, mean in (("tokens", [0, 1, 2], 3.0), ("share", [0, 0.5, 1], 2.75))
    ]
    descent = [
        {"mode": "thinking", "correct": True, "trajectories": 2}
        | {"slope": interval(-1.5), "area": interval(-0.75), "share": interval(0.875)}
    ]
    effects = [
        {"group": "<wait>", "n": 17, "median": 0.5, "low": 0.25, "high": 0.75, "p": 0.0421},
        {"group": "number", "n": 230, "median": 0.125, "low": 0.1, "high": 0.2, "p": None},
    ]
    unknown = {"share": 1.0, "auc": None, "auc_within": None, "right": 0, "wrong": 3, "left_out": 4}
    prediction = [
        {"share": 0.5, "auc": 0.8125, "auc_within": interval(0.75), "right": 4, "wrong": 3, "left_out": 0},
        {"share": 0.75, "auc": 0.5, "auc_within": None, "right": 1, "wrong": 3, "left_out": 3},
        unknown,
    ]
    return (
        COMMON
        | {"trajectories": trajectories, "bands": bands, "descent": descent, "token_effects": effects}
        | {"prediction": prediction}
    )


def loss_landscape(dimensions: int) -> dict[str, Any]:
    """Neither square nor symmetric, so that swapped axes or a wrong direction show up."""
    alpha, beta = [-1.0, -0.5, 0.0, 0.5, 1.0], [-0.2, 0.0, 0.2, 0.4]
    surface: Any = [[1 + (a + 0.5) ** 2 + 5 * (b - 0.2) ** 2 + 0.1 * a * b for b in beta] for a in alpha]
    surface[4][3] = math.inf
    axes = [{"name": "<i>alpha", "values": alpha}, {"name": "beta", "values": beta}][:dimensions]
    marks = [{"name": "the <model>", "at": [0.0, 0.0][:dimensions], "loss": 1.45}]
    numbers = {"base_loss": interval(1.45), "curvature": 2.5}
    loss = surface if dimensions == 2 else [row[1] for row in surface]
    return COMMON | {"questions": 3, "axes": axes, "loss": loss, "marks": marks, "numbers": numbers}


def trajectory_pruning() -> dict[str, Any]:
    rows = [
        ("none", None, 900, 0.75, True),
        ("budget", "0.25", 300, 0.5, True),
        ("budget", "0.5", 500, 0.4375, False),
        ("<img>", None, 20, 0.125, True),
    ]
    methods = [
        {"name": name, "setting": setting, "tokens": {"mean": tokens, "low": tokens - 9.0, "high": tokens + 9.0}}
        | {"accuracy": interval(accuracy), "leaked": 0.375, "n": 64, "frontier": frontier}
        for name, setting, tokens, accuracy, frontier in rows
    ]
    example = {"question": "<b>Q</b>", "answer": "42", "before": "<script>\nkept\ncut", "after": "<script>\nkept"}
    examples = [
        example | {"method": "budget", "setting": "0.5", "tokens_before": 90, "tokens_after": 30}
        | {"correct": correct, "leaked": not correct}
        for correct in (True, False)
    ]  # fmt: skip
    return COMMON | {"methods": methods, "examples": examples}


SAMPLES = [
    ("pseudo_gradient", pseudo_gradient()),
    ("loss_landscape", loss_landscape(1)),
    ("loss_landscape", loss_landscape(2)),
    ("trajectory_pruning", trajectory_pruning()),
]
EVERY_PAGE = pytest.mark.parametrize(("kind", "data"), SAMPLES, ids=["curve", "line", "plane", "pruning"])


class Page(HTMLParser):
    """The elements of a page, in order, each with its name, attributes and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.comments: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes), []))

    def handle_data(self, data: str) -> None:
        if self.elements:
            self.elements[-1][2].append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(text) for name, _, text in self.elements if name == tag]

    @property
    def json(self) -> str:
        [parts] = [text for _, attributes, text in self.elements if attributes.get("type") == "application/json"]
        return "".join(parts)


def write(tmp_path: Path, kind: str, data: dict[str, Any]) -> Page:
    write_page(tmp_path / "page.html", kind, data)
    return Page(tmp_path / "page.html")


def test_data_survive_a_round_trip(tmp_path: Path) -> None:
    data = loss_landscape(2) | {"texts": HOSTILE, "numbers": {"π": 1 / 3, "one": 1, "none": None, "yes": True}}
    data["pair"] = (0.1, 1e-300)
    back = json.loads(write(tmp_path, "loss_landscape", data).json)
    assert back["texts"] == HOSTILE
    assert back["numbers"] == {"π": 0.3333333, "one": 1, "none": None, "yes": True}
    assert back["pair"] == [0.1, 1e-300]
    assert back["axes"] == data["axes"]


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    data = loss_landscape(1) | {"loss": [math.nan, math.inf, -math.inf, 0.0, 1.0]}
    assert json.loads(write(tmp_path, "loss_landscape", data).json)["loss"] == [None, None, None, 0.0, 1.0]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
def test_untrusted_text_stays_text(tmp_path: Path, kind: str, text: str) -> None:
    data = dict(next(data for name, data in SAMPLES if name == kind))
    harmless = write(tmp_path, kind, data)
    page = write(tmp_path, kind, data | {"title": text, "lead": text, "model": text, "more": [text, {text: text}]})
    assert [name for name, _, _ in page.elements] == [name for name, _, _ in harmless.elements]
    assert page.comments == harmless.comments == []
    assert not re.search("[<>&\u2028\u2029]", page.json)
    assert json.loads(page.json)["more"] == [text, {text: text}]
    escapes = {
        "\r": "\\x0d",
        "\0": "\\x00",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
        "\u202e": "\\u202e",
        "\ud83d": "\\ud83d",
    }
    seen = "".join(escapes.get(character, character) for character in text)
    assert page.texts("title") == [seen + "\n"]  # the template ends the line


@EVERY_PAGE
def test_nothing_is_loaded_from_the_network(tmp_path: Path, kind: str, data: dict[str, Any]) -> None:
    page = write(tmp_path, kind, data)
    assert not re.search(r"//[a-z0-9]|url\((?!#)|@import|@font-face", page.source, re.IGNORECASE)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import)\b *\(", page.source)
    for name, attributes, _ in page.elements:
        if (attributes.get("href") or "").startswith("#"):
            del attributes["href"]  # a place in the page
        assert not {"src", "href", "srcset", "action", "data", "background", "poster"} & set(attributes), name
        assert name not in ("link", "base", "iframe", "object", "embed", "form", "img"), name


@EVERY_PAGE
def test_the_keyboard_reaches_everything(tmp_path: Path, kind: str, data: dict[str, Any]) -> None:
    """The first stop skips to the content, and every part that scrolls is a named stop."""
    elements = write(tmp_path, kind, data).elements
    skip = next(attributes for name, attributes, _ in elements if name == "a")
    assert (skip["class"], skip["href"]) == ("skip", "#main")
    assert [name for name, attributes, _ in elements if attributes.get("id") == "main"] == ["main"]
    scrolled = [attributes for _, attributes, _ in elements if "scroll" in (attributes.get("class") or "").split()]
    assert scrolled
    for attributes in scrolled:
        assert (attributes["tabindex"], attributes["role"]) == ("0", "region")
        assert attributes["aria-label"]


@EVERY_PAGE
def test_only_a_watched_report_refreshes_itself(tmp_path: Path, kind: str, data: dict[str, Any]) -> None:
    elements = write(tmp_path, kind, data).elements
    assert "refresh" not in [attributes.get("http-equiv") for _, attributes, _ in elements]


@pytest.mark.children
@needs_browser
def test_scripts_and_tables_agree_on_digits(tmp_path: Path) -> None:
    means = [(0.5, 0.4, 0.6), (0.3003, 0.3001, 0.3006), (0.9997, 0.9992, 1.0), (0.0, 0.0, 0.0), (0.25, 0.25, 0.25)]
    means += [
        (-2e-5, -9e-5, 4e-5),
        (1234.6, 1200.0, 1260.0),
        (5.0, 4.99999, 5.00001),
        (0.05, 0.0, 0.05),
        (7.5, 5.0, 10.0),
    ]
    numbers = {f"n{i}": dict(zip(("mean", "low", "high"), values, strict=True)) for i, values in enumerate(means)}
    seen = browse(tmp_path, "loss_landscape", loss_landscape(1) | {"numbers": numbers}, "numbers")

    def written(values: tuple[float, ...]) -> str:
        largest = max(map(abs, values))
        least = min(8, max(0, 2 - math.floor(math.log10(largest)))) if largest else 2  # three digits of the largest
        form = f",.{decimal_places(*values, least=least)}f"
        return "{} [{}, {}]".format(*(format(value, form) for value in values))

    assert seen["numbers"] == [written(values) for values in means]


@pytest.mark.children
@needs_browser
def test_terms_are_explained_and_empty_groups_hidden(tmp_path: Path) -> None:
    data = pseudo_gradient()
    data["trajectories"] = [row for row in data["trajectories"] if row["mode"] == "thinking"]
    empty = {"mode": "no_thinking", "correct": False, "trajectories": 0, "left_out": 4}
    seen = browse(tmp_path, "pseudo_gradient", data | {"descent": [*data["descent"], empty]}, "terms")
    assert {"slope", "area", "share descending", "NLL", "number", "not measured"} <= set(seen["terms"])
    assert "no thinking, wrong, after every token" in seen["meanings"]
    assert seen["rows"] == ["thinking, right"]
    assert seen["predicted"] == [
        ["50 %", "0.750 [0.700, 0.800]", "0.813", "4", "3", "0"],
        ["75 %", "\u2013", "0.500", "1", "3", "3"],
    ]
    assert seen["options"] == ["all", "right", "wrong"]  # with a single mode there is no choice between modes


@EVERY_PAGE
def test_the_content_security_policy_comes_first(tmp_path: Path, kind: str, data: dict[str, Any]) -> None:
    elements = write(tmp_path, kind, data).elements
    names = [name for name, _, _ in elements]
    [(place, policy)] = [
        (place, attributes["content"] or "")
        for place, (_, attributes, _) in enumerate(elements)
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert place < min(names.index("style"), names.index("script"), names.index("title"))
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    inline = {"style-src", "script-src"}
    assert rules["default-src"] == ["'none'"]
    assert all(rules[name] == (["'unsafe-inline'"] if name in inline else ["'none'"]) for name in rules), rules
    assert rules.keys() >= inline | {"base-uri", "form-action"}  # default-src does not cover the last two


def test_scripts_never_insert_html() -> None:
    unsafe = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|srcdoc|DOMParser|\|\s*safe"
    for template in (REPOSITORY / "raml_trl" / "render" / "templates").glob("*.html.j2"):
        assert not re.search(unsafe, template.read_text()), template.name


def test_pages_use_the_colours_of_the_figures(tmp_path: Path) -> None:
    source = write(tmp_path, "trajectory_pruning", trajectory_pruning()).source
    assert all(f"--c{index}: {colour};" in source for index, colour in enumerate(COLOURS))


def test_the_templates_are_part_of_the_package() -> None:
    [pattern] = re.findall(r"^ +(templates/\S+)$", (REPOSITORY / "setup.cfg").read_text(), re.MULTILINE)
    assert all(fnmatch(f"templates/{kind}.html.j2", pattern) for kind in (*KINDS, "page"))


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pseudo_gradient, loss_landscape, trajectory_pruning; got 'report'"):
        write_page(tmp_path / "page.html", "report", COMMON)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_previous_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "loss_landscape", loss_landscape(1))

    def fill_the_disk(path: Path, text: str, **options: str) -> None:
        path.write_bytes(text[:100].encode())
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fill_the_disk)
    with pytest.raises(OSError, match="disk full"):
        write_page(tmp_path / "page.html", "loss_landscape", loss_landscape(2))
    assert "A lead" in (tmp_path / "page.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


# Added to the page before its first script, so that all errors are recorded.
WATCH = """<script>
window.failures = [];
window.alert = () => failures.push("alert");
addEventListener("error", (event) => failures.push(`${event.message} ${event.error?.stack}`));
addEventListener("unhandledrejection", (event) => failures.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => failures.push(`policy: ${event.violatedDirective}`));
</script>"""


def browse(tmp_path: Path, kind: str, data: dict[str, Any], check: str, *flags: str) -> dict[str, Any]:
    """Show a page of `kind` in a browser and return what a check sees."""
    return browse_file(tmp_path, write(tmp_path, kind, data).source, check, *flags)


def browse_file(tmp_path: Path, source: str, check: str, *flags: str) -> dict[str, Any]:
    """Show a page in a browser, require that it has no errors, and return what a check sees, with ASCII minus signs."""
    actions = (REPOSITORY / "tests" / "helpers" / "pages_in_browser.js").read_text(encoding="utf-8")
    end = f'<pre id="seen"></pre><script>{actions}\ncheck("{check}");</script></body>'
    shown = source.replace("<head>", "<head>" + WATCH).replace("</body>", end)
    (tmp_path / "shown.html").write_text(shown, encoding="utf-8")
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1200,900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", *flags]
    command += ["--virtual-time-budget=5000", "--dump-dom", (tmp_path / "shown.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    match = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stdout[-2000:] + done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(html.unescape(match[1]).replace("\N{MINUS SIGN}", "-"))
    assert seen.pop("failures") == []
    assert seen.pop("hidden_columns") == 0, "the page is wider than the window"
    return seen


@pytest.mark.children
@needs_browser
def test_curve_and_text_show_the_effect_of_each_token(tmp_path: Path) -> None:
    data = pseudo_gradient()
    seen = browse(tmp_path, "pseudo_gradient", data, "curve")
    tokens, nll = data["trajectories"][0]["tokens"], data["trajectories"][0]["nll"]
    spelt = [
        "<think>",
        "↵",
        "·Wait",
        "⟨U+202E⟩,",
        "</script><script>alert(1)</script>",
        "<!--",
        "·4",
        "·2",
        "</think>",
        "",
    ]

    def said(t: int) -> list[str]:
        lines = ["before the first token" if t == 0 else spelt[t - 1] or "…", f"token {t} of {len(tokens)}"]
        if math.isnan(nll[t]):
            lines.append("NLL \N{EN DASH} nats")
        else:
            lines.append(f"NLL {nll[t]:.{3 if nll[t] < 1 else 2}f} nats")
            lines.append(f"a token's probability {100 * math.exp(-nll[t]):.1f} %")
            if t:
                change = nll[t] - nll[t - 1]
                lines.append(f"change {change:+.{3 if abs(change) < 1 else 2}f}")
        return lines + ["the text already states the answer"] * (t >= 8)

    assert [text.replace("\n", "").replace("\u200b", "") for text in seen["text"]] == spelt
    assert seen["text"][1] == "↵\n"
    assert seen["signs"] == ["thinking ends", "answer stated"]
    assert seen["scripts"] == 0

    (low, low_y), *_, (high, high_y) = seen["grid"]
    places: dict[int, float] = {}
    for look in seen["curve"]:
        t = int(re.findall(r"\d+", look["said"][1])[0])
        assert look["said"] == said(t)
        assert [place for place, at in enumerate(look["at"]) if at] == ([t - 1] if t else [])
        assert (look["visible"] == "hidden") == math.isnan(nll[t])
        if not math.isnan(nll[t]):
            assert look["place"][1] == pytest.approx(low_y + (nll[t] - low) / (high - low) * (high_y - low_y), abs=0.01)
            places[t] = look["place"][0]
            if 0 < t < 10:
                assert abs(look["pointer"] - places[t]) <= (places[1] - places[0]) / 2 + 0.01
    assert list(places) == list(range(10))  # from left to right
    assert [places[t] for t in range(10)] == pytest.approx([places[0] + t * (places[1] - places[0]) for t in range(10)])
    assert [look["said"] for look in seen["back"]] == [said(t) for t in range(1, 11)]

    assert [tint[:1] for tint in seen["tints"]] == [
        "f" if after < before else "r" if after > before else "" for before, after in itertools.pairwise(nll)
    ]
    size = [int(tint[1:] or 0) for tint in seen["tints"][:9]]
    assert size[4] == 12  # 2.2 nats: the largest change
    assert size[3] == size[5] == size[8] < size[0] < size[1] < size[2]  # 0.1 < 0.2 < 0.5 < 1.3 nats
    assert seen["keys"] == [f"token {t} of 10" for t in (0, 1, 2, 1, 10)]
    assert seen["wrong"] == [["wrong"], ["What is 1 & <b>?"]]
    assert seen["neither"] == [["No such trajectory."], 0]


@pytest.mark.children
@needs_browser
def test_a_long_curve_keeps_its_peaks(tmp_path: Path) -> None:
    data = pseudo_gradient()
    nll = [1 + 0.5 * math.sin(t) for t in range(20_001)]
    nll[12_345], nll[4_321] = 6.0, 0.0  # one token wide
    data["trajectories"] = [data["trajectories"][0] | {"tokens": [" so", "\n"] * 10_000, "nll": nll, "stated": None}]
    seen = browse(tmp_path, "pseudo_gradient", data, "long")
    heights = [y for _, y in seen["points"]]
    bottom, top = max(heights), min(heights)
    assert heights[0] == pytest.approx(bottom + (top - bottom) * nll[0] / 6, abs=0.1)
    assert len(heights) < 6_000
    [peak] = [x for x, y in seen["points"] if y == top]
    [valley] = [x for x, y in seen["points"] if y == bottom]
    left, right = seen["points"][0][0], seen["points"][-1][0]
    assert [(peak - left) / (right - left), (valley - left) / (right - left)] == pytest.approx(
        [0.61725, 0.21605], abs=1e-3
    )
    assert seen["end"] == "token 20,000 of 20,000"
    assert seen["scrolled"] == [True, True]


@pytest.mark.children
@needs_browser
@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        (
            "pseudo_gradient",
            {"trajectories": [], "bands": [], "descent": [], "token_effects": []},
            "No such trajectory",
        ),
        ("trajectory_pruning", {"methods": [], "examples": []}, "No such trajectory"),
        ("loss_landscape", loss_landscape(2) | {"loss": [[math.nan] * 4] * 5, "marks": []}, "loss not a number"),
        ("loss_landscape", loss_landscape(1) | {"loss": [math.nan] * 5, "numbers": {}}, "loss not a number"),
    ],
)
def test_pages_without_data_say_so(tmp_path: Path, kind: str, data: dict[str, Any], says: str) -> None:
    assert says in browse(tmp_path, kind, COMMON | data, "nothing")["says"]


@pytest.mark.children
@needs_browser
def test_bands_and_effects_show_their_numbers(tmp_path: Path) -> None:
    seen = browse(tmp_path, "pseudo_gradient", pseudo_gradient(), "groups")
    assert seen["tokens"] == ["after 1 tokens", "thinking, right (6)", "1.50 [0.50, 2.50]"]
    assert seen["shares"] == ["50 % of the thinking", "thinking, right (6)", "1.50 [0.50, 2.50]"]
    assert seen["without"] == [seen["shares"], 0, "false"]  # with no line left, the tooltip does not change
    assert seen["focused"] is True
    assert seen["effects"] == [
        ["<wait>", "median", "0.500 [0.250, 0.750]", "n", "17", "p", "0.042"],
        ["number", "median", "0.125 [0.100, 0.200]", "n", "230", "p", "\N{EN DASH}"],
    ]
    assert {"thinking, right", "-1.50 [-1.55, -1.45]", "88 % [83 %, 93 %]", "<wait>", "0.042"} <= set(seen["tables"])


@pytest.mark.children
@needs_browser
def test_the_surface_turns_and_the_map_shows_losses(tmp_path: Path) -> None:
    data = loss_landscape(2)
    seen = browse(tmp_path, "loss_landscape", data, "plane")
    assert 0.08 < seen["filled"] < 0.6  # share of the canvas that the surface covers
    (yaw, pitch), aside, down, far = seen["views"]
    assert aside[0] > yaw + 0.3
    assert aside[1] == pitch
    assert down[0] == aside[0]
    assert down[1] > pitch + 0.2
    assert far == [aside[0], 1.5]  # at most the view from above
    assert seen["turned"]
    assert seen["let_go"] == far
    assert seen["key"] == pytest.approx([yaw + 0.1, pitch])  # from the initial view again

    alpha, beta = (axis["values"] for axis in data["axes"])
    colours = {}
    for i, j, said, colour in seen["map"]:
        loss = data["loss"][i][j]
        known = "loss not a number" if math.isinf(loss) else f"loss {loss:.{3 if loss < 1 else 2}f} nats"
        assert said == [f"<i>alpha {alpha[i]:.3f}", f"beta {beta[j]:.3f}", known]
        colours[i, j] = colour
    assert colours.pop((4, 3))[3] == 0  # a cell without a loss has no colour
    shades = sorted((data["loss"][i][j], red - blue) for (i, j), (red, _, blue, _) in colours.items())
    assert shades[0][1] < -50  # the smallest loss is blue
    assert shades[-1][1] > 50  # and the largest is red
    assert seen["keys"] == [["-0.500", "-0.200"], ["-0.500", "0.000"], ["-1.000", "0.000"], ["-1.000", "0.000"]]
    (low_x, low_y), (x, y) = seen["ring"]
    assert (x < low_x, y != low_y) == (True, True)
    assert seen["log"] == [True, True, f"loss {data['loss'][0][1]:.2f} nats"]
    assert seen["marks"] == ["the <model>"]
    [mark] = seen["mark"]
    assert mark == pytest.approx([0.5, 2 / 3], abs=0.01)  # alpha to the right, beta upwards
    assert {"base loss", "1.45 [1.40, 1.50]", "2.50", "the <model>", "<i>alpha", "beta"} <= set(seen["tables"])


@pytest.mark.children
@needs_browser
def test_a_line_is_legible_in_dark_mode(tmp_path: Path) -> None:
    data = loss_landscape(1)
    seen = browse(tmp_path, "loss_landscape", data, "line", "--blink-settings=preferredColorScheme=0")
    loss = data["loss"]
    assert seen["read"] == [
        [f"<i>alpha {value:.3f}", f"loss {at:.2f} nats"]
        for value, at in zip(data["axes"][0]["values"], loss, strict=True)
    ]
    assert seen["keys"] == ["-1.000", "-0.500", "1.000", "1.000"]
    for heights, values in zip(seen["heights"], (loss, [math.log(value) for value in loss]), strict=True):
        unit = (heights[0] - heights[4]) / (values[0] - values[4])
        assert unit < 0  # y grows downwards
        assert heights == pytest.approx([heights[0] + unit * (value - values[0]) for value in values], abs=0.01)
    paper, ink = (sum(map(int, re.findall(r"\d+", seen[name]))) for name in ("paper", "ink"))
    assert paper < 150 < 500 < ink


@pytest.mark.children
@needs_browser
def test_points_show_the_names_of_their_methods(tmp_path: Path) -> None:
    data = trajectory_pruning()
    seen = browse(tmp_path, "trajectory_pruning", data, "pruning")
    assert seen["focused"] is True
    titles = ["none", "budget:0.25", "budget:0.5", "<img>"]
    assert [tip[0] for tip, _ in seen["tips"]] == titles
    assert [row[0] for _, row in seen["tips"]] == titles
    assert [tip[2] for tip, _ in seen["tips"]] == [
        "75.0 % [70.0 %, 80.0 %]",
        "50.0 % [45.0 %, 55.0 %]",
        "43.8 % [38.8 %, 48.8 %]",
        "12.5 % [7.5 %, 17.5 %]",
    ]
    assert [tip[4] for tip, _ in seen["tips"]] == [
        "900 [891, 909]",
        "300 [291, 309]",
        "500 [491, 509]",
        "20 [11, 29]",
    ]
    assert ["on the frontier" in tip for tip, _ in seen["tips"]] == [True, True, False, True]
    assert seen["gone"] == [True, 0]
    assert sorted(seen["names"]) == sorted(titles)
    for place, transformed in zip(seen["places"], (float, math.log1p), strict=True):
        xs, values = [x for x, _ in place], [transformed(method["tokens"]["mean"]) for method in data["methods"]]
        unit = (xs[0] - xs[3]) / (values[0] - values[3])
        assert unit > 0
        assert xs == pytest.approx([xs[3] + unit * (value - values[3]) for value in values], abs=0.01)
    none, quarter, half, image = seen["places"][0]
    assert none[1] < quarter[1] < half[1] < image[1]  # more accurate methods are higher
    assert [float(value) for value in re.findall(r"[\d.]+", seen["frontier"])][:6] == [*image, *quarter, *none]
    assert re.findall("[A-Z]", seen["frontier"]) == list("MHVHVH")  # steps, extended to the right edge
    by_tokens = ["<img>", "budget:0.25", "budget:0.5", "none"]
    assert seen["sorted"] == [by_tokens, by_tokens[::-1]]
    assert seen["left"] == 2
    assert seen["example"] == [
        "before: 90 tokens",
        "<script>\nkept\ncut",
        "\ncut",
        "after: 30 tokens",
        "<script>\nkept",
    ]
    assert seen["made"] == 0
    assert seen["leaks"] == [["right", False], ["wrong", True]]
    assert seen["leaked"] == ["wrong"]
