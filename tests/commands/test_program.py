"""The program `raml-trl`: its help, the packaged recipes, completion, and the command that can follow another."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from raml_trl.__main__ import main
from raml_trl.build_model import BuildModelConfig
from raml_trl.compare import CompareConfig
from raml_trl.runtime.commands import COMMANDS, STAGES, TOOLS
from raml_trl.runtime.completion import SHELLS, _bash_script
from raml_trl.runtime.files import read_yaml
from raml_trl.runtime.next_command import last_lines, next_command, with_maker
from raml_trl.runtime.parser import StrictParser
from raml_trl.runtime.recipes import find_folder, find_recipe, list_recipes, recipes_root
from raml_trl.runtime.runs import open_run
from tests.contracts.test_docs import COMMAND_READERS
from tests.contracts.test_recipes import RECIPES, reader
from tests.helpers import REPOSITORY


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the program in this process and returns its exit code, standard output and standard error."""

    def start(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["raml-trl", *arguments])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return start


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_help_has_one_line_for_each_command_in_its_stage(program, arguments: list[str]) -> None:
    code, output, error = program(*arguments)
    assert (code, error) == (0, "")
    positions = []
    for stage, commands in (*STAGES.items(), ("Recipes and shell", TOOLS)):
        positions.append(output.index(f"\n{stage}:\n"))
        for command, about in commands.items():
            [line] = re.findall(rf"^  {command} .*$", output, re.MULTILINE)
            assert line.split(maxsplit=1) == [command, about]
            positions.append(output.index(line))
    assert positions == sorted(positions)
    assert max(map(len, output.splitlines())) <= 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train_grp"], "unknown command train_grp; did you mean train_grpo?"),
        (["train-grp"], "unknown command train-grp; did you mean train_grpo?"),
        (["grpo"], "unknown command grpo; did you mean train_grpo?"),
        (["train"], "unknown command train; did you mean train_sft or train_grpo?"),
        (["grop"], "unknown command grop; did you mean train_grpo?"),
        (["recipe"], "unknown command recipe; did you mean recipes?"),
        (["--versoin"], "unknown command --versoin; did you mean --version?"),
        (["zzz"], "unknown command zzz; raml-trl --help lists the commands"),
        (["init"], "usage: raml-trl init NAME [DIR]"),
        (["init", "tiny/demo/grp"], "there is no recipe 'tiny/demo/grp'; did you mean tiny/demo/grpo?"),
        (["init", "../tests"], "there is no recipe '../tests'; `raml-trl recipes` lists them"),
        (["recipes", "no such"], "no recipe has 'no such' in its name"),
        (
            ["init", "tiny/demo/grpo", "mine.yaml"],
            "mine.yaml has the name of a file: give a directory, the copy keeps the name of its recipe",
        ),
        (["help", "train_grp"], "unknown command train_grp; did you mean train_grpo?"),
        (["recipes", "tiny", "demo"], "usage: raml-trl recipes [TEXT]"),
        (["completion", "tcsh"], "completion: there is no script for tcsh: choose bash, zsh, fish"),
    ],
)
def test_mistakes_are_one_line(program, arguments: list[str], message: str) -> None:
    assert program(*arguments) == (2, "", f"raml-trl: {message}\n")


