"""Sweeps run each trial once, even if agents or trials are killed, and record failures."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from raml_trl import sweep
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.locks import locked
from raml_trl.runtime.runs import is_complete, open_run
from raml_trl.sweep import SweepConfig
from raml_trl.sweeps.agents import Agents
from raml_trl.sweeps.results import TrialResult
from raml_trl.sweeps.study import Study, open_study
from tests.helpers import REPOSITORY
from tests.helpers.preloaded import python
from tests.sweeps.examples import sweep_of

# A stand-in for a training run. It notes its start, its end, and whether another process already runs in its directory.
TOY = """
import json, os, signal, sys, time
from pathlib import Path

arguments = dict(word[2:].split("=", 1) for word in sys.argv[1:])
run, home = Path(arguments["output_dir"]), Path(os.environ["TOY_HOME"])
run.mkdir(parents=True, exist_ok=True)
def note(event):
    with open(home / "notes", "a") as notes:
        notes.write(json.dumps([event, run.name, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")]) + "\\n")
record = run / "run.json"
if record.exists() and json.loads(record.read_text())["status"] == "complete":
    note("started complete")
    sys.exit()
try:
    os.close(os.open(run / "alive", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    import psutil  # here, because most trials start without it in half the time
    pid = int((run / "pid").read_text())
    alive = psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    note("clash" if alive else "resumed")
(run / "pid").write_text(str(os.getpid()))
def terminate(*_):
    note("terminated")
    sys.exit(143)
signal.signal(signal.SIGTERM, terminate)
note("started")
print("toy speaks", flush=True)
try:
    time.sleep(float(os.environ.get("TOY_SECONDS", 0)))
except KeyboardInterrupt:
    note("interrupted")
    sys.exit(130)
if (home / "broken").exists() and (home / "broken").read_text() in run.name:
    sys.exit("broken")
a = float(arguments["a"])
results = {"score": a + 0.1 * float(arguments.get("seed", 0)), "other": 1}
if (home / "diverges").exists():
    results["score"] = float((home / "diverges").read_text())
content = {"command": "toy", "settings": {}, "inputs": {}, "status": "complete", "seconds": 2.5, "results": results}
(run / "partial").write_text(json.dumps(content))
(run / "partial").replace(record)  # in one step, as a real run does
(run / "alive").unlink()
note("ended")
"""


class Toy:
    """A directory with a sweep file whose trials run `TOY`."""

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
                *python(),
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

    def noted(self, event: str) -> list[str]:
        return [note[1] for note in self.notes if note[0] == event]

    def wait_for(self, event: str, number: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.noted(event)) < number:
            assert time.monotonic() < deadline, self.notes
            time.sleep(0.02)

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.home / "out" / "sweep.json").read_text())


SIX = {f"a={a},seed={seed}" for a in (1, 2, 3) for seed in (0, 1)}


def test_default_directories() -> None:
    tiny = SweepConfig(sweep=str(REPOSITORY / "recipes/tiny/sweeps/grpo_selection.yaml"))
    assert tiny.output_dir == "runs/tiny/sweeps/grpo_selection"
    named = {
        path.parent.parent.name: SweepConfig(sweep=str(path)).output_dir
        for path in (REPOSITORY / "recipes").rglob("sweeps/grpo_selection.yaml")
    }
    assert named == {
        "recipes": "runs/sweeps/grpo_selection",
        "tiny": "runs/tiny/sweeps/grpo_selection",
        "qwen2.5-7b": "runs/qwen2.5-7b/sweeps/grpo_selection",
    }


def test_agents_and_devices(tmp_path: Path) -> None:
    sweep_of(tmp_path)
    options: dict[str, Any] = {"sweep": str(tmp_path / "s.yaml"), "output_dir": "o"}
    assert SweepConfig(**options).agents == 1
    assert SweepConfig(**options, devices=["0", "1"]).agents == 2
    with pytest.raises(InputError, match="3 agents need as many devices, got 2"):
        SweepConfig(**options, devices=["0", "1"], agents=3)
    sweep_of(tmp_path, method="random", parameters={"a": {"min": 0.0, "max": 1.0}})
    with pytest.raises(InputError, match="set count, or run_cap"):
        SweepConfig(**options)
    sweep_of(tmp_path, method="random", parameters={"a": {"min": 0.0, "max": 1.0}}, run_cap=5)
    assert SweepConfig(**options).count == 5
    assert SweepConfig(**options, count=3).count == 3


@pytest.mark.children
def test_toy_sweep_with_two_agents_on_two_devices(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    code, output = toy.run("--devices", "5", "6,7", "--report_to", "wandb", seconds=0.3)
    assert code == 0, output
    assert sorted(toy.noted("started")) == sorted(toy.noted("ended")) == sorted(SIX)
    assert {note[3] for note in toy.notes} == {"5", "6,7"}
    results = toy.results
    assert (results["complete"], results["failed"], results["unfinished"]) == (6, 0, 0)
    assert {trial["name"]: trial["metric"] for trial in results["trials"]} == {
        f"a={a},seed={seed}": pytest.approx(a + seed / 10) for a in (1, 2, 3) for seed in (0, 1)
    }
    assert {trial["seconds"] for trial in results["trials"]} == {2.5}
    assert [row["mean"] for row in results["means"]] == pytest.approx([1.05, 2.05, 3.05])
    assert results["best"]["parameters"] == {"a": 3}
    out = tmp_path / "out"
    assert (out / "sweep.md").read_text().strip() in output
    assert (out / "sweep.svg").read_text().startswith("<svg")
    log = (out / "logs" / "a=1,seed=0.log").read_text()
    assert "toy speaks" in log
    assert "--a=1 --seed=0 --output_dir=" in log.splitlines()[0]
    assert "--report_to=wandb" in log.splitlines()[0]
    assert json.loads((out / "run.json").read_text())["results"]["complete"] == 6
    notes = toy.notes
    assert toy.run("--devices", "5", "6,7")[0] == 0
    assert toy.notes == notes  # all trials are complete, so none is started


@pytest.mark.children
@pytest.mark.parametrize("also_the_trial", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_killed_sweep_is_resumed(also_the_trial: bool, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    process = toy.start(seconds=1.5)
    toy.wait_for("started", 2)
    process.kill()
    process.communicate()
    pid = toy.notes[-1][2]
    os.kill(pid, 0)  # the trial is still running
    if also_the_trial:
        os.kill(pid, signal.SIGKILL)
    code, output = toy.run(seconds=0.1)
    assert code == 0, output
    assert toy.noted("clash") == []
    assert set(toy.noted("ended")) == SIX
    assert len(toy.noted("ended")) == 6
    second = toy.noted("started")[1]
    if also_the_trial:
        assert toy.noted("resumed") == [second]
    else:  # the second sweep waited for the trial to end and read its metric, without starting it again
        assert toy.noted("started complete") == []
        assert len(toy.noted("started")) == 6
    assert toy.results["complete"] == 6


@pytest.mark.children
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        # The other signals differ in their number and exit code only.
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 75, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_sweep_stops_its_trials_and_is_resumed(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    toy = Toy(tmp_path)
    process = toy.start("--agents", "2", seconds=60)
    toy.wait_for("started", 2)
    process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == code, out + errors
    assert "run the same command again to resume" in errors
    stopped = "interrupted" if number == signal.SIGINT else "terminated"  # a training saves a checkpoint after SIGTERM
    assert sorted(toy.noted(stopped)) == sorted(toy.noted("started"))
    for note in toy.notes:
        with pytest.raises(ProcessLookupError):
            os.kill(note[2], 0)
    code, output = toy.run("--agents", "3")
    assert code == 0, output
    assert toy.noted("clash") == []
    assert len(toy.noted("ended")) == 6
    assert toy.results["failed"] == 0  # an interrupted trial is not a failure


@pytest.mark.children
def test_a_trial_that_a_signal_has_ended_is_resumed(tmp_path: Path) -> None:
    toy = Toy(tmp_path, {"parameters": {"a": {"value": 1}}})
    process = toy.start(seconds=2)
    toy.wait_for("started", 1)
    os.kill(toy.notes[-1][2], signal.SIGTERM)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, out + errors
    assert "only was ended by a signal: it is resumed" in errors
    assert [note[0] for note in toy.notes] == ["started", "terminated", "resumed", "started", "ended"]
    assert (toy.results["complete"], toy.results["failed"]) == (1, 0)


@pytest.mark.children
@pytest.mark.parametrize("script", ["exit 75", "exit 143", "kill -TERM $$"])
def test_a_trial_that_signals_end_again_and_again_has_failed(script: str, tmp_path: Path) -> None:
    study = open_study(tmp_path, sweep_of(tmp_path, command=["sh", "-c", script]), None, 0)
    [name] = study.trials
    agents = Agents(study)
    with agents._claimed(name) as log:
        assert log is not None
        agents._run(name, log, None)
        assert study.unfinished() == [name]
        agents._run(name, log, None)
    [result] = study.results()
    assert result.status == "failed"


@pytest.mark.children
def test_a_failed_trial_is_counted_and_run_once_more(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    (tmp_path / "broken").write_text("a=2,seed=1")
    code, output = toy.run()
    assert code == 2
    assert "1 of 6 trials failed" in output
    assert f"{tmp_path}/out/logs/a=2,seed=1.log (exit code 1: broken)" in output
    assert "broken" in (tmp_path / "out/logs/a=2,seed=1.log").read_text()
    assert sorted(toy.noted("started")) == sorted(SIX)
    results = toy.results
    assert (results["complete"], results["failed"], results["unfinished"]) == (5, 1, 0)
    [failed] = [trial for trial in results["trials"] if trial["status"] == "failed"]
    assert (failed["name"], failed["metric"], failed["reason"]) == ("a=2,seed=1", None, "exit code 1: broken")
    assert [row["n"] for row in results["means"]] == [2, 1, 2]
    for tries in (2, 3):  # each launch runs it once
        assert toy.run()[0] == 2
        assert toy.noted("started").count("a=2,seed=1") == tries
    (tmp_path / "broken").unlink()
    code, output = toy.run()
    assert code == 0, output
    assert toy.noted("started").count("a=2,seed=1") == 4
    assert len(toy.noted("started")) == 9  # the other five trials are not run again
    assert (toy.results["complete"], toy.results["failed"], len(toy.results["trials"])) == (6, 0, 6)


@pytest.mark.children
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_metric_that_is_not_finite_is_a_failure(value: str, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    (tmp_path / "diverges").write_text(value)
    code, output = toy.run("--count", "1")
    assert code == 2
    assert "1 of 1 trials failed" in output
    assert f"(score is {value})" in output


@pytest.mark.children
def test_two_launches_share_the_trials(tmp_path: Path) -> None:
    toy = Toy(tmp_path, {"parameters": {"a": {"min": 1, "max": 12}}})
    both = [toy.start("--agents", "2", seconds=0.4), toy.start("--agents", "1", seconds=0.4)]
    output = ["".join(process.communicate(timeout=120)) for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert len(toy.noted("started")) == len(set(toy.noted("started"))) == 12
    assert toy.noted("clash") == []
    assert toy.results["complete"] == 12


@pytest.mark.children
def test_another_launch_takes_over_the_trial_of_a_killed_one(tmp_path: Path) -> None:
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


@pytest.mark.children
def test_a_missing_metric_is_reported_and_can_be_corrected(tmp_path: Path) -> None:
    toy = Toy(tmp_path, {"metric": {"name": "scores"}})
    code, output = toy.run()
    assert code == 2
    assert "has no metric 'scores', only" in output
    assert "score, other; did you mean score?" in output
    assert len(toy.noted("started")) == 1
    # No trial has a result yet, so the file may be corrected, and the complete run is kept.
    toy = Toy(tmp_path)
    code, output = toy.run()
    assert code == 0, output
    assert len(toy.noted("started")) == 6
    toy = Toy(tmp_path, {"parameters": {"a": {"values": [1, 2]}}})
    (tmp_path / "out" / "run.json").write_text(
        (tmp_path / "out" / "run.json").read_text().replace('"complete",', '"running",')
    )
    code, output = toy.run()
    assert code == 2
    assert "has changed since" in output


@pytest.mark.parametrize("ended", [False, True])
def test_another_launch_may_run_failed_trials_before_a_launch_has_counted_them(
    ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run_trials(study: Study, *_: object) -> list[TrialResult]:
        study.save_metric("a=1", 1.0)
        study.save_failure("a=2", "exit code 1")
        results = study.results()
        other = open_study(study.directory, study.sweep, None, 0)
        if ended:
            other.save_metric("a=2", 2.0)
        return results if ended else study.results()

    sweep_of(tmp_path, parameters={"a": {"values": [1, 2]}})
    out = tmp_path / "out"
    monkeypatch.setattr(sweep, "run_trials", run_trials)
    with caplog.at_level("INFO"):
        sweep.main(SweepConfig(str(tmp_path / "s.yaml"), str(out)), open_run(out, "sweep", {}))
    written = json.loads((out / "sweep.json").read_text())
    assert (written["complete"], written["failed"], written["unfinished"]) == (1 + ended, 0, 1 - ended)
    assert is_complete(out) == ended
    assert ("another start of this command runs 1 failed trials once more" in caplog.text) == (not ended)


def test_an_interrupted_launch_leaves_the_sweep_complete_that_another_one_has_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_trials(study: Study, *_: object) -> list[TrialResult]:
        open_run(study.directory, "sweep", {}).finish(9.0, {"complete": 1})
        raise KeyboardInterrupt

    sweep_of(tmp_path)
    monkeypatch.setattr(sweep, "run_trials", run_trials)
    with pytest.raises(KeyboardInterrupt):
        sweep.main(
            SweepConfig(str(tmp_path / "s.yaml"), str(tmp_path / "out")), open_run(tmp_path / "out", "sweep", {})
        )
    assert is_complete(tmp_path / "out")


def test_a_trial_that_another_agent_has_ended_is_left_alone(tmp_path: Path) -> None:
    study = open_study(tmp_path, sweep_of(tmp_path), None, 0)
    [name] = study.trials
    agents = Agents(study)
    with agents._claimed(name) as log, agents._claimed(name) as second:
        assert log is not None
        assert second is None
    study.save_metric(name, 1.0)  # as if by another agent, after this agent listed the unfinished trials
    with agents._claimed(name) as log:
        assert log is None


@pytest.mark.children
def test_a_trial_that_another_agent_started_at_the_same_time_has_not_failed(tmp_path: Path) -> None:
    """Two agents can claim a trial if `flock` works on each machine alone. The run of one of them is refused."""
    study = open_study(tmp_path, sweep_of(tmp_path, command=["sh", "-c", "exit 2"]), None, 0)
    [name] = study.trials
    agents = Agents(study)
    with agents._claimed(name) as log:
        assert log is not None
        with locked(study.run_directory(name), "refuse"):
            agents._run(name, log, None)
        assert study.unfinished() == [name]
        agents._run(name, log, None)
    assert [result.reason for result in study.results()] == ["exit code 2"]


@pytest.mark.children
def test_complete_runs_of_earlier_versions_are_recognised(tmp_path: Path) -> None:
    """A sweep of a version with Optuna has complete runs, but no files in `results`."""
    toy = Toy(tmp_path)
    assert toy.run()[0] == 0
    out = tmp_path / "out"
    shutil.rmtree(out / "results")
    for name in ("trials.json", "sweep.json"):
        (out / name).unlink()
    shutil.rmtree(out / "trials" / "a=2,seed=0")
    (out / "run.json").write_text((out / "run.json").read_text().replace('"complete",', '"running",'))
    code, output = toy.run()
    assert code == 0, output
    assert toy.results["complete"] == 6
    assert sorted(toy.noted("started")) == sorted([*SIX, "a=2,seed=0"])


@pytest.mark.children
def test_a_failed_trial_leaves_no_process_behind(tmp_path: Path) -> None:
    script = "sleep 300 & echo $! > $TOY_HOME/pid; exit 3"
    toy = Toy(tmp_path, {"command": ["bash", "-c", script], "parameters": {"a": {"value": 1}}})
    code, output = toy.run()
    assert code == 2
    assert "(exit code 3)" in output
    pid = int((tmp_path / "pid").read_text())
    # SIGKILL is sent at once, but the kernel may take a moment.
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.children
def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    toy = Toy(tmp_path, {"command": ["no-such-program", "${args}"]})
    code, output = toy.run()
    assert code == 2
    assert "no-such-program cannot be started: No such file" in output


@pytest.mark.slow
def test_a_tiny_sweep_of_training_runs(tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")

    def command(name: str, *arguments: str) -> str:
        words = [*python(), "-m", f"raml_trl.{name}", *arguments]
        completed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

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
    output = command("sweep", "short.yaml", "--count", "2", "--agents", "2", "--output_dir", "out")
    results = json.loads((tmp_path / "out/sweep.json").read_text())
    assert (results["complete"], results["failed"]) == (2, 0)
    chosen = set()
    for trial in results["trials"]:
        state = json.loads((tmp_path / "out/trials" / trial["name"] / "trainer_state.json").read_text())
        assert trial["metric"] == [log["eval_pass@1"] for log in state["log_history"] if "eval_pass@1" in log][-1]
        chosen.add(trial["parameters"]["num_generations_update"])
        rows = {log["rows/selected"] for log in state["log_history"] if "rows/selected" in log}
        assert rows == {64}  # as many rows for every m
    assert len(chosen) == 2
    assert "eval/pass@1: mean" in output
    shutil.rmtree(tmp_path / "runs")
