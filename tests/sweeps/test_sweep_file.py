"""Sweep files have W&B's format, and the commands that they start accept their arguments."""

import json
import math
import os
import re
import subprocess
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from raml_trl.grpo.config import CheckedGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.runtime.cli import StrictParser
from raml_trl.runtime.errors import InputError
from raml_trl.sft.config import CheckedSFTConfig, SFTArguments
from raml_trl.sweeps.sweep_file import Settings, Sweep, expand, logged_name, read_sweep
from raml_trl.training.config import CheckedModelConfig
from tests.helpers import REPOSITORY
from tests.sweeps.examples import sweep_of

FILES = sorted((REPOSITORY / "recipes").rglob("sweeps/*.yaml"))
READERS: dict[str | None, list[Any]] = {
    "raml_trl.train_sft": [SFTArguments, CheckedSFTConfig, CheckedModelConfig],
    "raml_trl.train_grpo": [GRPOArguments, CheckedGRPOConfig, CheckedModelConfig],
}


def settings_of(sweep: Sweep) -> list[Settings]:
    """Return the settings of all trials of a grid that have the first seed."""
    lists = [p.values[:1] if name == "seed" else p.values for name, p in sweep.parameters.items()]
    return [dict(zip(sweep.parameters, values, strict=True)) for values in product(*lists)]


def started_with(words: list[str], tmp_path: Path, **variables: str) -> list[str]:
    """Run the command `words` with stubs for `accelerate` and `python`; return the name and arguments that one gets."""
    for name in ("accelerate", "python"):
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f'#!/bin/sh\nprintf "%s\\0" {name} "$@" > "$CAPTURED"\n')
        stub.chmod(0o755)
    captured = tmp_path / "captured"
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "CAPTURED": str(captured), **variables}
    subprocess.run(words, env=environment, check=True, cwd=REPOSITORY)
    return captured.read_text().split("\0")[:-1]


def test_every_folder_of_recipes_has_all_sweeps() -> None:
    names = {
        directory: {path.stem for path in FILES if path.parent == REPOSITORY / "recipes" / directory}
        for directory in ("sweeps", "tiny/sweeps", "qwen2.5-7b/sweeps")
    }
    assert {"sft_num_trajectories", "grpo_num_generations_update", "grpo_selection", "grpo_matched_batch"} < names[
        "sweeps"
    ]
    assert names["sweeps"] == names["tiny/sweeps"] == names["qwen2.5-7b/sweeps"]


def test_sweep_files_match_the_schema_of_wandb() -> None:
    spec = find_spec("sweeps")
    if spec is None or spec.origin is None:
        pytest.skip("needs W&B's package sweeps, which has the schema: make .venv/.sweep-schema")
    from jsonschema import Draft7Validator, FormatChecker

    schema = json.loads((Path(spec.origin).parent / "config" / "schema.json").read_text())
    formats = FormatChecker(())
    formats.checks("float")(lambda value: isinstance(value, float))
    formats.checks("integer")(lambda value: isinstance(value, int))
    validator = Draft7Validator(schema, format_checker=formats)
    for path in FILES:
        content = yaml.safe_load(path.read_text())
        assert not list(validator.iter_errors(content)), path
        assert list(validator.iter_errors(content | {"method": "gird"}))
        assert list(validator.iter_errors(content | {"parameters": {"a": {"valuse": [1]}}}))


@pytest.mark.children
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_commands_accept_the_arguments_of_their_sweep(path: Path, tmp_path: Path) -> None:
    sweep = read_sweep(path)
    assert sweep.parameters["seed"].values == ((0, 1, 2, 3, 4) if "tiny" in path.parts else (0, 1, 2))
    rows = set()
    for settings in settings_of(sweep):
        passed = {**settings, "output_dir": "mine", "report_to": "none"}
        words = started_with(expand(sweep, passed, Path("x"), os.environ), tmp_path)
        module = words.index("-m") + 1
        assert words[module] == sweep.program
        if words[0] == "accelerate":
            assert words[1] == "launch"
            assert (REPOSITORY / words[words.index("--config_file") + 1]).is_file()
        arguments = words[module + 1 :]
        arguments[arguments.index("--config") + 1] = str(REPOSITORY / arguments[arguments.index("--config") + 1])
        parser = StrictParser(READERS[sweep.program], allow_abbrev=False)
        configs = parser.parse([*arguments, "--use_cpu", "true"])
        fields = {name: value for config in configs for name, value in vars(config).items()}
        for name, value in settings.items():  # each setting is an option or a variable in the command
            assert fields[name] == value if name in fields else f"${name}" in path.read_text(), name
        assert fields["output_dir"] == "mine"
        assert fields["report_to"] in ("none", [])
        assert fields["eval_data"] is not None
        assert fields["eval_strategy"] != "no"
        assert sweep.metric == "eval/pass@1"
        assert 1 in fields["eval_k"]
        if fields.get("max_steps", 0) > 0:  # otherwise the last step is not evaluated
            assert fields["max_steps"] % fields["eval_steps"] == 0
        if "num_generations_update" in fields:
            config = configs[1]
            processes = 8 if "qwen2.5-7b" in path.parts else 1
            rows.add(config.rows_per_micro_batch * config.gradient_accumulation_steps * processes)
    if path.stem == "grpo_matched_batch":
        assert len(rows) == 1
        written = int(re.search(r"m x questions = (\d+)", path.read_text())[1])  # type: ignore[index]
        assert rows == {written}
    elif path.stem == "grpo_num_generations_update":
        assert len(rows) == 4
    elif path.stem == "grpo_num_generations":
        assert len(rows) == 1


