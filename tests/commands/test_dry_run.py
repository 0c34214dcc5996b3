"""`--dry_run` makes the checks of a start, says what the command would do, and leaves nothing behind."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from raml_trl import compare, evaluate, prepare_data, sample_trajectories, sweep, train_grpo, train_sft
from raml_trl.data.config import GENERATED, PrepareDataConfig
from raml_trl.grpo.config import CheckedGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.runtime.cli import call, run
from raml_trl.runtime.locks import locked
from raml_trl.runtime.runs import open_run
from raml_trl.sampling.config import EvaluateConfig, SampleTrajectoriesConfig
from raml_trl.sft.config import CheckedSFTConfig, SFTArguments
from raml_trl.sweeps.sweep_file import read_sweep
from raml_trl.training.config import CheckedModelConfig

COMMANDS: dict[str, tuple[Any, ...]] = {
    "prepare_data": (prepare_data, PrepareDataConfig),
    "sample_trajectories": (sample_trajectories, SampleTrajectoriesConfig),
    "train_sft": (train_sft, SFTArguments, CheckedSFTConfig, CheckedModelConfig),
    "train_grpo": (train_grpo, GRPOArguments, CheckedGRPOConfig, CheckedModelConfig),
    "evaluate": (evaluate, EvaluateConfig),
    "sweep": (sweep, sweep.SweepConfig),
}
Start = Callable[..., tuple[object, dict[str, str], str]]


@pytest.fixture
def dry_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_dir: str, tmp_path: Path
) -> Start:
    """Starts a command with `--dry_run`, and returns its exit code, the plan by label, and standard error.

    Checks that nothing is written, neither here nor into the cache of datasets.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    call(
        prepare_data.main,
        PrepareDataConfig(
            dataset_name="arithmetic", dataset_split="sft", num_questions=4, num_trajectories=2, output_dir="data"
        ),
    )
    (tmp_path / "model").symlink_to(model_dir)

    def start(command: str, *arguments: str) -> tuple[object, dict[str, str], str]:
        module, *classes = COMMANDS[command]
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        monkeypatch.setattr(sys, "argv", [command, *arguments, "--dry_run"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run(module.main, *classes, preview=module.preview)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        output, error = capsys.readouterr()
        if stop.value.code in (0, None):
            assert output.endswith("\nDry run: nothing was started.\n")
        plan = dict(line.split("  ", 1) for line in output.splitlines()[:-1])
        return stop.value.code or 0, {label.strip(): text.strip() for label, text in plan.items()}, error

    return start


INPUTS = (
    "--model_name_or_path",
    "model",
    "--dataset_name",
    "data",
    "--prompt_style",
    "bare",
    "--output_dir",
    "deep/out",
)
TRAINING = (*INPUTS, "--use_cpu", "--no_bf16", "--report_to", "none", "--max_steps", "5")


@pytest.mark.long
def test_a_plan_of_grpo(dry_run: Start) -> None:
    settings = ("--num_generations", "4", "--num_generations_update", "2", "--per_device_train_batch_size", "8")
    code, plan, _ = dry_run("train_grpo", *TRAINING, *settings)
    assert code == 0
    assert plan["model"].startswith("model, tokenizer of ")
    assert plan["data"] == "data, prompt_style bare"
    assert "2 trajectories, 2 of them correct; prompt of " in plan["first row"]
    assert plan["generation"] == "8 rollouts, 4 for each of 2 questions, processes: 1"
    assert plan["update"].startswith("2 of 4 rollouts, selection random, loss ")
    assert plan["reward"] == "1 x answer"
    assert plan["length"] == "5 steps"
    assert plan["evaluation"] == "none"
    assert plan["output_dir"] == "deep/out, a new run"
    evaluated = ("--eval_strategy", "steps", "--eval_data", "data", "--eval_num_questions", "3")
    assert dry_run("train_grpo", *TRAINING, *settings, *evaluated)[1]["evaluation"] == "data, 3 questions"


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (
            "train_sft",
            (*TRAINING, "--num_trajectories", "1", "--per_device_train_batch_size", "4", "--max_length", "64"),
            {
                "trajectories": "at most 1 correct ones of a question",
                "step": "4 examples of at most 64 tokens, processes: 1",
                "length": "5 steps",
                "output_dir": "deep/out, a new run",
            },
        ),
        (
            "evaluate",
            (*INPUTS, "--num_samples", "8", "--max_completion_length", "40"),
            {"samples": "8 for every question, of at most 40 tokens, engine transformers, temperature 1.0"},
        ),
        (
            "sample_trajectories",
            (*INPUTS, "--num_trajectories", "2", "--num_questions", "3", "--max_completion_length", "40"),
            {"samples": "2 for each of 3 questions, of at most 40 tokens, engine transformers, temperature 1.0"},
        ),
        (
            "prepare_data",
            ("tiny/demo/data_test", "--output_dir", "deep/out"),
            {"data": "arithmetic, split test", "keep": "at most 200 questions", "output_dir": "deep/out, a new run"},
        ),
    ],
)
def test_plans(dry_run: Start, command: str, arguments: tuple[str, ...], expected: dict[str, str]) -> None:
    code, plan, error = dry_run(command, *arguments)
    assert (code, {label: plan[label] for label in expected}) == (0, expected), error


