"""Sweep files are W&B's and what they start understands them; trials run once, whoever is killed, and are counted."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from matplotlib.figure import Figure
from trl import ModelConfig, SFTConfig

from raml_trl.evaluation.intervals import student_interval
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.runtime.cli import StrictParser
from raml_trl.runtime.errors import InputError
from raml_trl.sft.config import SFTArguments
from raml_trl.sweep import SweepConfig
from raml_trl.sweeps.agents import Agents
from raml_trl.sweeps.results import (
    SettingMean,
    TrialResult,
    _draw_means,
    best_setting,
    means_over_seeds,
    means_table,
    read_metric,
    sweep_figure,
)
from raml_trl.sweeps.study import draw_trials, open_study
from raml_trl.sweeps.sweep_file import Settings, Sweep, expand, read_sweep
from tests.helpers import REPOSITORY

FILES = sorted((REPOSITORY / "recipes").rglob("sweeps/*.yaml"))
READERS: dict[str | None, list[Any]] = {
    "raml_trl.train_sft": [SFTArguments, SFTConfig, ModelConfig],
    "raml_trl.train_grpo": [GRPOArguments, SubsetGRPOConfig, ModelConfig],
}

# A run that says when it starts and whether it is alone in its directory, and takes as long as it is told.
TOY = """
import json, os, sys, time
from pathlib import Path
import psutil

