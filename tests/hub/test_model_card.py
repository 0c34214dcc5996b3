"""Model cards, TRL's with our additions, parse as YAML and render as Markdown, even with hostile names in them."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig
from trl.trainer.utils import generate_model_card

from raml_trl import __version__
from raml_trl.data.shards import SAMPLES, SCHEMAS
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.hub.card_parts import PAPER, recipe, reproduction, version
from raml_trl.hub.completion_card import rollouts_card, samples_card
from raml_trl.hub.model_card import TrainingFacts, add_results, complete_card, last_metrics, name_repo
from raml_trl.render.tables import code_block
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import write_rows
from raml_trl.runtime.runs import open_run
from raml_trl.training import publishing
from raml_trl.training.publishing import check_push
from tests.hub.test_trajectory_card import HOSTILE, Seen

RECORD = {"command": "train_sft", "settings": {"seed": 3, "dataset_name": "data", "length_bin": "1/3"}}
METRICS = {"pass@1": {"mean": 0.5, "low": 0.25, "high": 0.75}}


def write_trl_card(path: Path, **settings: Any) -> None:
    given = {"base_model": None, "hub_model_id": None, "dataset_name": None, "wandb_url": None, "trackio_url": None}
    paper = {"trainer_citation": PAPER["citation"], "paper_title": PAPER["title"], "paper_id": PAPER["id"]}
    card = generate_model_card(model_name="run", trainer_name="SFT", tags=["raml"], **(given | paper | settings))
    card.save(path)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_name_adds_no_markup(name: str, tmp_path: Path) -> None:
    """A hostile name adds no HTML tag, no table cell and no line of YAML to the card."""
    seen = {}
    for given in ("x", name):
        path = tmp_path / "README.md"
        write_trl_card(path)
        made_by = recipe("train_sft", {"dataset_name": given})
        complete_card(path, TrainingFacts(given, given, {"choice": given}, data=given, recipe=made_by))
        seen[given] = Seen(path.read_text())
        assert ModelCard.load(path).data.model_name == "run"
    assert seen[name].tags == seen["x"].tags
    assert [len(row) for row in seen[name].rows] == [len(row) for row in seen["x"].rows]


def test_our_section_is_before_the_citations(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    write_trl_card(path)
    before = path.read_text()
    facts = TrainingFacts(
        "base", "1.0", {"num_trajectories": 4}, step=1200, revision="step-1200", metrics=METRICS, metrics_step=1000
    )
    complete_card(path, facts)
    card = path.read_text()
    assert before.split("## Citations")[1] == card.split("## Citations")[1]
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    assert headings[-4:] == ["## Training data and settings", "## Evaluation during training", *headings[-2:]]
    assert headings[-2:] == ["## Checkpoints", "## Citations"]
    assert "None" not in card.split("---\n", 2)[2]
    assert "| steps | 1,200 |" in card
    assert "at step 1,000" in card
    assert "| `pass@1` | 0.500 | 0.250 to 0.750 |" in card
    assert card.count('"USER/NAME"') == 2  # in the quick start and at the checkpoints

    name_repo(path, "me/model")
    assert path.read_text() == card.replace("USER/NAME", "me/model")


PROMPT = [
    {"role": "system", "content": 'Say """yes""", \\n and "USER/NAME".'},
    {"role": "user", "content": "a=1+2\n```\n\u2028\x1b模\ud83d<img src=x>"},
]


def quick_start_of(card: str) -> str:
    code = card.split("## Quick start\n")[1].split("## Training procedure")[0].strip()
    fence = code[: len(code) - len(code.lstrip("`"))]
    assert code.startswith(f"{fence}python\n")
    assert code.endswith(fence)
    return code.removeprefix(f"{fence}python\n").removesuffix(fence)


@pytest.mark.parametrize("prompt", [PROMPT, "a plain 'text'"], ids=["chat", "text"])
def test_the_quick_start_asks_a_question_of_the_training_data(prompt: Any, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    write_trl_card(path)
    assert "time machine" in path.read_text()
    complete_card(path, TrainingFacts("base", "1.0", prompt=prompt, max_new_tokens=40))
    name_repo(path, "me/model")
    card = path.read_text()
    assert "time machine" not in card
    assert "licence: license" not in card
    code = quick_start_of(card)
    called: list[Any] = []

    def pipeline(task: str, model: str, device_map: str) -> Any:
        called.append((task, model, device_map))
        return lambda prompt, **given: called.append((prompt, given)) or [{"generated_text": "4"}]

    exec(code.replace("from transformers import pipeline\n", ""), {"pipeline": pipeline})
    given = {"max_new_tokens": 40, "do_sample": False, "return_full_text": False}
    assert called == [("text-generation", "me/model", "auto"), (prompt, given)]


@pytest.mark.long
def test_the_quick_start_runs(model_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "README.md"
    write_trl_card(path)
    prompt = [{"role": "user", "content": "a=0+2+4,b=4+4+0"}]
    complete_card(path, TrainingFacts("base", "1.0", prompt=prompt, max_new_tokens=3))
    name_repo(path, model_dir)
    exec(quick_start_of(path.read_text()), {})
    tokenizer, model = AutoTokenizer.from_pretrained(model_dir), AutoModelForCausalLM.from_pretrained(model_dir)
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answered = model.generate(**asked, max_new_tokens=3, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert capsys.readouterr().out == tokenizer.decode(answered, skip_special_tokens=True) + "\n"


def test_an_evaluation_is_in_the_text_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    write_trl_card(tmp_path / "README.md")
    complete_card(tmp_path / "README.md", TrainingFacts("base", "1.0"))
    mine = "\n## Evaluation\n\nOf the author.\n"
    before = (tmp_path / "README.md").read_text().replace("\n## Citations", f"{mine}\n## Citations")
    (tmp_path / "README.md").write_text(before)
    for mean, dataset in ((0.5, "a"), (0.25, "<b>b|"), (0.875, "a")):
        metrics = {"pass@1": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}}
        add_results(tmp_path, dataset=dataset, split="test", metrics=metrics, samples=[8])
    card = (tmp_path / "README.md").read_text()
    rows = [row for row in Seen(card).rows if row[0].endswith(", test")]
    assert rows == [
        ["<b>b|, test", "pass@1, 8 samples, 95 % interval 0.150 to 0.350", "0.25"],
        ["a, test", "pass@1, 8 samples, 95 % interval 0.775 to 0.975", "0.875"],
    ]
    assert card.count("\n## Evaluation\n\nMeans over questions") == card.count(mine) == 1
    for part in ("## Training data and settings", "## Citations"):
        assert card.split(part)[1].split("\n## ")[0].strip() == before.split(part)[1].split("\n## ")[0].strip()


def test_a_text_below_the_table_of_evaluations_stays(tmp_path: Path) -> None:
    for mean in (0.25, 0.5):
        metrics = {"pass@1": {"mean": mean, "low": mean, "high": mean}}
        add_results(tmp_path, dataset="a", split="test", metrics=metrics, samples=[8])
        if mean == 0.25:
            (tmp_path / "README.md").write_text((tmp_path / "README.md").read_text() + "\nOf the author.\n")
    card = (tmp_path / "README.md").read_text()
    assert (card.count("Means over"), card.count("| 0.5 |"), card.count("| 0.25 |")) == (1, 1, 0)
    assert card.endswith("\n\nOf the author.\n")


def test_a_run_that_is_pushed_after_its_end_names_its_repository_at_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = open_run(tmp_path / "run", "train_sft", {})
    write_trl_card(tmp_path / "run/README.md")
    complete_card(tmp_path / "run/README.md", TrainingFacts("base", "1.0", step=4, metrics=METRICS, metrics_step=4))
    for step in (2, 4):
        checkpoint = tmp_path / f"run/checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "adapter_model.safetensors").touch()
        (checkpoint / "README.md").write_text("---\nlibrary_name: peft\n---\n# The card of PEFT\n")
    pushed: dict[str | None, str] = {}

    def push_folder(directory: Path, repo_id: str, *, branch: str | None, **_: object) -> None:
        pushed[branch] = (directory / "README.md").read_text()

    monkeypatch.setattr(publishing, "_open_model", lambda _: SimpleNamespace(repo_id="me/late"))
    monkeypatch.setattr(publishing, "open_branch", lambda *_: None)
    monkeypatch.setattr(publishing, "find_fault", lambda _: None)
    monkeypatch.setattr(publishing, "push_folder", push_folder)
    config = SFTConfig(str(tmp_path / "run"), use_cpu=True, bf16=False, push_to_hub=True)
    publishing.push_run(config, record, revisions=True)
    assert list(pushed) == ["step-2", "step-4", None]
    assert all('model="me/late"' in card and "USER/NAME" not in card for card in pushed.values())
    note = "These are the weights after step 2. The facts and metrics are those of another step of the run."
    assert [note in card for card in pushed.values()] == [True, False, False]
    before = dict(pushed)
    publishing.push_run(config, record, revisions=True)
    assert pushed == before


def test_the_recipe_contains_the_runs_before(tmp_path: Path) -> None:
    for name, settings in (
        ("prepare_data", {"num_questions": 24}),
        ("train_sft", {"dataset_name": str(tmp_path / "prepare_data"), "seed": 3}),
        (
            "train_grpo",
            {"dataset_name": str(tmp_path / "prepare_data"), "model_name_or_path": str(tmp_path / "train_sft")},
        ),
    ):
        open_run(tmp_path / name, name, settings).finish(1.0, {})
    text = reproduction(tmp_path / "train_grpo")
    assert re.findall(r"raml-trl (.*)", text) == [
        "prepare_data 1_prepare_data.yaml --output_dir prepare_data",
        "train_sft 2_train_sft.yaml --output_dir train_sft",
        "train_grpo recipe.yaml --output_dir OUTPUT_DIR",
    ]
    assert [name for name in re.findall(r"with this `(.*)`", text)] == [
        "1_prepare_data.yaml",
        "2_train_sft.yaml",
        "recipe.yaml",
    ]
    assert re.findall(r"^\d\. .*", text, re.MULTILINE) == [
        "1. `prepare_data` makes `prepare_data`:",
        "2. `train_sft` makes `train_sft`:",
        "3. `train_grpo` makes the model:",
    ]
    assert str(tmp_path) not in text
    assert reproduction(tmp_path / "prepare_data") == recipe("prepare_data", {"num_questions": 24})


def test_settings_of_the_selection_that_differ_from_their_defaults_are_stated(tmp_path: Path) -> None:
    plain = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none"}
    assert "token_selection" not in SubsetGRPOConfig(**plain).choice
    choice = SubsetGRPOConfig(**plain, question_selection="mixed", token_selection="prefix", prefix_keep=0.5).choice
    assert (choice["question_selection"], choice["token_selection"]) == ("mixed", "prefix")
    assert "prefix_minimum" not in choice


def test_a_card_without_citations_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("---\ntags: [x]\n---\n\n# Card\n")
    complete_card(path, TrainingFacts("base", "1.0"))
    assert path.read_text().startswith("---\ntags: [x]\n---\n\n# Card\n\n## Training data and settings\n")


def test_last_metrics_with_an_interval() -> None:
    value = {"eval_pass@1": 0.5, "eval_pass@1_low": 0.25, "eval_pass@1_high": 0.75, "eval_mean_tokens": 3.0}
    history = [value | {"step": 1}, value | {"step": 2, "eval_pass@1": 0.6}, {"step": 3, "loss": 1.0, "eval_loss": 2.0}]
    assert last_metrics(history) == (2, {"pass@1": METRICS["pass@1"] | {"mean": 0.6}})
    assert last_metrics(history, step=1) == (1, METRICS)
    assert last_metrics(history, step=3) == last_metrics(history[2:]) == last_metrics([]) == (0, {})


def test_the_recipe_repeats_the_run(tmp_path: Path) -> None:
    settings = {"model_name_or_path": str(tmp_path / "model"), "seed": 0, "k": [1, 8], "note": "```\n````"}
    text = recipe("train_grpo", settings)
    assert str(tmp_path) not in text
    assert "raml-trl train_grpo recipe.yaml --output_dir OUTPUT_DIR" in text
    content = text.split("`````yaml\n")[1].split("`````")[0]
    assert yaml.safe_load(content) == settings | {"model_name_or_path": "model"}
    assert code_block("x", "yaml") == "```yaml\nx\n```"


def test_version_includes_the_commit_of_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "raml_trl"
    package.mkdir()
    (package / "module.py").write_text("")
    assert version(package) == __version__
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["add", "raml_trl"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert version(package) == f"{__version__}, commit {head}"
    (tmp_path / "elsewhere").write_text("x")
    assert version(package) == f"{__version__}, commit {head}"
    (package / "module.py").write_text("x")
    assert version(package) == f"{__version__}, commit {head} with changes"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hub_token": "hf_x"}, "hub_token is set, and all settings are saved"),
        ({"model_init_kwargs": {"token": "hf_x"}}, "token in model_init_kwargs is set, and all settings are saved"),
    ],
)
def test_a_token_in_the_settings_is_rejected(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """transformers would write the token into training_args.bin, which is pushed."""
    config = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, **settings)
    with pytest.raises(InputError, match=message) as error:
        check_push(config, revisions=False)
    assert "hf_x" not in str(error.value)


def test_revisions_need_a_push(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hub_revisions is true but push_to_hub is false"):
        check_push(SFTConfig(str(tmp_path), use_cpu=True, bf16=False), revisions=True)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_completion_cards_with_hostile_names(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "completions_00001.parquet", [], SCHEMAS[SAMPLES])
    seen = {}
    for given in ("x", name):
        made_by = recipe("evaluate", {"dataset_name": given})
        about: dict[str, Any] = {"model": given, "settings": {"seed": given}, "recipe": made_by}
        results: dict[str, Any] = {"samples_per_question": [2, 4], "questions": 1200, "metrics": METRICS}
        cards = [samples_card("me/it", data=given, **results, **about), rollouts_card("me/it", tmp_path, **about)]
        for card, files in zip(cards, ("samples.parquet", "completions_*.parquet"), strict=True):
            front = yaml.safe_load(card.split("---\n")[1])
            assert front["configs"][0]["data_files"] == [{"split": "train", "path": files}]
            assert 'load_dataset("me/it", split="train")' in card
        seen[given] = [Seen(card) for card in cards]
    assert "2 to 4 graded samples for each of 1,200 questions" in seen["x"][0].text
    for harmless, hostile in zip(seen["x"], seen[name], strict=True):
        assert harmless.tags == hostile.tags
        assert [len(row) for row in harmless.rows] == [len(row) for row in hostile.rows]
    documented = {row[0] for row in seen["x"][0].rows} & set(SCHEMAS[SAMPLES].names)
    assert documented == set(SCHEMAS[SAMPLES].names)
