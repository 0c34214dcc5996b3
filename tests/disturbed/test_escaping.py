"""Names, labels and control characters are shown as text: in reports, cards, tables and on the terminal."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from raml_trl.data.config import PrepareDataConfig
from raml_trl.data.preparation import Counts, prepare
from raml_trl.data.screening import REASONS
from raml_trl.evaluation.comparison import comparison_table
from raml_trl.hub.card_parts import facts_table, plain_name
from raml_trl.render.html import render_page, write_page
from raml_trl.render.tables import Cell, Table, code_block, escape_cell, escape_for_hub, escape_markdown, markdown
from raml_trl.reports.page import Block, Section, ShownCompletion, html_page, markdown_page
from raml_trl.runtime import cli
from raml_trl.runtime.errors import InputError, one_line, printable
from tests.helpers.disturbed import fresh_random

pytestmark = pytest.mark.disturbance("escaping")

Record = Callable[[str, object], None]
EVIL = "a\x1b[31m\x00\x9b2J\u202e|<script>alert(1)</script>[x](http://evil) `b` \ud800"
DANGEROUS = [chr(number) for number in (*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2066, 0xD800)]


def is_safe(text: str) -> bool:
    return not any(character in text for character in DANGEROUS)


@pytest.mark.parametrize("escape", [printable, one_line, escape_markdown, escape_cell, escape_for_hub, code_block])
def test_no_control_character_passes(escape: Callable[[str], str], record_property: Record) -> None:
    for character in DANGEROUS:
        assert is_safe(escape(f"a{character}b")), hex(ord(character))
    assert escape("plain words, 1.5").strip("`\ntex") == "plain words, 1.5"
    record_property("cases", len(DANGEROUS))


def test_tables_and_reports() -> None:
    table = Table((EVIL,), ((Cell(EVIL, EVIL, EVIL),),), EVIL)
    block = Block(EVIL, EVIL, tables=[table], completions=[ShownCompletion(EVIL, EVIL, "right", EVIL)])
    page = markdown_page(EVIL, EVIL, [Section("s", EVIL, [block])])
    assert is_safe(page)
    assert is_safe(markdown(table))
    assert "<script>" not in page.replace(code_block(EVIL), "")
    html = html_page(EVIL, EVIL, [Section("s", EVIL, [block])])
    assert is_safe(html)
    assert "<script>alert" not in html
    html.encode()


def test_pages_of_analyses(tmp_path: Path) -> None:
    data = {"title": EVIL, "lead": EVIL, "model": EVIL, "rows": [EVIL], EVIL: 1}
    write_page(tmp_path / "page.html", "pseudo_gradient", data)
    html = (tmp_path / "page.html").read_text()
    assert is_safe(html)
    assert "<script>alert" not in html
    assert render_page("pseudo_gradient.html.j2", data, title="t", lead="l", model="m").count("alert(1)") > 0


def test_comparisons_and_facts() -> None:
    value = {"mean": 0.5, "low": 0.4, "high": 0.6}
    table = comparison_table({"pass@1": {EVIL: value, "eval_sft": value}})
    assert is_safe(table)
    assert "\\|\\<script\\>" in table
    assert "| eval_sft " in table
    assert is_safe(facts_table([(EVIL, EVIL)], {"setting": EVIL}))


def test_a_name_for_a_heading() -> None:
    assert plain_name("grpo_m2-v1.0") == "grpo_m2-v1.0"
    assert plain_name("x](http://evil)\n# <b>\x1b") == "x__http___evil__# _b__".replace("#", "_")


def test_the_report_of_prepare_data(tmp_path: Path) -> None:
    name = "evil|<b>name_[x](http:..evil).jsonl"
    (tmp_path / name).write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "", "answer": "2"}\n')
    config = PrepareDataConfig(dataset_name=str(tmp_path / name), output_dir=str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    prepare(config, tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.startswith("# evil\\|\\<b\\>name\\_[x]\\(http:..evil).jsonl\n")


def test_reasons_come_from_a_fixed_list(tmp_path: Path, record_property: Record) -> None:
    labels = ["<b>", "|", "\x1b[31m", "x" * 1000, 3, {}, [], None, 0.5, *map(str, range(50))]
    rows = [
        {"problem": f"{number}+1", "answer": "2", "generations": ["x"], "labels": [label]}
        for number, label in enumerate(labels)
    ]
    rows.append({"problem": "good", "answer": "2", "generations": ["x"], "labels": [1]})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PrepareDataConfig(dataset_name=str(tmp_path / "data.jsonl"), output_dir=str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    counts: Counts = prepare(config, tmp_path / "out")
    assert counts.left_out == Counter({"a label is neither 0 nor 1": len(labels)})
    assert counts.left_out.keys() <= REASONS.keys()
    record_property("cases", len(labels))


def test_messages_are_one_line_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "key-0123456789")
    monkeypatch.setenv("HF_TOKEN_PATH", "/a/long/path/of/a/file")
    error = InputError(f"1\n2 {EVIL} key-0123456789 hf_abcdefghijk http://user:pass@host/ /a/long/path/of/a/file")
    message = str(error)
    assert "\n" not in message
    assert is_safe(message)
    assert "key-0123456789" not in message
    assert "hf_abcdefghijk" not in message
    assert "user:pass" not in message
    assert "/a/long/path/of/a/file" in message
    assert len(str(InputError("x" * 10**6))) < 10_000


def test_random_text_stays_text(record_property: Record) -> None:
    """Over random code points, what is printed holds no control character."""
    rng = fresh_random()
    for _ in range(200):
        text = "".join(map(chr, rng.choices(range(0x300), k=40)))
        assert is_safe(one_line(text))
        assert is_safe(escape_markdown(text))
        record_property("cases", 1)


def test_log_lines_are_cleaned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    cli._log_plainly()
    logging.getLogger("x").warning("the server says %s", EVIL)
    logging.getLogger("x").warning("a log line repeats hf_abcdefghijk")
    logging.getLogger("x").warning("a table:\n| a | b |")
    root.handlers[0].flush()
    printed = capsys.readouterr().err
    assert sys.stderr is not None
    assert is_safe(printed)
    assert "the server says a\\x1b[31m" in printed
    assert "a log line repeats ***\n" in printed
    assert "a table:\n| a | b |\n" in printed
