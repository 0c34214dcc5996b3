"""Parsing of YAML and flags, user errors in one line with exit code 2, and the record of a run."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from raml_trl import compare, prepare_data
from raml_trl.data.config import DatasetArguments, PrepareDataConfig
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.runtime.cli import StrictParser, call, run
from raml_trl.runtime.errors import InputError, RepeatedError
from raml_trl.runtime.files import whole_file
from raml_trl.runtime.locks import locked
from raml_trl.runtime.runs import Run, open_run
from raml_trl.sampling.config import EvaluateConfig
from tests.helpers import REPOSITORY
from tests.helpers.preloaded import python

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs prepare_data in this process and returns its exit code and its standard error."""

    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["prepare_data", *arguments])
        with pytest.raises(SystemExit) as stop:
            run(prepare_data.main, PrepareDataConfig)
        return stop.value.code, capsys.readouterr().err

    return command


ARITHMETIC = ("--dataset_name", "arithmetic", "--dataset_split", "test", "--num_questions", "5")


def test_a_run_is_recorded(prepare: Command, tmp_path: Path) -> None:
    assert prepare(*ARITHMETIC, "--output_dir", "out")[0] == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["command"], record["status"]) == ("prepare_data", "complete")
    assert record["settings"] == {"dataset_name": "arithmetic", "dataset_split": "test", "num_questions": 5}
    assert record["results"]["questions"] == 5