def test_characters_that_the_tokenizer_loses(dry_run: Start, tmp_path: Path) -> None:
    (tmp_path / "words.jsonl").write_text('{"problem": "What is 3+4?", "answer": "7"}\n')
    row = dry_run("evaluate", *INPUTS, "--dataset_name", str(tmp_path / "words.jsonl"))[1]["first row"]
    assert row.endswith(", without 'Whtis?', which the tokenizer cannot represent")
    assert "without" not in dry_run("evaluate", *INPUTS)[1]["first row"]
    row = dry_run("evaluate", *INPUTS, "--prompt_style", "boxed")[1]["first row"]
    assert "without 'Rsntpywriufl.', which" in row  # the words of the style


SWEEP = """
program: raml_trl.train_sft
method: grid
metric: {name: eval/loss}
parameters:
  model_name_or_path: {value: model}
  dataset_name: {value: data}
  prompt_style: {value: bare}
  use_cpu: {value: true}
  bf16: {value: false}
  num_trajectories: {values: VALUES}
  seed: {values: [0, 1]}
command: ["${env}", "${interpreter}", "-m", "${program}", "${args}"]
"""


@pytest.mark.slow
def test_a_dry_run_of_a_sweep_checks_its_trials(dry_run: Start, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(SWEEP.replace("VALUES", "[1, 2]"))
    code, plan, error = dry_run("sweep", "--sweep", "good.yaml")
    assert code == 0, error
    assert (plan["trials"], plan["checked"]) == ("4, 1 at a time", "2 of 4 trials, by a dry run of each")
    assert plan["output_dir"] == "runs/sweeps/good, a new run"
    (tmp_path / "bad.yaml").write_text(SWEEP.replace("VALUES", "[1, 0]").replace("prompt_style", "prompt_stlye"))
    code, _, error = dry_run("sweep", "--sweep", "bad.yaml")
    assert code == 2
    lines = [line for line in error.splitlines() if line.startswith("raml-trl sweep: ")]
    assert len(lines) == 1  # both trials have the same error
    assert lines[0].endswith("train_sft: unknown option --prompt_stlye; did you mean --prompt_style?")
    (tmp_path / "bad.yaml").write_text(SWEEP.replace("VALUES", "[1, 0]"))
    code, _, error = dry_run("sweep", "--sweep", "bad.yaml")
    [line] = [line for line in error.splitlines() if line.startswith("raml-trl sweep: ")]
    assert line.startswith("raml-trl sweep: trial num_trajectories=0,seed=")
    assert "train_sft: num_trajectories must be a whole number from 1 to" in line


LAUNCH = "exec accelerate launch --config_file a.yaml --num_processes=2 -m"
SCRIPTS = {
    'seed=$seed; exec python -m "$0" --max_steps $((8 / m)) ${ID:+--report_to wandb} "$@"': True,
    f'{LAUNCH} "$0" --config b.yaml "$@"': True,
    f'{LAUNCH} raml_trl.train_sft "$@"': True,
    'python -m "$0" "$@"': False,  # only `exec` certainly ends the script
    'exec python -m "$0" --seed $(make) "$@"': False,
    'exec python -m "$0" --seed `make` "$@"': False,
    'seed=$(make); exec python -m "$0" "$@"': False,
    'make; exec python -m "$0" "$@"': False,
    'exec python -m "$0" "$@"; make': False,
    'exec python -m "$0" "$@" | make': False,
    'exec python -m "$0" & make "$@"': False,
    'exec python -m "$0" > log "$@"': False,
    'exec python -m "$0"\nmake "$@"': False,
    'exec python -m "$0"': False,
    'exec python -m other "$0" "$@"': False,
    'exec python other.py -m "$0" "$@"': False,
    'exec accelerate launch --multi_gpu other.py -m "$0" "$@"': False,
}
COMMANDS_OF_SWEEPS = {
    ("${env}", "${interpreter}", "-m", "${program}", "--max_steps", "5", "${args}"): True,
    ("${env}", "raml-trl", "train_sft", "${args_no_equals}"): True,
    ("accelerate", "launch", "--config_file", "a.yaml", "-m", "${program}", "${args_no_boolean_flags}"): True,
    ("${env}", "${interpreter}", "${program}", "${args}"): False,
    ("${env}", "${interpreter}", "-m", "${program}", "${args}", "--max_steps"): False,
    ("${env}", "${interpreter}", "-m", "${program}", "${args_json}"): False,
    ("${interpreter}", "other.py", "-m", "${program}", "${args}"): False,
    ("make", "-m", "raml_trl.train_sft", "${args}"): False,
    ("bash", "script.sh", "${program}", "${args}"): False,
    ("bash", "-c", 'exec python -m "$0" "$@"', "other", "${program}", "${args}"): False,
    ("bash", "-c", 'exec python -m "$0" "$@"', "other", "${args}"): False,
}


@pytest.mark.parametrize(
    ("command", "accepted"),
    [
        *COMMANDS_OF_SWEEPS.items(),
        *(
            (("${env}", "bash", "-c", script, "${program}", "${args}"), accepted)
            for script, accepted in SCRIPTS.items()
        ),
    ],
)
def test_only_what_certainly_makes_a_dry_run_is_started(
    command: tuple[str, ...], accepted: bool, tmp_path: Path
) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("VALUES", "[3]"))
    assert sweep.accepts_dry_run(replace(read_sweep(tmp_path / "sweep.yaml"), command=command)) is accepted