@pytest.mark.children
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_each_run_of_wandb_has_its_own_directory(path: Path, tmp_path: Path) -> None:
    sweep = read_sweep(path)
    settings = settings_of(sweep)[0]
    command = expand(sweep, settings, Path("x"), os.environ)
    words = started_with(command, tmp_path, WANDB_SWEEP_ID="s1", WANDB_RUN_ID="r2")
    assert words[words.index("--output_dir") + 1] == "runs/wandb/s1/r2"
    recipe = yaml.safe_load((REPOSITORY / words[words.index("--config") + 1]).read_text())
    assert "wandb" in (recipe["report_to"], words[words.index("--report_to") + 1] if "--report_to" in words else None)


MACROS = {
    "env": ["/usr/bin/env"],
    "interpreter": ["python"],
    "program": ["p.py"],
    "args": ["--a=1.5", "--on=True", "--off=False", "--name=x y", "--none=None"],
    "args_no_hyphens": ["a=1.5", "on=True", "off=False", "name=x y", "none=None"],
    "args_no_equals": ["--a", "1.5", "--on", "True", "--off", "False", "--name", "x y", "--none", "None"],
    "args_no_boolean_flags": ["--a=1.5", "--on", "--name=x y", "--none=None"],
    "args_append_hydra": ["+a=1.5", "+on=True", "+off=False", "+name=x y", "+none=None"],
    "args_override_hydra": ["++a=1.5", "++on=True", "++off=False", "++name=x y", "++none=None"],
    "args_json": ['{"a": 1.5, "on": true, "off": false, "name": "x y", "none": null}'],
    "args_json_file": ["where/it/is.json"],
}
SETTINGS: Settings = {"a": 1.5, "on": True, "off": False, "name": "x y", "none": None}


@pytest.mark.parametrize("macro", MACROS)
def test_macro(macro: str, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, command=["first", f"${{{macro}}}", "last"])
    assert expand(sweep, SETTINGS, Path("where/it/is.json"), {}) == ["first", *MACROS[macro], "last"]


@pytest.mark.long
def test_macros_expand_as_in_the_agent_of_wandb() -> None:
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils", reason="needs the extra wandb")
    expected = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in SETTINGS.items()}})
    assert expected.pop("args_dict") == SETTINGS
    assert expected == {name: value for name, value in MACROS.items() if name in expected}
    assert {"env", "interpreter", "program", "args_json_file"} == MACROS.keys() - expected.keys()


def test_variables_and_words_without_macros(tmp_path: Path) -> None:
    command = ["echo ${args}", "$HOME ${x}", "${envvar:HERE}/${envvar:THERE}", 7]
    sweep = sweep_of(tmp_path, command=command)
    words = expand(sweep, SETTINGS, Path("x"), {"HERE": "1", "THERE": "2"})
    assert words == ["echo ${args}", "$HOME ${x}", "1/2", "7"]
    with pytest.raises(InputError, match="environment variable THERE"):
        expand(sweep, SETTINGS, Path("x"), {"HERE": "1"})


def test_the_default_command(tmp_path: Path) -> None:
    assert expand(sweep_of(tmp_path), {"a": 1}, Path("x"), {}) == ["/usr/bin/env", "python", "p.py", "--a=1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"method": "bayes"}, "method bayes needs the server of W&B: .*wandb agent"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3}}, "early_terminate needs the server.*wandb agent"),
        ({"method": "gird"}, "method must be grid or random, got 'gird'"),
        ({"parametres": {}}, "unknown key 'parametres'; did you mean parameters?"),
        ({"xyz": 1}, "unknown key 'xyz': remove it; known are command, description"),
        ({"command": ["${args}", "${arsg}"]}, r"\$\{arsg\} is not a macro of W&B; supported are .*\$\{args\}"),
        ({"program": None}, "program is missing"),
        ({"metric": None}, "metric must have a name"),
        ({"metric": {"name": "x", "target": 1}}, "metric must have a name"),
        ({"metric": {"name": "x", "goal": "max"}}, "goal must be minimize or maximize, got 'max'"),
        ({"parameters": {}}, "at least one parameter"),
        ({"parameters": {"a": 3}}, "parameter a must be a mapping"),
        ({"parameters": {"a": {"values": []}}}, "at least one, got"),
        ({"parameters": {"a": {"values": [1, 1.0]}}}, "a value twice"),
        ({"parameters": {"a": {"values": [1.0, math.inf]}}}, "parameter a: inf must be a finite number"),
        ({"parameters": {"a": {"value": math.nan}}}, "parameter a: nan must be a finite number"),
        ({"parameters": {"a": {"values": [[1], [2]]}}}, r"\[1\] must be a number"),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.5]}}}, "'probabilities'"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "'parameters'"),
        ({"parameters": {"a": {"min": 0.0, "max": 1.0}}}, "no grid: list its values, or use method random"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "min must be a number below max"),
        ({"parameters": {"a": {"min": 1, "max": 2, "distribution": "q_uniform"}}}, "'q_uniform' needs W&B"),
        ({"run_cap": 0}, "run_cap must be a number of trials, got 0"),
    ],
)
def test_unsupported_sweep_files_are_rejected(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        sweep_of(tmp_path, **content)


def test_logged_names_of_metrics() -> None:
    names = {"eval/pass@1": "eval_pass@1", "train/reward": "reward", "pass@1": "pass@1", "eval_pass@1": "eval_pass@1"}
    assert {name: logged_name(name) for name in names} == names


def test_trial_names_are_unique_and_safe(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, parameters={"a": {"values": ["x/y", "x_y", "x y", "." * 300]}, "b": {"value": 1}})
    names = [sweep.trial_name({"a": value, "b": 1}) for value in sweep.parameters["a"].values]
    assert names[1] == "a=x_y"
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"[\w=,.-]{1,140}", name) for name in names)