given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
own, home = Path(given["output_dir"]), Path(os.environ["TOY_HOME"])
own.mkdir(parents=True, exist_ok=True)
def note(what):
    with open(home / "notes", "a") as notes:
        notes.write(json.dumps([what, own.name, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")]) + "\\n")
record = own / "run.json"
if record.exists() and json.loads(record.read_text())["status"] == "complete":
    note("found complete")
    sys.exit()
try:
    os.close(os.open(own / "alive", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    pid = int((own / "pid").read_text())
    alive = psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    note("clash" if alive else "resumed")
(own / "pid").write_text(str(os.getpid()))
note("started")
print("toy speaks", flush=True)
try:
    time.sleep(float(os.environ.get("TOY_SECONDS", 0)))
except KeyboardInterrupt:
    note("interrupted")
    sys.exit(130)
if (home / "broken").exists() and (home / "broken").read_text() in own.name:
    sys.exit("broken")
a = float(given["a"])
found = {"score": a + 0.1 * float(given.get("seed", 0)), "other": 1}
if (home / "diverges").exists():
    found["score"] = float((home / "diverges").read_text())
said = {"command": "toy", "settings": {}, "inputs": {}, "status": "complete", "seconds": 2.5, "results": found}
record.write_text(json.dumps(said))
(own / "alive").unlink()
note("ended")
"""


class Toy:
    """A directory with a sweep of the toy in it."""

    def __init__(self, home: Path, content: dict[str, Any] | None = None) -> None:
        self.home, self.file = home, home / "toy.yaml"
        (home / "toy.py").write_text(TOY)
        self.content = {
            "program": str(home / "toy.py"),
            "method": "grid",
            "metric": {"name": "score", "goal": "maximize"},
            "parameters": {"a": {"values": [1, 2, 3]}, "seed": {"values": [0, 1]}},
            "command": ["${env}", "${interpreter}", "${program}", "${args}"],
        } | (content or {})
        self.file.write_text(yaml.safe_dump(self.content))

    def start(self, *arguments: str, seconds: float = 0) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "raml_trl.sweep",
                str(self.file),
                "--output_dir",
                str(self.home / "out"),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=os.environ | {"TOY_HOME": str(self.home), "TOY_SECONDS": str(seconds)},
        )

    def run(self, *arguments: str, seconds: float = 0) -> tuple[int, str]:
        process = self.start(*arguments, seconds=seconds)
        out, errors = process.communicate(timeout=120)
        return process.returncode, out + errors

    @property
    def notes(self) -> list[list[Any]]:
        path = self.home / "notes"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def noted(self, what: str) -> list[str]:
        return [note[1] for note in self.notes if note[0] == what]

    def wait_for(self, what: str, number: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.noted(what)) < number:
            assert time.monotonic() < deadline, self.notes
            time.sleep(0.02)

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.home / "out" / "sweep.json").read_text())


SIX = {f"a={a},seed={seed}" for a in (1, 2, 3) for seed in (0, 1)}


def settings_of(sweep: Sweep) -> list[Settings]:
    """Every trial of a grid with its first seed."""
    lists = [one.values[:1] if name == "seed" else one.values for name, one in sweep.parameters.items()]
    return [dict(zip(sweep.parameters, values, strict=True)) for values in product(*lists)]


def started_with(words: list[str], tmp_path: Path, **variables: str) -> list[str]:
    """What `accelerate` or `python` is given when `words` are run as they stand, shell and all."""
    for name in ("accelerate", "python"):
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f'#!/bin/sh\nprintf "%s\\0" {name} "$@" > "$CAPTURED"\n')
        stub.chmod(0o755)
    captured = tmp_path / "captured"
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "CAPTURED": str(captured), **variables}
    subprocess.run(words, env=environment, check=True, cwd=REPOSITORY)
    return captured.read_text().split("\0")[:-1]


def test_there_are_sweeps() -> None:
    names = {
        directory: {path.stem for path in FILES if path.parent == REPOSITORY / "recipes" / directory}
        for directory in ("sweeps", "tiny/sweeps", "qwen2.5-7b/sweeps")
    }
    assert {"sft_num_trajectories", "grpo_num_generations_update", "grpo_selection", "grpo_matched_batch"} < names[
        "sweeps"
    ]
    assert names["sweeps"] == names["tiny/sweeps"] == names["qwen2.5-7b/sweeps"]


def test_sweep_files_are_what_wandb_takes() -> None:
    spec = find_spec("sweeps")
    if spec is None or spec.origin is None:
        pytest.skip("the schema of W&B's sweeps is in their package sweeps: make .venv/.sweep-schema")
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_what_a_sweep_starts_understands_it(path: Path, tmp_path: Path) -> None:
    sweep = read_sweep(path)
    assert sweep.parameters["seed"].values == ((0, 1, 2, 3, 4) if "tiny" in path.parts else (0, 1, 2))
    rows = set()
    for settings in settings_of(sweep):
        everything = {**settings, "output_dir": "mine", "report_to": "none"}
        said = started_with(expand(sweep, everything, Path("x"), os.environ), tmp_path)
        module = said.index("-m") + 1
        assert said[module] == sweep.program
        if said[0] == "accelerate":
            assert said[1] == "launch"
            assert (REPOSITORY / said[said.index("--config_file") + 1]).is_file()
        arguments = said[module + 1 :]
        arguments[arguments.index("--config") + 1] = str(REPOSITORY / arguments[arguments.index("--config") + 1])
        parser = StrictParser(READERS[sweep.program], allow_abbrev=False)
        configs = parser.parse([*arguments, "--use_cpu", "true"])
        fields = {name: value for config in configs for name, value in vars(config).items()}
        for name, value in settings.items():  # each is an option, or stands in the command
            assert fields[name] == value if name in fields else f"${name}" in path.read_text(), name
        assert fields["output_dir"] == "mine"
        assert fields["report_to"] in ("none", [])
        assert fields["eval_data"] is not None
        assert fields["eval_strategy"] != "no"
        assert sweep.metric == "eval/pass@1"
        assert 1 in fields["eval_k"]
        if fields.get("max_steps", 0) > 0:  # or the last step would not be measured
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_a_run_of_wandb_has_a_directory_of_its_own(path: Path, tmp_path: Path) -> None:
    sweep = read_sweep(path)
    settings = settings_of(sweep)[0]
    words = expand(sweep, settings, Path("x"), os.environ)
    said = started_with(words, tmp_path, WANDB_SWEEP_ID="s1", WANDB_RUN_ID="r2")
    assert said[said.index("--output_dir") + 1] == "runs/wandb/s1/r2"
    recipe = yaml.safe_load((REPOSITORY / said[said.index("--config") + 1]).read_text())
    assert "wandb" in (recipe["report_to"], said[said.index("--report_to") + 1] if "--report_to" in said else None)


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


def sweep_of(tmp_path: Path, **content: Any) -> Sweep:
    whole = {"method": "grid", "program": "p.py", "metric": {"name": "score"}, "parameters": {"a": {"value": 1}}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**whole, **content}, sort_keys=False))
    return read_sweep(tmp_path / "s.yaml")


@pytest.mark.parametrize("macro", MACROS)
def test_macro(macro: str, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, command=["first", f"${{{macro}}}", "last"])
    assert expand(sweep, SETTINGS, Path("where/it/is.json"), {}) == ["first", *MACROS[macro], "last"]


def test_macros_are_those_of_the_agent_of_wandb() -> None:
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils", reason="wandb is the extra raml_trl[wandb]")
    theirs = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in SETTINGS.items()}})
    assert theirs.pop("args_dict") == SETTINGS
    assert theirs == {name: value for name, value in MACROS.items() if name in theirs}
    assert {"env", "interpreter", "program", "args_json_file"} == MACROS.keys() - theirs.keys()


def test_words_without_macros(tmp_path: Path) -> None:
    command = ["echo ${args}", "$HOME ${x}", "${envvar:HERE}/${envvar:THERE}", 7]
    sweep = sweep_of(tmp_path, command=command)
    words = expand(sweep, SETTINGS, Path("x"), {"HERE": "1", "THERE": "2"})
    assert words == ["echo ${args}", "$HOME ${x}", "1/2", "7"]
    with pytest.raises(InputError, match="environment variable THERE"):
        expand(sweep, SETTINGS, Path("x"), {"HERE": "1"})


def test_the_command_of_a_file_without_one(tmp_path: Path) -> None:
    assert expand(sweep_of(tmp_path), {"a": 1}, Path("x"), {}) == ["/usr/bin/env", "python", "p.py", "--a=1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"method": "bayes"}, "method 'bayes' does not run without W&B.*wandb agent"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3}}, "early_terminate does not run.*wandb agent"),
        ({"method": "gird"}, "method 'gird'"),
        ({"command": ["${args}", "${arsg}"]}, r"\$\{arsg\} is not a macro of W&B; supported are .*\$\{args\}"),
        ({"program": None}, "program is missing"),
        ({"metric": None}, "metric must have a name"),
        ({"metric": {"name": "x", "target": 1}}, "metric must have a name"),
        ({"metric": {"name": "x", "goal": "max"}}, "goal must be minimize or maximize, got 'max'"),
        ({"parameters": {}}, "at least one parameter"),
        ({"parameters": {"a": 3}}, "parameter a must be a mapping"),
        ({"parameters": {"a": {"values": []}}}, "at least one, got"),
        ({"parameters": {"a": {"values": [1, 1.0]}}}, "a value twice"),
        ({"parameters": {"a": {"values": [[1], [2]]}}}, r"\[1\] must be a number"),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.5]}}}, "'probabilities'"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "'parameters'"),
        ({"parameters": {"a": {"min": 0.0, "max": 1.0}}}, "no grid: list its values, or use method random"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "min must be a number below max"),
        ({"parameters": {"a": {"min": 1, "max": 2, "distribution": "q_uniform"}}}, "'q_uniform' needs W&B"),
        ({"run_cap": 0}, "run_cap must be a number of trials, got 0"),
    ],
)
def test_what_cannot_run_here_is_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        sweep_of(tmp_path, **content)


def test_directories(tmp_path: Path) -> None:
    tiny = SweepConfig(sweep=str(REPOSITORY / "recipes/tiny/sweeps/grpo_selection.yaml"))
    assert tiny.output_dir == "runs/tiny/sweeps/grpo_selection"
    named = {
        path.parent.parent.name: SweepConfig(sweep=str(path)).output_dir
        for path in FILES
        if path.stem == "grpo_selection"
    }
    of = "{}/sweeps/grpo_selection".format
    assert named == {
        "recipes": "runs/sweeps/grpo_selection",
        "tiny": of("runs/tiny"),
        "qwen2.5-7b": of("runs/qwen2.5-7b"),
    }
    sweep = sweep_of(tmp_path, parameters={"a": {"values": ["x/y", "x_y", "x y", "." * 300]}, "b": {"value": 1}})
    names = [sweep.trial_name({"a": value, "b": 1}) for value in sweep.parameters["a"].values]
    assert names[1] == "a=x_y"
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"[\w=,.-]{1,140}", name) for name in names)


def test_agents_and_devices(tmp_path: Path) -> None:
    sweep_of(tmp_path)
    given = {"sweep": str(tmp_path / "s.yaml"), "output_dir": "o"}
    assert SweepConfig(**given).agents == 1
    assert SweepConfig(**given, devices=["0", "1"]).agents == 2
    with pytest.raises(InputError, match="3 agents need as many devices, got 2"):
        SweepConfig(**given, devices=["0", "1"], agents=3)
    sweep_of(tmp_path, method="random", parameters={"a": {"min": 0.0, "max": 1.0}})
    with pytest.raises(InputError, match="set count, or run_cap"):
        SweepConfig(**given)
    sweep_of(tmp_path, method="random", parameters={"a": {"min": 0.0, "max": 1.0}}, run_cap=5)
    assert SweepConfig(**given).count == 5
    assert SweepConfig(**given, count=3).count == 3


def test_a_grid_is_the_product_with_each_trial_once(tmp_path: Path) -> None:
    parameters = {
        "b": {"values": ["x", "y", None]},
        "a": {"min": 1, "max": 3},
        "c": {"value": 0.5},
        "d": {"values": [True, False]},
    }
    sweep = sweep_of(tmp_path, parameters=parameters)
    trials = draw_trials(sweep, None, 0)
    expected = [
        dict(zip("bacd", values, strict=True)) for values in product(["x", "y", None], [1, 2, 3], [0.5], [True, False])
    ]
    assert len(trials) == 18
    assert all(settings in trials for settings in expected)
    assert [list(settings) for settings in trials] == [["b", "a", "c", "d"]] * 18
    assert {type(settings["d"]) for settings in trials} == {bool}
    assert draw_trials(sweep, None, 0) == trials
    assert draw_trials(sweep, 7, 0) == trials[:7]
    assert draw_trials(sweep, None, 1) != trials


def test_grids_keep_the_order_that_optuna_gave_them(tmp_path: Path) -> None:
    """Sweeps that were started by earlier releases resume in their own order."""
    parameters = {"b": {"values": ["x", "y", None]}, "a": {"min": 1, "max": 3}, "d": {"values": [True, False]}}
    sweep = sweep_of(tmp_path, parameters=parameters)
    # GridSampler(search_space, seed=0) of Optuna 5.0.0
    order = "xF1 xT2 yT2 NT2 yT3 NT1 yT1 NT3 NF3 yF2 xF2 xF3 NF2 yF1 xT1 NF1 yF3 xT3"
    words = [f"{str(one['b'])[0]}{str(one['d'])[0]}{one['a']}" for one in draw_trials(sweep, None, 0)]
    assert " ".join(words) == order


RANDOM = {
    "rate": {"min": 1e-6, "max": 1e-2, "distribution": "log_uniform_values"},
    "power": {"min": -4, "max": 0, "distribution": "log_uniform"},
    "share": {"min": 0.0, "max": 1},
    "steps": {"min": 10, "max": 20},
    "kind": {"values": ["x", "y"]},
}


def test_random_is_a_function_of_the_seed(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, method="random", parameters=RANDOM)
    trials = draw_trials(sweep, 60, 3)
    assert draw_trials(sweep, 60, 3) == trials
    assert draw_trials(sweep, 60, 4) != trials
    rates, powers = [one["rate"] for one in trials], [one["power"] for one in trials]
    assert all(1e-6 <= rate <= 1e-2 for rate in rates)
    assert 15 < sum(rate < 1e-4 for rate in rates) < 45  # the middle of the logarithm
    assert all(math.exp(-4) <= power <= 1 for power in powers)
    assert {type(one["steps"]) for one in trials} == {int}
    assert {one["steps"] for one in trials} == set(range(10, 21))
    assert {one["kind"] for one in trials} == {"x", "y"}


def test_random_lists_are_extended(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, method="random", parameters=RANDOM)
    trials = draw_trials(sweep, 40, 3)
    assert [draw_trials(sweep, count, 3) for count in (1, 17, 40)] == [trials[:1], trials[:17], trials]
    first, longer = (list(open_study(tmp_path, sweep, count, 3).trials.values()) for count in (17, 40))
    assert (first, longer) == (trials[:17], trials)


def test_random_draws_nothing_twice(tmp_path: Path) -> None:
    for parameter in ({"values": [1, 2, 3]}, {"min": 1, "max": 3}):
        sweep = sweep_of(tmp_path, method="random", parameters={"a": parameter, "b": {"values": [1, 2, 3]}})
        trials = draw_trials(sweep, 9, 0)
        assert sorted((one["a"], one["b"]) for one in trials) == list(product([1, 2, 3], repeat=2))
        (tmp_path / "more").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"count is 10, but .* has only 9 different trials"):
            open_study(tmp_path / "more", sweep, 10, 0)
        assert os.listdir(tmp_path / "more") == []


def test_toy_sweep_with_two_agents_on_two_devices(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    code, said = toy.run("--devices", "5", "6,7", "--report_to", "wandb", seconds=0.3)
    assert code == 0, said
    assert sorted(toy.noted("started")) == sorted(toy.noted("ended")) == sorted(SIX)
    assert {note[3] for note in toy.notes} == {"5", "6,7"}
    results = toy.results
    assert (results["complete"], results["failed"], results["unfinished"]) == (6, 0, 0)
    assert {one["name"]: one["metric"] for one in results["trials"]} == {
        f"a={a},seed={seed}": pytest.approx(a + seed / 10) for a in (1, 2, 3) for seed in (0, 1)
    }
    assert {one["seconds"] for one in results["trials"]} == {2.5}
    assert [row["mean"] for row in results["means"]] == pytest.approx([1.05, 2.05, 3.05])
    assert results["best"]["parameters"] == {"a": 3}
    out = tmp_path / "out"
    assert (out / "sweep.md").read_text().strip() in said
    assert (out / "sweep.svg").read_text().startswith("<svg")
    log = (out / "logs" / "a=1,seed=0.log").read_text()
    assert "toy speaks" in log
    assert "--a=1 --seed=0 --output_dir=" in log.splitlines()[0]
    assert "--report_to=wandb" in log.splitlines()[0]
    assert json.loads((out / "run.json").read_text())["results"]["complete"] == 6
    notes = toy.notes
    assert toy.run("--devices", "5", "6,7")[0] == 0
    assert toy.notes == notes  # complete, nothing to do


@pytest.mark.parametrize("also_the_trial", [False, True])
def test_a_killed_sweep_is_carried_on(also_the_trial: bool, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    process = toy.start(seconds=1.5)
    toy.wait_for("started", 2)
    process.kill()
    process.communicate()
    pid = toy.notes[-1][2]
    os.kill(pid, 0)  # the trial lives on
    if also_the_trial:
        os.kill(pid, signal.SIGKILL)
    code, said = toy.run(seconds=0.1)
    assert code == 0, said
    assert toy.noted("clash") == []
    assert set(toy.noted("ended")) == SIX
    assert len(toy.noted("ended")) == 6
    second = toy.noted("started")[1]
    if also_the_trial:
        assert toy.noted("resumed") == [second]
    else:  # its end was awaited and its metric read, without starting it again
        assert toy.noted("found complete") == []
        assert len(toy.noted("started")) == 6
    assert toy.results["complete"] == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_stops_its_trials_and_carries_on(number: signal.Signals, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    process = toy.start("--agents", "2", seconds=60)
    toy.wait_for("started", 2)
    process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 130, out + errors
    assert "the same command carries on" in errors
    assert sorted(toy.noted("interrupted")) == sorted(toy.noted("started"))
    for note in toy.notes:
        with pytest.raises(ProcessLookupError):
            os.kill(note[2], 0)
    code, said = toy.run("--agents", "3")
    assert code == 0, said
    assert toy.noted("clash") == []
    assert len(toy.noted("ended")) == 6
    assert toy.results["failed"] == 0  # an interrupted trial has not failed


def test_a_failing_trial_is_counted_and_tried_once_again(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    (tmp_path / "broken").write_text("a=2,seed=1")
    code, said = toy.run()
    assert code == 2
    assert "1 of 6 trials failed" in said
    assert f"{tmp_path}/out/logs/a=2,seed=1.log (exit code 1)" in said
    assert "broken" in (tmp_path / "out/logs/a=2,seed=1.log").read_text()
    assert sorted(toy.noted("started")) == sorted(SIX)
    results = toy.results
    assert (results["complete"], results["failed"], results["unfinished"]) == (5, 1, 0)
    [failed] = [one for one in results["trials"] if one["status"] == "failed"]
    assert (failed["name"], failed["metric"], failed["reason"]) == ("a=2,seed=1", None, "exit code 1")
    assert [row["n"] for row in results["means"]] == [2, 1, 2]
    for tried in (2, 3):  # once a launch
        assert toy.run()[0] == 2
        assert toy.noted("started").count("a=2,seed=1") == tried
    (tmp_path / "broken").unlink()
    code, said = toy.run()
    assert code == 0, said
    assert toy.noted("started").count("a=2,seed=1") == 4
    assert len(toy.noted("started")) == 9  # the others are not tried again
    assert (toy.results["complete"], toy.results["failed"], len(toy.results["trials"])) == (6, 0, 6)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_metric_that_is_no_number_is_a_failure(value: str, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    (tmp_path / "diverges").write_text(value)
    code, said = toy.run("--count", "1")
    assert code == 2
    assert "1 of 1 trials failed" in said
    assert f"(score is {value})" in said


def test_two_launches_share_the_trials(tmp_path: Path) -> None:
    toy = Toy(tmp_path, {"parameters": {"a": {"min": 1, "max": 12}}})
    both = [toy.start("--agents", "2", seconds=0.4), toy.start("--agents", "1", seconds=0.4)]
    said = ["".join(process.communicate(timeout=120)) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(toy.noted("started")) == len(set(toy.noted("started"))) == 12
    assert toy.noted("clash") == []
    assert toy.results["complete"] == 12


def test_another_takes_over_from_a_launch_that_dies(tmp_path: Path) -> None:
    toy = Toy(tmp_path, {"parameters": {"a": {"values": [1, 2]}}})
    first, second = toy.start(seconds=3), toy.start(seconds=3)
    toy.wait_for("started", 2)
    first.kill()
    first.communicate()
    out, errors = second.communicate(timeout=60)
    assert second.returncode == 0, out + errors
    assert toy.results["complete"] == 2
    assert toy.noted("clash") == []
    assert len(toy.noted("ended")) == 2


def test_a_missing_metric_is_named(tmp_path: Path) -> None:
    toy = Toy(tmp_path, {"metric": {"name": "scores"}})
    code, said = toy.run()
    assert code == 2
    assert "has no metric 'scores', only" in said
    assert "score, other; did you mean score?" in said
    assert len(toy.noted("started")) == 1
    # Nothing has an end yet, so the file may be mended, and what has been run is not lost.
    toy = Toy(tmp_path)
    code, said = toy.run()
    assert code == 0, said
    assert len(toy.noted("started")) == 6
    toy = Toy(tmp_path, {"parameters": {"a": {"values": [1, 2]}}})
    (tmp_path / "out" / "run.json").write_text(
        (tmp_path / "out" / "run.json").read_text().replace('"complete",', '"running",')
    )
    code, said = toy.run()
    assert code == 2
    assert "has changed since" in said


def test_a_trial_that_another_agent_has_ended_is_left_alone(tmp_path: Path) -> None:
    study = open_study(tmp_path, sweep_of(tmp_path), None, 0)
    [name] = study.trials
    agents = Agents(study)
    with agents._claimed(name) as log, agents._claimed(name) as second:
        assert log is not None
        assert second is None
    study.save_metric(name, 1.0)  # by another agent, after this one has listed the unfinished trials
    with agents._claimed(name) as log:
        assert log is None


def test_runs_of_earlier_releases_are_recognised(tmp_path: Path) -> None:
    """A sweep whose trials were kept by Optuna in `trials.log` has complete runs, but no results."""
    toy = Toy(tmp_path)
    assert toy.run()[0] == 0
    out = tmp_path / "out"
    shutil.rmtree(out / "results")
    for name in ("trials.json", "sweep.json"):
        (out / name).unlink()
    shutil.rmtree(out / "trials" / "a=2,seed=0")
    (out / "run.json").write_text((out / "run.json").read_text().replace('"complete",', '"running",'))
    code, said = toy.run()
    assert code == 0, said
    assert toy.results["complete"] == 6
    assert sorted(toy.noted("started")) == sorted([*SIX, "a=2,seed=0"])


def test_a_failed_trial_leaves_no_process_behind(tmp_path: Path) -> None:
    script = "sleep 300 & echo $! > $TOY_HOME/pid; exit 3"
    toy = Toy(tmp_path, {"command": ["bash", "-c", script], "parameters": {"a": {"value": 1}}})
    code, said = toy.run()
    assert code == 2
    assert "(exit code 3)" in said
    pid = int((tmp_path / "pid").read_text())
    # The group is told to die at once; how soon it does is the kernel's affair.
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    toy = Toy(tmp_path, {"command": ["no-such-program", "${args}"]})
    code, said = toy.run()
    assert code == 2
    assert "no-such-program cannot be started: No such file" in said


def test_where_the_metric_is_read(tmp_path: Path) -> None:
    def write(name: str, content: object) -> None:
        (tmp_path / name).write_text(json.dumps(content))

    with pytest.raises(InputError, match=r"has no metric 'x', nor any other"):
        read_metric(tmp_path, "x")
    write("run.json", {"results": {"train_loss": 3.5, "reward": 9, "flag": True, "data": {"x": 1}}})
    assert read_metric(tmp_path, "train_loss") == 3.5
    write("metrics.json", {"questions": 7, "metrics": {"pass@1": {"mean": 0.25, "low": 0, "high": 1}}})
    assert read_metric(tmp_path, "pass@1") == 0.25
    assert read_metric(tmp_path, "questions") == 7
    logs = [{"reward": 0.1, "step": 1}, {"eval_pass@1": 0.5}, {"reward": 0.3, "step": 2}, {"eval_pass@1": 0.75}]
    write("trainer_state.json", {"log_history": logs})
    assert read_metric(tmp_path, "eval_pass@1") == read_metric(tmp_path, "eval/pass@1") == 0.75  # the last
    assert read_metric(tmp_path, "reward") == read_metric(tmp_path, "train/reward") == 0.3  # before run.json
    assert read_metric(tmp_path, "pass@1") == 0.25
    with pytest.raises(InputError, match=r"metric 'eval/pass@11', .*; did you mean eval_pass@1"):
        read_metric(tmp_path, "eval/pass@11")
    with pytest.raises(InputError, match="no metric 'flag'"):
        read_metric(tmp_path, "flag")


def outcomes_of(sweep: Sweep, metrics: dict[tuple[Any, ...], float | None]) -> list[TrialResult]:
    def outcome(key: tuple[Any, ...], value: float | None) -> TrialResult:
        parameters = dict(zip(sweep.parameters, key, strict=True))
        return TrialResult(str(key), parameters, "failed" if value is None else "complete", value, 1.0, None, "")

    return [outcome(key, value) for key, value in metrics.items()]


def test_means_over_seeds_and_the_table(tmp_path: Path) -> None:
    parameters = {"m": {"values": [8, 4]}, "seed": {"values": [0, 1, 2]}}
    sweep = sweep_of(tmp_path, parameters=parameters)
    values = {(4, 2): 0.6, (8, 0): 0.1, (4, 0): 0.5, (8, 1): None, (4, 1): 0.7, (8, 2): None}
    outcomes = outcomes_of(sweep, values)
    eight, four = means_over_seeds(sweep, outcomes)
    assert eight == SettingMean(parameters={"m": 8}, n=1, mean=0.1, low=None, high=None)
    # sd 0.1, t of two degrees of freedom 4.302653: 0.1 / sqrt(3) x 4.302653 = 0.248414
    assert (four.parameters, four.n) == ({"m": 4}, 3)
    assert (four.mean, four.low, four.high) == pytest.approx((0.6, 0.351586, 0.848414), abs=1e-6)
    assert best_setting(sweep, [eight, four]) == eight  # minimize is the default
    assert best_setting(replace(sweep, goal="maximize"), [eight, four]) == four
    head, _, first, second = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in means_table(sweep, [eight, four]).splitlines()
    )
    assert head == ["m", "trials", "score: mean", "95 % interval"]
    assert first == ["8", "1", "0.1", "-"]
    assert second == ["4", "3", "0.6", "[0.3516, 0.8484]"]
    assert best_setting(sweep, means_over_seeds(sweep, outcomes_of(sweep, {(4, 0): None}))) is None


def test_the_figure_shows_the_numbers(tmp_path: Path) -> None:
    parameters = {"m": {"values": [8, 4, 2]}, "how": {"values": ["x", "y"]}, "seed": {"values": [0, 1]}}
    sweep = sweep_of(tmp_path, parameters=parameters)
    keys = product([8, 4, 2], ["x", "y"], [0, 1])
    outcomes = outcomes_of(sweep, {(m, how, seed): m + (how == "y") * 10 + seed for m, how, seed in keys})
    axes = Figure().subplots()
    _draw_means(axes, sweep, outcomes)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "4", "2"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["how x", "how y"]
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert [line.get_ydata()[0] for line in diamonds] == [8.5, 4.5, 2.5, 18.5, 14.5, 12.5]
    assert [round(line.get_xdata()[0]) for line in diamonds] == [0, 1, 2, 0, 1, 2]
    whiskers = [line.get_ydata() for line in axes.lines if line.get_marker() == "None"]
    half = 12.7062 * math.sqrt(0.5) / math.sqrt(2)  # t of one degree of freedom
    assert list(whiskers[0]) == pytest.approx([8.5 - half, 8.5 + half], abs=1e-3)
    dots = [sorted(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[8, 9], [4, 5], [2, 3], [18, 19], [14, 15], [12, 13]]
    text = sweep_figure(sweep, outcomes)
    assert text == sweep_figure(sweep, outcomes)
    assert "score" in text


def test_the_figure_of_continuous_parameters(tmp_path: Path) -> None:
    parameters = {
        "rate": {"min": 1e-6, "max": 1e-2, "distribution": "log_uniform_values"},
        "kind": {"values": ["x", "y"]},
    }
    sweep = sweep_of(tmp_path, method="random", parameters=parameters)
    text = sweep_figure(sweep, outcomes_of(sweep, {(1e-4, "x"): 0.3, (1e-3, "y"): 0.4, (1e-5, "y"): None}))
    assert ">rate<" in text
    assert ">score<" in text


def test_an_interval_of_seeds_is_students() -> None:
    # t for 95 %, from the tables
    for degrees, t in ((1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (30, 2.04227)):
        values = [float(number) for number in range(degrees + 1)]
        mean = degrees / 2
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / degrees)
        half = t * deviation / math.sqrt(degrees + 1)
        assert student_interval(values) == pytest.approx((mean - half, mean + half), abs=1e-4)
    assert student_interval([1.0, 1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="two values or more, got 1"):
        student_interval([1.0])


@pytest.mark.slow
def test_a_tiny_sweep_really_runs(tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")

    def command(name: str, *arguments: str) -> str:
        words = [sys.executable, "-m", f"raml_trl.{name}", *arguments]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    worlds, few = "runs/tiny/worlds", ["--num_questions", "200"]
    command("build_model", "--config", "recipes/tiny/demo/model.yaml", "--output_dir", f"{worlds}/seed-0/sft")
    command(
        "prepare_data",
        "--config",
        "recipes/tiny/demo/data_grpo.yaml",
        *few,
        "--output_dir",
        f"{worlds}/seed-0/data_grpo",
    )
    command("prepare_data", "--config", "recipes/tiny/demo/data_test.yaml", *few, "--output_dir", f"{worlds}/data_test")
    text = (REPOSITORY / "recipes/tiny/sweeps/grpo_matched_batch.yaml").read_text()
    for old, new in (
        ("max_steps 100", "max_steps 2"),
        ("eval_steps 20", "eval_steps 2"),
        ("eval_num_questions 100", "eval_num_questions 4"),
        ("[0, 1, 2, 3, 4]", "[0]"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "short.yaml").write_text(text)
    said = command("sweep", "short.yaml", "--count", "2", "--agents", "2", "--output_dir", "out")
    results = json.loads((tmp_path / "out/sweep.json").read_text())
    assert (results["complete"], results["failed"]) == (2, 0)
    chosen = set()
    for one in results["trials"]:
        state = json.loads((tmp_path / "out/trials" / one["name"] / "trainer_state.json").read_text())
        assert one["metric"] == [log["eval_pass@1"] for log in state["log_history"] if "eval_pass@1" in log][-1]
        chosen.add(one["parameters"]["num_generations_update"])
        rows = {log["rows/selected"] for log in state["log_history"] if "rows/selected" in log}
        assert rows == {64}  # the control holds
    assert len(chosen) == 2
    assert "eval/pass@1: mean" in said
    shutil.rmtree(tmp_path / "runs")
