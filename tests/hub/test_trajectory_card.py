"""Dataset cards are valid for YAML, the Hub's own reader and a Markdown renderer, even with hostile names in them."""

import re
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from raml_trl.data.shards import SCHEMAS, TRAJECTORIES, shard_path
from raml_trl.hub.card_parts import BIBTEX
from raml_trl.hub.trajectory_card import COLUMNS, SHARDS, Counts, pass_rate_histogram, trajectories_card
from raml_trl.render.tables import escape_for_hub
from raml_trl.sft.config import SFTArguments
from tests.helpers import REPOSITORY

# Three questions with 4 trajectories each, of which 0, 1 and 4 are correct: 5 of 12.
COUNTS = Counts(correct=[0, 1, 4], total=[4, 4, 4], finished=9, num_tokens=1_230, sources={"aime": 1, "math": 2})
SETTINGS = {"temperature": 0.6, "top_p": 0.95, "max_completion_length": 8192}

HOSTILE = {
    "a table": "x | y | z",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "an entity": "&lt;script&gt;",
    "a link": "[Qwen](javascript:alert(1)) ![x](https://example.com/x.png) <https://example.com>",
    "emphasis": "**a** __b__ _c_ ~~d~~ `e` ``f",
    "lines": "a\n\n# b\n\n```\nc\r\n---\n\u2028d",
    "an escape": "a \\| b \\",
    "braces": "{model} {0} {{}} %s",
    "other scripts": "模型 ✓ é",
}