@pytest.mark.children
@pytest.mark.parametrize("command", ["compare", "build_model"])
def test_the_help_of_a_command_lists_its_own_settings(command: str) -> None:
    code = [sys.executable, "-m", f"raml_trl.{command}", "--help"]
    page = subprocess.run(code, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    config = {"compare": CompareConfig, "build_model": BuildModelConfig}[command]
    assert all(f"--{field.name}" in page or f"--[no_]{field.name}" in page for field in fields(config))
    assert "more settings" not in page


def test_help_of_a_tool_and_of_a_command(program, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program("help", "init") == (0, f"{TOOLS['init']}\n", "")
    started = []
    monkeypatch.setattr("runpy.run_module", lambda module, **_: started.append((module, sys.argv[1:])))
    program("help", "train-grpo")
    assert started == [("raml_trl.train_grpo", ["--help"])]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # other tests have imported train_grpo
def test_a_recipe_can_name_a_function_in_the_current_directory(
    program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    Path("brevity_of_a_test.py").write_text("def score(completions, **columns):\n    return [0.0] * len(completions)\n")
    start = ("train_grpo", "tiny/demo/grpo", "--dry_run", "--reward_funcs")
    _, output, error = program(*start, "brevity_of_a_test:score", "answer")
    assert "1 x brevity_of_a_test:score" in output
    assert "reward_funcs" not in error  # the data and the model are missing
    assert "cannot be imported" in program(*start, "brevity_of_a_tset:score")[2]


@pytest.mark.children
def test_help_and_recipes_import_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from raml_trl.__main__ import main
for arguments in (["--help"], ["--version"], ["recipes"], ["train_grp"], ["init", "tiny/demo/grpo"]):
    slow = ["torch", "transformers", "trl", "datasets"] + ["numpy", "pyarrow"] * (arguments[0] != "init")
    sys.argv = ["raml-trl", *arguments]
    try:
        main()
    except SystemExit:
        pass
    if any(name in sys.modules for name in slow):
        sys.exit(f"{arguments} imports one of {slow}")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: raml-trl COMMAND")
    assert re.search(r"^raml-trl \d+\.\d+\.\d+ \(torch \d.*, Python 3\.\d+\.\d+\)$", done.stdout, re.MULTILINE)
    assert (tmp_path / "grpo.yaml").is_file()


def test_every_recipe_is_listed_with_the_command_that_reads_it(program, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {recipe.name: recipe for recipe in list_recipes()}
    for path in RECIPES:
        recipe = listed.pop(path.relative_to(recipes_root()).with_suffix("").as_posix())
        assert COMMAND_READERS[recipe.command] == reader(path), recipe
        assert recipe.about.endswith("."), f"{recipe.name} has no sentence at its start"
    assert {recipe.command for recipe in listed.values()} == {"sweep"}
    for recipe in listed.values():
        assert read_yaml(find_recipe(recipe.name)).keys() >= {"method", "metric", "parameters"}
    monkeypatch.delenv("COLUMNS", raising=False)
    _, output, _ = program("recipes")
    *lines, empty, hint = output.splitlines()
    assert sorted(line.split(maxsplit=2) for line in lines) == [[r.name, r.command, r.about] for r in list_recipes()]
    folders = list(dict.fromkeys(line.rpartition("/")[0] for line in lines))
    assert folders[:2] == ["tiny/demo", "gsm8k"]
    assert folders[2:] == sorted(folders[2:])
    assert (empty, "raml-trl recipes gsm8k" in hint) == ("", True)
    _, output, _ = program("recipes", "tiny/demo/grpo")
    assert [line.split()[0] for line in output.splitlines()] == ["tiny/demo/grpo", "tiny/demo/grpo_best"]


def test_the_list_of_recipes_fits_into_the_terminal(program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    whole = program("recipes", "qwen")[1].splitlines()
    for width in (60, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = program("recipes", "qwen")[1].splitlines()
        assert max(map(len, lines)) == width
        for line, complete in zip(lines, whole, strict=True):
            assert line == complete or (line.endswith("…") and complete.startswith(line[:-1]))


def test_a_recipe_may_name_a_packaged_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = str(recipes_root() / "qwen2.5-7b")
    names = ["recipes/qwen2.5-7b", "qwen2.5-7b", "Qwen/Qwen2.5-7B", "recipes/../recipes", "recipes/no"]
    assert [find_folder(name) for name in names] == [packaged, *names[1:]]
    (tmp_path / "recipes/qwen2.5-7b").mkdir(parents=True)
    assert find_folder("recipes/qwen2.5-7b") == "recipes/qwen2.5-7b"


def test_init_copies_recipes_that_name_each_other_and_launchers(
    program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    program("init", "gsm8k", "mine")
    assert read_yaml(Path("mine/plan_0.5b.yaml"))["recipe"] == "mine/grpo_0.5b.yaml"
    assert "--config mine/data_test.yaml" in Path("mine/data_test.yaml").read_text()
    program("init", "gsm8k/plan_0.5b")
    assert read_yaml(Path("plan_0.5b.yaml"))["recipe"] == "recipes/gsm8k/grpo_0.5b.yaml"  # that one is not copied
    launchers = {path.name: path.read_bytes() for path in (REPOSITORY / "accelerate_configs").iterdir()}
    assert program("init", "accelerate_configs", "launchers")[1] == f"Results: launchers, {len(launchers)} recipes\n"
    assert {path.name: path.read_bytes() for path in Path("launchers").iterdir()} == launchers
    assert program("init", "accelerate_configs/ddp")[1] == "Results: ddp.yaml\n"


def test_init_copies_recipes_and_overwrites_nothing(program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, _ = program("init", "tiny/demo/grpo")
    assert (code, output) == (
        0,
        "Results: grpo.yaml\n"
        "Note: The copy keeps its output_dir runs/demo/grpo: give an edited copy another one, because a directory "
        "holds one run.\n"
        "Next: raml-trl train_grpo grpo.yaml --dry_run\n",
    )
    assert Path("grpo.yaml").read_bytes() == (REPOSITORY / "recipes/tiny/demo/grpo.yaml").read_bytes()
    Path("grpo.yaml").write_text("edited")
    assert program("init", "tiny/demo/grpo")[0] == 2
    code, _, error = program("init", "recipes/tiny/demo")
    assert (code, error) == (2, "raml-trl: grpo.yaml exists already: give another directory, or remove the file\n")
    assert [path.name for path in tmp_path.iterdir()] == ["grpo.yaml"]
    assert Path("grpo.yaml").read_text() == "edited"
    demo = sorted((REPOSITORY / "recipes/tiny/demo").glob("*.yaml"))
    assert program("init", "tiny/demo", "a b/c")[1] == (
        f"Results: a b/c, {len(demo)} recipes\n"
        "Note: The copies keep their output_dir, such as runs/demo/data_grpo: give an edited copy another one, because "
        "a directory holds one run.\n"
        "Next: raml-trl build_model 'a b/c/model.yaml' --dry_run\n"
    )
    copied = {path.name: path.read_text() for path in Path("a b/c").iterdir()}
    packaged = {path.name: path.read_text() for path in demo}
    assert read_yaml(Path("a b/c/plan.yaml"))["recipe"] == "a b/c/grpo.yaml"  # the copy names a copy
    assert copied.pop("plan.yaml").replace("'a b/c/", "recipes/tiny/demo/").replace(".yaml'", ".yaml") == packaged.pop(
        "plan.yaml"
    )
    assert copied == packaged
    assert program("init", "benchmarks/gsm8k")[1] == "Results: gsm8k.yaml\n"  # the model is missing, so no command runs
    assert program("init", "tiny/demo/eval", "grpo.yaml")[0] == 2  # a file, no directory


def test_init_names_a_recipe_that_can_run(program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever exists already, the inputs of the recipe exist or are not made by a recipe of the folder."""
    monkeypatch.chdir(tmp_path)
    named = []
    for number in range(6):
        words = program("init", "tiny/demo", f"copy{number}")[1].rpartition("Next: ")[2].split()
        command, recipe, dry_run = words[1:]
        assert dry_run == "--dry_run"
        named.append(f"{command} {Path(recipe).name}")
        if command == "train_grpo":
            break
        finished(Path(read_yaml(Path(recipe))["output_dir"]), command)
    assert named == [
        "build_model model.yaml",
        "prepare_data data_sft.yaml",
        "train_sft sft.yaml",
        "prepare_data data_grpo.yaml",
        "train_grpo grpo.yaml",
    ]
    assert program("init", "gsm8k", "b")[1].endswith("Next: raml-trl prepare_data b/data_train.yaml --dry_run\n")
    # A folder without a training, and one whose name would make each recipe one of prepare_data.
    assert program("init", "tiny/analysis", "c")[0] == 0
    assert program("init", "tiny/demo", "data")[1].endswith("Next: raml-trl train_grpo data/grpo.yaml --dry_run\n")


@pytest.mark.parametrize("command", COMMAND_READERS)
def test_help_shows_our_settings_and_help_all_every_setting(command: str) -> None:
    parser = StrictParser(COMMAND_READERS[command], prog=f"raml-trl {command}", allow_abbrev=False)

    def shown(page: str) -> list[str]:
        return re.findall(r"^  --(?:\[no_\])?(\w+)", page, re.MULTILINE)[1:]  # the first is --help

    page, whole = parser.format_help(), parser.format_help(everything=True)
    assert sorted(shown(whole)) == sorted(parser._hints())
    ours = {
        name
        for config_class in parser.dataclass_types
        for base in config_class.__mro__
        if base.__module__.startswith("raml_trl.")
        for name in base.__annotations__
        if name in parser._hints()
    }
    assert sorted(shown(page)) == sorted({*ours, *({"model_name_or_path", "output_dir"} & set(parser._hints()))})
    assert shown(whole)[: len(shown(page))] == shown(page)
    if len(ours) < len(parser._hints()):
        hidden = len(shown(whole)) - len(shown(page))
        assert page.endswith(f"{hidden} more settings, of TRL and transformers: raml-trl {command} --help_all\n")
        assert "Settings of trl: " in whole
        assert "Settings of trl" not in page


def test_help_shows_groups_kinds_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    page = StrictParser(COMMAND_READERS["train_grpo"], prog="raml-trl train_grpo", allow_abbrev=False).format_help()
    titles = re.findall(r"^(\w[^:]*):$", page, re.MULTILINE)
    assert titles[:2] == ["Run", "Data"]
    assert {"Selection of rollouts", "Evaluation during training", "Packing"} <= set(titles)
    assert re.search(r"^  --subset_mode drop\|mask .*", page, re.MULTILINE)
    assert re.search(r"^  --output_dir TEXT [^-]*\(required\)$", page, re.MULTILINE)
    assert re.search(r"^  --eval_k INT \.\.\. .*\(default: 1 8\)$", page, re.MULTILINE)
    assert re.search(r"^  --\[no_\]question_weights [^-]*\(default:\s+false\)$", page, re.MULTILINE)
    assert max(map(len, page.splitlines())) <= 120


def finished(directory: Path, command: str) -> None:
    open_run(directory, command, {}).finish(0.0, {})


def test_the_next_command_leads_through_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    commands = ["raml-trl build_model tiny/demo/model"]
    while "report" not in commands[-1]:
        _, command, recipe = shlex.split(commands[-1])
        output = Path(read_yaml(find_recipe(recipe))["output_dir"])
        finished(output, command)
        if command == "evaluate":
            (output / "samples.parquet").touch()
        following = next_command(command, output, recipe)
        assert following is not None, commands
        commands.append(following)
    assert commands == [
        "raml-trl build_model tiny/demo/model",
        "raml-trl prepare_data tiny/demo/data_sft",
        "raml-trl train_sft tiny/demo/sft",
        "raml-trl prepare_data tiny/demo/data_grpo",
        "raml-trl train_grpo tiny/demo/grpo",
        "raml-trl prepare_data tiny/demo/data_test",
        "raml-trl evaluate tiny/demo/eval",
        "raml-trl evaluate tiny/demo/eval_base",
        "raml-trl evaluate tiny/demo/eval_sft",
        "raml-trl report tiny/demo/report",
    ]


def test_the_next_command_is_written_as_the_recipe_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my recipes").symlink_to(REPOSITORY / "recipes/tiny/demo")
    finished(Path("runs/demo/model"), "build_model")
    finished(Path("runs/demo/data_sft"), "prepare_data")
    for start, following in {
        "tiny/demo/model.yaml": "tiny/demo/sft.yaml",
        "recipes/tiny/demo/model.yaml": "recipes/tiny/demo/sft.yaml",
        "my recipes/model.yaml": "'my recipes/sft.yaml'",
    }.items():
        assert next_command("build_model", Path("runs/demo/model"), start) == f"raml-trl train_sft {following}"
    assert last_lines("build_model", Path("runs/my model"), None) == [
        "Results: runs/my model",
        "Note: A recipe that trains or evaluates reads it with --model_name_or_path 'runs/my model'",
        "Next: raml-trl recipes",
    ]
    assert next_command("plan", Path("runs/demo/model"), None) is None
    record = open_run(Path("runs/compare"), "compare", {"evaluations": ["a=runs/a", "b=runs/b c"]})
    record.finish(0.0, {})
    assert next_command("compare", Path("runs/compare"), None) == (
        "raml-trl report --evaluations a=runs/a 'b=runs/b c' --output_dir runs/compare_report"
    )
    # A trial of a sweep has the sign = in its name, which would end the name of the evaluation.
    finished(Path("runs/eval"), "evaluate")
    samples = Path("runs/eval/num_generations_update=4,seed=0/samples.parquet")
    samples.parent.mkdir()
    samples.touch()
    assert next_command("evaluate", Path("runs/eval"), None) == (
        "raml-trl report --evaluations 'num_generations_update 4,seed 0=runs/eval/num_generations_update=4,seed=0' "
        "--output_dir runs/eval_report"
    )
    for unnamed in (Path(), Path("..")):
        assert next_command("train_sft", unnamed, None) is None
    # An unfinished input is no input, and results that exist are not made again.
    open_run(Path("runs/demo/data_grpo"), "prepare_data", {})
    finished(Path("runs/demo/sft"), "train_sft")
    assert (
        next_command("train_sft", Path("runs/demo/sft"), "tiny/demo/sft") == "raml-trl prepare_data tiny/demo/data_grpo"
    )
    (tmp_path / "runs/demo/grpo").mkdir()
    (tmp_path / "runs/demo/grpo_best").mkdir()
    for existing in ("eval_sft", "report"):
        following = next_command("train_sft", Path("runs/demo/sft"), "tiny/demo/sft")
        assert following == "raml-trl prepare_data tiny/demo/data_test"
        (tmp_path / "runs/demo" / existing).mkdir()
    assert next_command("train_sft", Path("runs/demo/sft"), "tiny/demo/sft") == (
        "raml-trl report --runs SFT=runs/demo/sft --output_dir runs/demo/sft_report"
    )


def test_evaluations_of_several_models_are_reported_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b", "a model", "no evaluation"):
        (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out/b/samples.parquet").touch()
    (tmp_path / "out/a model/samples.parquet").touch()
    assert next_command("evaluate", Path("out"), None) == (
        "raml-trl report --evaluations 'a model=out/a model' b=out/b --output_dir out_report"
    )
    assert next_command("evaluate", Path("out/no evaluation"), None) is None


def test_the_recipe_of_a_missing_directory_is_named() -> None:
    def missing(directory: str) -> str:
        return f"dataset_name {directory}: there is no such directory or file"

    demo = missing("runs/demo/data_test")
    for recipe in (None, "gsm8k/grpo_0.5b", "tiny/demo/grpo"):
        assert with_maker(demo, recipe) == f"{demo}; `raml-trl prepare_data tiny/demo/data_test` makes it"
    path = str(REPOSITORY / "recipes/tiny/demo/grpo.yaml")
    maker = path.replace("grpo.yaml", "data_test.yaml")
    assert with_maker(demo, path) == f"{demo}; `raml-trl prepare_data {shlex.quote(maker)}` makes it"
    for unchanged in (missing("runs/mine"), "runs/demo/data_test cannot be read"):
        assert with_maker(unchanged, "tiny/demo/grpo") == unchanged


def test_damaged_neighbours_do_not_harm_the_last_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sft.yaml").write_text("output_dir: runs/a\nmodel_name_or_path: runs/model\n")
    (tmp_path / "sft_long.yaml").write_text(f"output_dir: runs/{'x' * 5000}\nmodel_name_or_path: runs/model\n")
    (tmp_path / "sft_nul.yaml").write_text('output_dir: "runs/\\0"\nmodel_name_or_path: runs/model\n')
    (tmp_path / "grpo.yaml").write_text("a: b: c")
    (tmp_path / "eval.yaml").write_bytes(b"\xff\xfe\x00")
    finished(Path("runs/model"), "build_model")
    (tmp_path / "model.yaml").write_text("output_dir: runs/model\n")
    lines = last_lines("build_model", Path("runs/model"), "model.yaml")
    assert lines == ["Results: runs/model", "Next: raml-trl train_sft sft.yaml"]
    (tmp_path / "sft.yaml").write_text("output_dir: runs/a\nmodel_name_or_path: runs/model\ndataset_name: runs/data\n")
    for name in ("sft_long.yaml", "sft_nul.yaml"):
        (tmp_path / name).unlink()
    (tmp_path / "runs/data").mkdir()
    (tmp_path / "runs/data/run.json").write_text("{")
    assert last_lines("build_model", Path("runs/model"), "model.yaml") == ["Results: runs/model"]
    assert last_lines("build_model", Path("runs/model"), "gone.yaml") == ["Results: runs/model"]


def completed(script: str, *words: str) -> list[str]:
    """Return what bash would offer for the last of `words`."""
    call = f'COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _raml_trl; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{call}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.children
def test_bash_completes_commands_settings_recipes_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").touch()
    options = {"train_grpo": ["--num_generations", "--num_generations_update"], "evaluate": ["--num_samples"]}
    script = _bash_script(options, [recipe.name for recipe in list_recipes()], zsh=False)
    assert completed(script, "raml-trl", "train_") == ["train_sft", "train_grpo"]
    assert completed(script, "raml-trl", "train-grpo", "--num") == ["--num_generations", "--num_generations_update"]
    assert completed(script, "raml-trl", "evaluate", "x", "--num") == ["--num_samples"]
    assert completed(script, "raml-trl", "train_grpo", "tiny/demo/grpo") == ["tiny/demo/grpo", "tiny/demo/grpo_best"]
    assert completed(script, "raml-trl", "train_grpo", "tiny.") == ["tiny.yaml"]
    assert completed(script, "raml-trl", "completion", "") == list(SHELLS)


@pytest.mark.slow
@pytest.mark.children
def test_completion_offers_the_settings_of_every_command() -> None:
    code = """
import json
from raml_trl.runtime.commands import COMMANDS
from raml_trl.runtime.completion import command_options
print(json.dumps({command: command_options(command) for command in COMMANDS}))
"""
    done = subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    options = json.loads(done.stdout.splitlines()[-1])
    assert set(options) == set(COMMANDS)
    for command, readers in COMMAND_READERS.items():
        names = {f"--{name}" for name in StrictParser(readers)._hints()}
        assert names | {"--config", "--help", "--help_all", "--dry_run"} <= set(options[command]), command
    assert "--no_length_bucketing" in options["train_grpo"]
