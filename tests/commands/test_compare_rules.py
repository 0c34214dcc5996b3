"""The comparison of rules resumes where it was interrupted, and refuses rules that cannot run before it starts."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from raml_trl import compare_rules
from raml_trl.compare_rules import CompareRulesConfig, _start_score, check_runs, main, read_curve
from raml_trl.data.config import PrepareDataConfig
from raml_trl.data.preparation import prepare
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import open_run
from raml_trl.sampling.engine import SamplingSettings
from raml_trl.sweeps.rules import read_rules
from raml_trl.training.evaluation import Evaluation

ARMS = {"all": {}, "half": {"num_generations_update": 4, "selection": "importance"}}


@pytest.fixture
def rules_file(tmp_path: Path, model_dir: str) -> Path:
    """A file of rules whose runs take one step each."""
    for split, number in (("grpo", 4), ("test", 3)):
        directory = tmp_path / split
        directory.mkdir()
        prepare(
            PrepareDataConfig(
                dataset_name="arithmetic_mixed", dataset_split=split, num_questions=number, output_dir=str(directory)
            ),
            directory,
        )
    rules: dict[str, Any] = {
        "baseline": "all",
        "arms": ARMS,
        "worlds": {
            "small": {
                "model": model_dir,
                "questions": str(tmp_path / "grpo"),
                "test": str(tmp_path / "test"),
                "settings": {"max_completion_length": 6},
            }
        },
        "settings": {
            "num_generations": 8,
            "per_device_train_batch_size": 16,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
        },
        "prompt_style": "bare",
        "learning_rates": [1e-4],
        "tuning": {"seeds": [9], "tokens": 1, "evaluations": 1},
        "comparison": {"seeds": [0, 1, 2], "tokens": 1, "evaluations": 1},
        "num_samples": 1,
        "correction": "holm",
    }
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    return path


def change(path: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def compare(path: Path, directory: Path) -> dict[str, Any]:
    record = open_run(directory, "compare_rules", {})
    main(CompareRulesConfig(str(path), str(directory), workers=1), record)
    return record.record["results"]


def curves(directory: Path) -> dict[str, int]:
    """Return the files of the complete runs, with the times of their last change."""
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("curves/*/*/*.json")}


@pytest.mark.slow
def test_an_interrupted_comparison_resumes(rules_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, make_run, made = tmp_path / "out", compare_rules.make_run, []

    def interrupted(rule_run: Any, directory: Path) -> None:
        if len(made) == 5:
            raise KeyboardInterrupt
        make_run(rule_run, directory)
        made.append(rule_run.name)

    monkeypatch.setattr(compare_rules, "make_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(rules_file, out)
    before = curves(out)
    assert len(before) == 5
    made.append("no more interruptions")
    assert compare(rules_file, out) == {"runs": 8}
    assert len(made) == len(set(made)) == 1 + 8
    assert before.items() <= curves(out).items()
    content = json.loads((out / "rules.json").read_text())
    assert len(content["curves"]) == 8
    assert len(content["results"]) == 2 * 3
    points = [point for curve in content["curves"] for point in curve["points"]]
    assert {point["step"] for point in points} == {0, 1}
    assert {point["rollouts"] for point in points} == {0, 16}
    selected = {(curve["run"]["arm"], curve["points"][1]["rows_selected"]) for curve in content["curves"]}
    assert selected == {("all", 16), ("half", 8)}
    assert "| half" in (out / "rules.md").read_text()
    [*_, run] = read_rules(rules_file).tuning_runs()
    assert read_curve(run, out) is not None
    change(rules_file, num_samples=2)
    with pytest.raises(InputError, match="is from other rules"):
        compare(rules_file, out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"all": {}, "odd": {"no_such_setting": 1}}}, "odd in small: train_grpo has no setting 'no_such_set"),
        ({"arms": {"all": {}, "odd": {"selection": "worst"}}}, "selection"),
        ({"arms": {"all": {}, "odd": {"loss_type": "cispo", "epsilon": "x"}}}, "odd in small: "),
        ({"arms": {"all": {}, "odd": {"num_generations": 1}}}, "odd in small: "),
        ({"arms": {"all": {}, "odd": {"per_device_train_batch_size": 64}}}, "grpo has 4 questions, but .* needs 8"),
        ({"worlds": {"w": {"model": "./missing/dir", "questions": "q", "test": "t", "settings": {}}}}, "missing/dir"),
    ],
)
def test_rules_that_cannot_run_are_refused(
    rules_file: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    change(rules_file, **changes)
    with pytest.raises(InputError, match=message):
        compare(rules_file, tmp_path / "out")
    assert not curves(tmp_path / "out")


def test_missing_test_questions_are_named_before_the_first_run(rules_file: Path, tmp_path: Path) -> None:
    [(name, world)] = yaml.safe_load(rules_file.read_text())["worlds"].items()
    change(rules_file, worlds={name: world | {"test": str(tmp_path / "nowhere")}})
    with pytest.raises(InputError, match="nowhere"):
        check_runs(read_rules(rules_file))


def test_a_start_score_is_shared_by_equal_evaluations_only(rules_file: Path, tmp_path: Path) -> None:
    run = next(read_rules(rules_file).all_runs())
    evaluation = Evaluation((), "bare", SamplingSettings(1, 6, 1.0, 1.0, 0), (1,), 8, seed=9)
    assert _start_score(run, evaluation, tmp_path, lambda: 0.25) == 0.25
    assert _start_score(run, evaluation, tmp_path, lambda: 0.5) == 0.25
    hotter = replace(evaluation, settings=replace(evaluation.settings, temperature=1.3))
    for other in (hotter, replace(evaluation, prompt_style="boxed")):
        with pytest.raises(InputError, match=r"start-seed-9\.json is from other rules"):
            _start_score(run, other, tmp_path, lambda: 0.5)
    [path] = tmp_path.glob("curves/small/start-*.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: content[name] for name in ("start", "num_samples", "score")}))
    assert _start_score(run, evaluation, tmp_path, lambda: 0.5) == 0.25  # of an older version


def slow_run(number: int, directory: Path) -> None:
    """Stands in for `make_run`: the first run ends at once, all others take minutes."""
    (directory / str(number)).touch()
    time.sleep(300 * (number > 0))


@pytest.mark.slow
@pytest.mark.children
def test_workers_end_in_the_middle_of_their_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after Ctrl-C or a signal, which raise an exception in this process."""
    monkeypatch.setattr(compare_rules, "make_run", slow_run)
    runs: Any = range(6)
    made = compare_rules._make(runs, tmp_path, 2)
    next(made)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        made.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert time.monotonic() - started < 60
    assert not multiprocessing.active_children()
    assert not (tmp_path / "5").exists()


def test_a_launch_of_several_processes_is_refused(
    rules_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first process would train, and would wait for the others."""
    monkeypatch.setattr(compare_rules, "complete", lambda *_: pytest.fail("training has begun"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="launched in 2 processes: start it with `python -m`"):
        compare(rules_file, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.children
def test_killed_workers_end_and_the_same_command_completes(rules_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "raml_trl.compare_rules", "--rules", str(rules_file), "--output_dir", str(out)]
    first = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(curves(out)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)  # only the parent
    first.wait()
    before = curves(out)
    assert before
    while any(group_members(first.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not list(group_members(first.pid))
    subprocess.run([*command, "--when_locked", "wait"], check=True, capture_output=True)
    assert before.items() <= curves(out).items()
    assert len(curves(out)) == 8


def group_members(group: int) -> list[int]:
    """Return the processes of a process group that still run."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            members.append(int(path.parent.name))
    return members