class Seen(HTMLParser):
    """The content of a rendered card: its HTML tags, its text, and the cells of its tables."""

    def __init__(self, card: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        body = card.split("---\n", 2)[2]
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").render(body))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def value(self, name: str) -> str:
        [row] = [row for row in self.rows if row[0] == name]
        return row[1]


def card(model: str = "org/teacher", counts: Counts = COUNTS, license: str | None = None) -> str:
    return trajectories_card(
        "tester/rows", model=model, engine="vllm", settings=SETTINGS, counts=counts, license=license
    )


@pytest.mark.parametrize("license", [None, "apache-2.0", "x\ntags: [y]", "no", "{a: b", "---", "'"])
def test_front_matter(license: str | None) -> None:
    front = yaml.safe_load(card(license=license).split("---\n", 2)[1])
    data = DatasetCard(card(license=license)).data.to_dict()
    assert ("license" in front) == (license is not None)
    for read in (front, data):
        assert read.get("license") == license
        assert read["task_categories"] == ["text-generation"]
        assert read["tags"] == ["raml", "trl", "reasoning", "trajectories"]
        assert read["size_categories"] == ["n<1K"]
        assert read["configs"][0]["data_files"] == [{"split": "train", "path": "trajectories-*.parquet"}]


@pytest.mark.parametrize(
    ("questions", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (9_999, "1K<n<10K"), (100_000, "100K<n<1M")],
)
def test_size_category(questions: int, category: str) -> None:
    counts = Counts([1] * questions, [1] * questions, questions, questions, {"math": questions})
    assert f"size_categories:\n- {category}\n" in card(counts=counts)


def test_numbers() -> None:
    seen = Seen(card())
    assert seen.value("trajectories") == "12"
    assert seen.value("correct") == "5 (41.7%)"
    assert seen.value("finished") == "9 (75.0%)"
    assert seen.value("questions with a correct one") == "2 (66.7%)"
    assert seen.value("tokens per trajectory") == "102.5"  # 1230 / 12
    assert [seen.value(name) for name in SETTINGS] == ["0.6", "0.95", "8192"]
    # The source math has the most questions, 2, so its bar is longest. The bar of aime, with 1, is half as long.
    assert seen.value("math") == "2"
    [[*_, math], [*_, aime]] = [row for row in seen.rows if row[0] in ("math", "aime")]
    assert (len(math), len(aime)) == (24, 12)


def test_the_columns_of_the_card_are_those_of_the_shards() -> None:
    assert list(COLUMNS) == SCHEMAS[TRAJECTORIES].names
    assert {name: seen for name, seen, _ in Seen(card()).rows[-len(COLUMNS) :]} == {
        name: kind for name, (kind, _) in COLUMNS.items()
    }
    assert shard_path(Path("run"), TRAJECTORIES, 100_000).match(SHARDS)


def test_one_question_of_a_thousand_has_a_bar() -> None:
    counts = Counts([0] + [1] * 999, [1] * 1000, 1000, 1000, {"math": 1000})
    [row] = [row for row in Seen(card(counts=counts)).rows if row[0] == "0 of 1"]
    assert row == ["0 of 1", "1", "█"]


def test_the_largest_of_many_sources_are_shown() -> None:
    sources = {f"source {number}": number for number in range(1, 41)}
    rows = [row for row in Seen(card(counts=Counts([1] * 820, [1] * 820, 820, 820, sources))).rows if "o" in row[0]]
    named = [row[:2] for row in rows if row[0].startswith("source ")]
    assert named == [[f"source {number}", str(number)] for number in range(40, 25, -1)]
    assert ["25 others", "325"] in [row[:2] for row in rows]  # 1 + 2 + ... + 25


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_name_adds_no_markup_anywhere(name: str) -> None:
    harmless = Seen(card(model="name", counts=Counts([0, 1, 4], [4] * 3, 9, 1_230, {"name": 3})))
    seen = Seen(card(model=name, counts=Counts([0, 1, 4], [4] * 3, 9, 1_230, {name: 3})))
    line = " ".join(name.split())
    assert seen.value("model") == line
    assert f"Trajectories of {line}" in seen.text
    assert seen.tags == harmless.tags
    assert [row[1:] for row in seen.rows if row[0] == line] == [["3", "█" * 24]]


def test_invisible_characters_are_shown() -> None:
    assert escape_for_hub("a\u202eb\0c\udcff") == "a\ufffdb\ufffdc\ufffd"
    assert escape_for_hub("Qwen/Qwen2.5-Math (v1.0)") == "Qwen/Qwen2.5-Math (v1.0)"


def test_histogram_by_number() -> None:
    assert pass_rate_histogram([0, 1, 1, 2], [2] * 4) == [("0 of 2", 1), ("1 of 2", 2), ("2 of 2", 1)]


def test_histogram_by_tenths() -> None:
    # Of 64 trajectories, 1 is 1.6 %, 6 are 9.4 %, 7 are 10.9 %, 32 are 50 % and 63 are 98.4 %.
    rows = dict(pass_rate_histogram([0, 1, 6, 7, 32, 63, 64, 64], [64] * 8))
    expected = {"none": 1, "0 to 10%": 2, "10 to 20%": 1, "50 to 60%": 1, "90 to 100%": 1, "all": 2}
    assert {name: number for name, number in rows.items() if number} == expected


@pytest.mark.parametrize("num_trajectories", [[1], [4], [15], [16], [64], [1, 4], [3, 100]], ids=str)
def test_the_histogram_counts_every_question(num_trajectories: list[int], rng: np.random.Generator) -> None:
    total = [int(number) for number in rng.choice(num_trajectories, size=500)]
    correct = [int(rng.integers(0, number + 1)) for number in total]
    rows = pass_rate_histogram(correct, total)
    assert sum(number for _, number in rows) == 500
    assert rows[0][1] == correct.count(0)
    assert rows[-1][1] == sum(right == number for right, number in zip(correct, total, strict=True))
    assert len(rows) <= 16


def test_the_command_in_the_card_is_valid() -> None:
    [command] = re.findall(r"```bash\n(.*?)```", card(), re.DOTALL)
    ours = {field.name for field in fields(SFTArguments)}
    assert set(re.findall(r"--(\w+)", command)) - ours == {"model_name_or_path", "output_dir"}
    assert "--dataset_name tester/rows --num_trajectories 4" in command


def test_the_citation_is_that_of_the_repository() -> None:
    assert BIBTEX in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
    plain = " ".join(re.sub(r"[{}]", "", BIBTEX).split())
    assert cited["title"] in plain
    assert " and ".join(f"{author['given-names']} {author['family-names']}" for author in cited["authors"]) in plain
    assert cited["journal"] in plain