def test_a_sweep_of_another_program_is_not_checked(dry_run: Start, tmp_path: Path) -> None:
    text = SWEEP.replace("VALUES", "[3]").replace("raml_trl.train_sft", "mine.py").replace('"-m", ', "")
    (tmp_path / "other.yaml").write_text(text)
    code, plan, _ = dry_run("sweep", "--sweep", "other.yaml")
    assert code == 0
    assert plan["checked"].startswith("no trial: ")


@pytest.mark.parametrize("command", ["train_sft", "train_grpo", "evaluate", "sample_trajectories"])
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (("--model_name_or_path", "./nowhere"), "model ./nowhere cannot be loaded: there is no such directory or file"),
        (("--dataset_name", "./nowhere"), "dataset_name ./nowhere: there is no such directory or file"),
        (("--output_dir", "data"), "output_dir data holds a run of prepare_data: choose another directory"),
    ],
)
def test_a_dry_run_is_refused_as_a_start_would_be(
    dry_run: Start, command: str, broken: tuple[str, str], message: str
) -> None:
    settings = TRAINING if command.startswith("train") else (*INPUTS, "--num_questions", "2")
    code, _, error = dry_run(command, *settings, *broken)
    assert (code, error.splitlines()[-1]) == (2, f"raml-trl {command}: {message}")