def test_an_error_that_the_first_process_reports_is_not_repeated(
    prepare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RepeatedError("the first process has said why")

    monkeypatch.setattr(prepare_data, "prepare", refuse)
    assert prepare(*ARITHMETIC, "--output_dir", "out") == (2, "")


def test_the_end_of_another_process_is_reported_in_one_line(prepare: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a launch there is no other process, so the error is a defect and keeps its traceback."""

    def fail(*_: object) -> None:
        raise RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:65224")

    monkeypatch.setattr(prepare_data, "prepare", fail)
    with pytest.raises(RuntimeError, match="closed by peer"):
        prepare(*ARITHMETIC, "--output_dir", "out")
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = "raml-trl prepare_data: another process of the launch has ended, and its message says why\n"
    assert prepare(*ARITHMETIC, "--output_dir", "out") == (1, line)


def test_a_command_can_be_called_from_python(prepare: Command, tmp_path: Path) -> None:
    settings = {"dataset_name": "arithmetic", "dataset_split": "test", "num_questions": 5}
    config = PrepareDataConfig(output_dir=str(tmp_path / "out"), **settings)
    results = call(prepare_data.main, config)
    assert results["questions"] == 5
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["command"], record["settings"]) == ("prepare_data", settings)
    before = (tmp_path / "out" / "run.json").stat().st_mtime_ns
    assert call(prepare_data.main, config) == results
    assert prepare(*ARITHMETIC, "--output_dir", "out")[0] == 0  # the command line sees the same run
    assert (tmp_path / "out" / "run.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="num_questions is 5, not 6"):
        call(prepare_data.main, replace(config, num_questions=6))


def test_a_complete_run_is_not_run_again(prepare: Command, tmp_path: Path) -> None:
    prepare(*ARITHMETIC, "--output_dir", "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert prepare(*ARITHMETIC, "--output_dir", "out")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_another_run_is_not_overwritten(prepare: Command, tmp_path: Path) -> None:
    prepare(*ARITHMETIC, "--output_dir", "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    code, error = prepare(*ARITHMETIC, "--seed", "7", "--output_dir", "out")
    assert code == 2
    assert "output_dir out holds another run: its seed is None, not 7; choose another directory" in error
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_foreign_files_are_not_touched(prepare: Command, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    code, error = prepare(*ARITHMETIC, "--output_dir", "out")
    assert code == 2
    assert "holds files that are not a run of raml_trl" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    assert prepare(*ARITHMETIC, "--output_dir", "out/thesis.tex") == (
        2,
        "raml-trl prepare_data: output_dir out/thesis.tex is a file: choose another directory\n",
    )


def test_another_process_may_create_the_run_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It does so after this process looked for the record and before it lists the directory."""
    original = Path.iterdir

    def created_by_another(directory: Path) -> Iterator[Path]:
        monkeypatch.undo()
        open_run(directory, "prepare_data", {"seed": 1})
        return original(directory)

    monkeypatch.setattr(Path, "iterdir", created_by_another)
    (tmp_path / "out").mkdir()
    assert open_run(tmp_path / "out", "prepare_data", {"seed": 1}).record["settings"] == {"seed": 1}
    assert original is Path.iterdir


def test_a_run_killed_while_writing_its_record_can_be_started_again(prepare: Command, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".run.json.123.partial").write_text('{"comm')
    assert prepare(*ARITHMETIC, "--output_dir", "out")[0] == 0


def test_the_command_line_takes_precedence_over_yaml(prepare: Command, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("dataset_name: arithmetic\ndataset_split: test\nnum_questions: 5\n")
    prepare("--config", "recipe.yaml", "--num_questions", "6", "--output_dir", "out")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["results"]["questions"] == 6


def test_the_recipe_is_a_path_or_a_packaged_name(prepare: Command, tmp_path: Path) -> None:
    """It may be the first argument. The record has the same settings in every case."""
    recipe = "tiny/demo/data_test"
    mine = tmp_path / "mine.yaml"
    mine.write_bytes((REPOSITORY / f"recipes/{recipe}.yaml").read_bytes())
    starts = [[given] for given in (recipe, f"{recipe}.yaml", f"recipes/{recipe}.yaml", "mine.yaml")]
    starts += [["--config", recipe], ["--config=mine.yaml"]]
    for number, start in enumerate(starts):
        assert prepare(*start, "--num-questions", "3", "--output_dir", f"out{number}")[0] == 0, start
    records = [json.loads((tmp_path / f"out{number}" / "run.json").read_text()) for number in range(len(starts))]
    assert [record["settings"] for record in records] == [
        {"dataset_name": "arithmetic", "dataset_split": "test", "num_questions": 3}
    ] * len(starts)
    assert prepare("--num_questions", "3", "--config", recipe, "--output_dir", "out0")[0] == 0


def test_a_file_of_the_user_comes_before_a_packaged_recipe(prepare: Command, tmp_path: Path) -> None:
    (tmp_path / "tiny/demo").mkdir(parents=True)
    (tmp_path / "tiny/demo/data_test").write_text("dataset_name: arithmetic\ndataset_split: sft\nnum_questions: 2\n")
    assert prepare("tiny/demo/data_test", "--output_dir", "out")[0] == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["settings"]["dataset_split"] == "sft"


@dataclass
class Nothing:
    output_dir: str = "out"


def finish_at_once(config: Nothing, record: Run) -> None:
    record.finish(0.0, {})


def test_the_last_lines_say_where_the_results_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare"])
    monkeypatch.setitem(finish_at_once.__globals__, "__spec__", compare.__spec__)
    for _ in range(2):  # the second time, the run is complete
        with pytest.raises(SystemExit):
            run(finish_at_once, Nothing)
        assert capsys.readouterr().out == "Results: out\n"


@dataclass
class Switches:
    """Bools with every default."""

    unset: bool | None = None
    enabled: bool = True
    disabled: bool = False
    maybe: bool | None = True


@pytest.mark.parametrize("name", ["unset", "enabled", "disabled", "maybe"])
def test_a_bool_is_a_flag(tmp_path: Path, name: str) -> None:
    parser = StrictParser([Switches], allow_abbrev=False)
    for value, options in {
        True: ([f"--{name}"], [f"--{name}", "true"], [f"--{name}=yes"]),
        False: ([f"--no_{name}"], [f"--no-{name}"], [f"--{name}", "false"], [f"--{name}=no"]),
    }.items():
        for option in options:
            assert vars(parser.parse(option)[0]) == vars(Switches()) | {name: value}, option
            assert parser.explicit_settings(option) == {name: value}, option
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{name}: true\n")
    for option, value in {"--no_" + name: False, "--" + name: True}.items():
        arguments = ["--config", str(recipe), option]
        assert getattr(StrictParser([Switches]).parse(arguments)[0], name) is value
        assert parser.explicit_settings(arguments) == {name: value}


def test_bools_of_trl_are_flags_too() -> None:
    parser = StrictParser([SubsetGRPOConfig], allow_abbrev=False)
    arguments = ["--output_dir", "out", "--length_bucketing", "--no_skip_zero_advantage", "--no_use_vllm"]
    wanted = {"length_bucketing": True, "skip_zero_advantage": False, "use_vllm": False}
    assert parser.explicit_settings(arguments) == {"output_dir": "out"} | wanted
    assert parser.parse([*arguments, "--use_cpu", "--bf16", "false"])[0].length_bucketing is True


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("num_questoins: 5", "recipe.yaml: unknown key 'num_questoins'; did you mean num_questions?"),
        ("num_questions: 4.5", "recipe.yaml: num_questions must be a whole number or None, got 4.5 (float)"),
        ("num_questions: [5]", "num_questions must be a whole number or None, got [5] (list)"),
        ("num_questions: many", "recipe.yaml: num_questions must be a whole number or None, got 'many'"),
        (
            "num_questions: 0",
            "num_questions must be a whole number from 1 to 1,000,000,000, got 0: give",
        ),
        (
            "dataset_split: train",
            "arithmetic has no dataset_split 'train': choose test or sft or grpo",
        ),
        ("- 5", "must be a mapping of names to values"),
        ("a: b: c", "config file recipe.yaml is not YAML: line 1, column 5: mapping values are not allowed here"),
    ],
)
def test_mistakes_in_a_recipe(prepare: Command, tmp_path: Path, recipe: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe + "\n")
    arguments = ["--dataset_name", "arithmetic", "--output_dir", "out"]
    if "num_questions" not in recipe:
        arguments += ["--num_questions", "5"]
    code, error = prepare("--config", "recipe.yaml", *arguments)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("raml-trl prepare_data: ")


def test_a_number_in_quotes_is_a_number(prepare: Command, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text('dataset_name: arithmetic\ndataset_split: test\nnum_questions: "5"\n')
    assert prepare("--config", "recipe.yaml", "--output_dir", "out")[0] == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["num_questions"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "missing.yaml"], "missing.yaml cannot be read: No such file or directory; `raml-trl"),
        (["--config"], "--config needs the path of a YAML file"),
        (["."], "config file . cannot be read: it is a directory, and a recipe is a YAML file"),
        (["tiny/demo/data_tets"], "No such file or directory; did you mean tiny/demo/data_test?"),
        (["recipes/tiny/demo"], "recipes/tiny/demo cannot be read: it is a folder of recipes, which"),
        (["../recipes/tiny/demo/data_test"], "No such file or directory; did you mean tiny/demo/data_test?"),
        (["tiny/demo/grpo"], "unknown key 'model_name_or_path'; by its name, this is a recipe of train_grpo\n"),
        (["no\0file"], "config file no\\x00file"),
        (["tiny/demo/data_test", "--config", "b.yaml"], "one recipe for a command, got 'tiny/demo/data_test' and"),
        (["--config=a.yaml", "--config", "b.yaml"], "there is one recipe for a command, got 'a.yaml' and 'b.yaml'"),
        (["--num_questoins", "5"], "unknown option --num_questoins; did you mean --num_questions?"),
        (["--num_questions", "two"], "prepare_data: num_questions must be a whole number, got 'two'\n"),
        (["--num_questoins=5"], "unknown option --num_questoins; did you mean --num_questions?"),
        (["--zzz"], "unknown option --zzz\n"),
        (["--output_dir", "out"], "the following arguments are required: --dataset_name; set them, or name a recipe"),
        (["--dataset_name", "questions.jsonl", "--output_dir", "out"], "there is no such directory or file"),
        (["--dataset_name", "arithmetic", "--dataset_split", "sft", "--output_dir", "out"], "num_questions is missing"),
        ([*ARITHMETIC, "--output_dir", "out", "--sede", "1"], "--sede"),
    ],
)
def test_mistakes_on_the_command_line(prepare: Command, arguments: list[str], message: str) -> None:
    code, error = prepare(*arguments)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_refused_run_leaves_nothing_behind(prepare: Command, tmp_path: Path) -> None:
    arguments = ["--dataset_split", "test", "--output_dir", "out"]
    assert prepare("--dataset_name", "questions.jsonl", *arguments)[0] == 2
    assert not (tmp_path / "out").exists()
    assert prepare("--dataset_name", "arithmetic", "--num_questions", "5", *arguments)[0] == 0