def test_everything_that_is_missing_is_listed_below_the_plan(
    dry_run: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A GPU recipe on a laptop, with a tokenizer: no GPU, no vLLM, and no data."""
    monkeypatch.setattr("raml_trl.training.config.is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr("raml_trl.sampling.vllm_engine.find_spec", lambda _: None)
    model = ("--model_name_or_path", "model")
    code, plan, error = dry_run("train_grpo", "gsm8k/grpo_0.5b", *model)
    assert code == 2
    assert plan == {
        "generation": "512 rollouts, 8 for each of 64 questions, processes: 1",
        "update": "8 of 8 rollouts, selection random, loss dapo",
        "reward": "1 x answer",
        "length": "200 steps",
        "output_dir": "runs/gsm8k/grpo_0.5b, a new run",
    }
    lines = [line.removeprefix("raml-trl train_grpo: ") for line in error.splitlines()]
    missing = "there is no such directory or file"
    assert [line.partition(": in the checkout")[0] for line in lines] == [
        "bf16 is true, but this machine has no GPU that computes in bfloat16: start on a machine with one, or set "
        "use_cpu: true and bf16: false to train on the CPU",
        "vLLM is not installed",
        f"dataset_name runs/gsm8k/data_train: {missing}; `raml-trl prepare_data gsm8k/data_train` makes it",
        f"eval_data runs/gsm8k/data_test: {missing}; `raml-trl prepare_data gsm8k/data_test` makes it",
    ]
    # Without a GPU, the CPU has to be asked for, also if bf16 is left to its default.
    assert dry_run("train_sft", *INPUTS)[2].startswith("raml-trl train_sft: bf16 is true, but")
    # A start on the CPU lists the same problems, and leaves nothing behind.
    monkeypatch.setattr(sys, "argv", ["train_grpo", "gsm8k/grpo_0.5b", *model, "--use_cpu", "--no_bf16"])
    with pytest.raises(SystemExit) as stop:
        run(train_grpo.main, *COMMANDS["train_grpo"][1:])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines() == [f"raml-trl train_grpo: {line}" for line in lines[1:]]
    assert not (tmp_path / "runs").exists()


def test_a_training_needs_a_directory(dry_run: Start) -> None:
    settings = ("--use_cpu", "--no_bf16", "--report_to", "none", "--max_steps", "5")
    for command in ("train_sft", "train_grpo"):
        code, _, error = dry_run(command, *INPUTS[:-2], *settings)
        assert (code, error.splitlines()[-1]) == (
            2,
            f"raml-trl {command}: output_dir is missing: set it to the directory that the run is to be written to",
        )


def test_an_unreadable_first_row_is_refused(dry_run: Start, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1 = ?", "answer": ""}\n')
    code, _, error = dry_run("evaluate", *INPUTS, "--dataset_name", "rows.jsonl")
    assert code == 2
    assert error.startswith("raml-trl evaluate: rows.jsonl")
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1 = ?", "answer": null}\n')
    code, plan, _ = dry_run("prepare_data", "--dataset_name", "rows.jsonl", "--output_dir", "out")
    assert (code, plan["first row"]) == (0, "left out: no answer")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_questions_need_no_file(dry_run: Start, name: str) -> None:
    settings = ("--dataset_split", "grpo", "--num_questions", "3", "--output_dir", "out")
    code, plan, error = dry_run("prepare_data", "--dataset_name", name, *settings)
    assert code == 0, error
    assert ", answer " in plan["first row"]


def test_the_state_of_the_output(dry_run: Start, tmp_path: Path) -> None:
    data = ("--dataset_name", "arithmetic", "--dataset_split", "test", "--num_questions", "5", "--output_dir", "out")
    settings = {"dataset_name": "arithmetic", "dataset_split": "test", "num_questions": 5}
    record = open_run(tmp_path / "out", "prepare_data", settings)
    assert dry_run("prepare_data", *data)[1]["output_dir"] == "out, an unfinished run: it would resume"
    with locked(Path("out"), "refuse"):
        being_written = f"being written by process {os.getpid()} on {os.uname().nodename}: "
        code, _, error = dry_run("prepare_data", *data)
        assert (code, error.startswith(f"raml-trl prepare_data: output_dir out is {being_written}wait")) == (2, True)
        waits = dry_run("prepare_data", *data, "--when_locked", "wait")[1]["output_dir"]
        assert waits == f"out, {being_written}it would wait for its end"
        record.finish(0.0, {})
        assert dry_run("prepare_data", *data)[1]["output_dir"] == "out, a complete run: nothing to do"


def test_a_command_without_a_plan_checks_its_settings_and_its_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare", "--evaluations", "a=x", "b=y", "--output_dir", "out", "--dry-run"])
    with pytest.raises(SystemExit):
        run(compare.main, compare.CompareConfig, repeatable=True)
    assert capsys.readouterr().out == "output_dir  out, a new run\nDry run: nothing was started.\n"
    assert not any(tmp_path.iterdir())