def test_a_later_process_of_a_refused_launch_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first process has been refused and has ended, while this one was still starting."""

    def refused() -> None:
        with pytest.raises(SystemExit, match="2"):
            run(prepare_data.main, PrepareDataConfig, distributed=True)

    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    arguments = ["--dataset_name", str(tmp_path / "none.jsonl"), "--output_dir", str(tmp_path / "new" / "out")]
    monkeypatch.setattr(sys, "argv", ["prepare_data", *arguments])
    refused()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "new" / "out", "refuse", rank=0):  # the first process is still at work
        refused()
        assert (tmp_path / "new" / "out" / "run.json").exists()


def test_two_processes_may_remove_the_same_empty_parent(
    prepare: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rmdir = Path.rmdir

    def second(path: Path) -> None:
        rmdir(path)
        if path.name == "new":  # the parent that this test lets the command make
            rmdir(path)

    monkeypatch.setattr(Path, "rmdir", second)
    code, error = prepare("--dataset_name", "none.jsonl", "--output_dir", "new/out")
    assert (code, error.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_files_that_a_killed_run_left_are_removed_but_not_those_of_other_processes(tmp_path: Path) -> None:
    for name in (".a.1.partial", ".b.1.partial"):
        (tmp_path / name).write_bytes(b"half")
    record = open_run(tmp_path, "prepare_data", {})
    (tmp_path / ".b.1.partial").unlink()  # another process has removed it first
    with whole_file(tmp_path / "c") as partial:
        partial.write_text("of another process")
        record.finish(0, {})
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "c"}


def test_one_process_of_a_launch_completes_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    records = [open_run(tmp_path, "evaluate", {}) for _ in range(3)]
    with records[0].completing() as first:
        with records[1].completing() as second:
            assert (first, second) == (True, False)
        records[0].finish(0, {})
    with records[2].completing() as late:
        assert not late
    assert [record.writes for record in records] == [True, False, False]
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def interrupted_main(config: PrepareDataConfig, record: Run) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_run_can_be_resumed(prepare: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prepare_data, "main", interrupted_main)
    monkeypatch.setitem(interrupted_main.__globals__, "__spec__", prepare_data.__spec__)
    code, error = prepare(*ARITHMETIC, "--output_dir", "out")
    assert (code, error.count("\n")) == (130, 1)
    monkeypatch.undo()
    assert prepare(*ARITHMETIC, "--output_dir", str(tmp_path / "out"))[0] == 0


def test_explicit_settings_leave_out_defaults_and_the_environment(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("env: {SOME_KEY: secret}\nmodel_name_or_path: m\nk: [1, 4]\n")
    arguments = ["--config", str(recipe), "--dataset_name", "d", "--output_dir", "o", "--k", "1", "8"]
    assert StrictParser([EvaluateConfig], allow_abbrev=False).explicit_settings(arguments) == {
        "model_name_or_path": "m",
        "dataset_name": "d",
        "output_dir": "o",
        "k": [1, 8],
    }


def test_fields_of_a_base_class_are_checked_too() -> None:
    with pytest.raises(InputError, match=r"dataset_split must be a text, got 1 \(int\)"):
        EvaluateConfig(dataset_name="d", dataset_split=1, model_name_or_path="m", output_dir="o")
    with pytest.raises(InputError, match=r"num_samples must be a whole number from 1 to [0-9,]+, got 8\.0"):
        EvaluateConfig(dataset_name="d", num_samples=8.0, model_name_or_path="m", output_dir="o")


def test_an_unknown_prompt_style_is_refused() -> None:
    with pytest.raises(InputError, match="prompt_style 'loud' is unknown: choose one of bare, boxed, conclusion"):
        DatasetArguments(dataset_name="d", prompt_style="loud")


@pytest.mark.children
@pytest.mark.parametrize(
    "entry",
    [
        ["-m", "raml_trl", "prepare-data"],
        pytest.param(["-m", "raml_trl.prepare_data"], marks=pytest.mark.slow),  # as most other tests start commands
    ],
)
def test_both_entry_points(tmp_path: Path, entry: list[str]) -> None:
    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*python(), *entry, *arguments], cwd=tmp_path, capture_output=True, text=True)

    done = start(*ARITHMETIC, "--output_dir", "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "questions-00000.parquet").is_file()
    refused = start(*ARITHMETIC, "--seed", "1", "--output_dir", "out")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


@pytest.mark.children
def test_a_reader_that_has_ended_is_no_error(tmp_path: Path) -> None:
    """As in `raml-trl prepare_data ... | head -0`."""
    command = [*python(), "-m", "raml_trl.prepare_data", *ARITHMETIC, "--output_dir", "out"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        error = process.stderr.read()
    assert process.returncode == 141, error
    assert "BrokenPipe" not in error
    assert json.loads((tmp_path / "out/run.json").read_text())["status"] == "complete"


@pytest.mark.children
def test_unknown_command(tmp_path: Path) -> None:
    done = subprocess.run([*python(), "-m", "raml_trl", "train-grp"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "raml-trl: unknown command train-grp; did you mean train_grpo?\n"
