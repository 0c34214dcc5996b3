"""The SLURM script starts the right programs on each machine. SLURM, vLLM and accelerate are stubs."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

from raml_trl.runtime.cli import RunOptions, StrictParser
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import open_run
from tests.contracts.test_recipes import READERS
from tests.helpers import REPOSITORY

SCRIPT = "recipes/slurm/train_grpo.slurm"
RECIPE = "recipes/qwen2.5-7b/grpo_vllm_server.yaml"
STUBS = {
    "scontrol": """
        case "$*" in
          "show hostnames $SLURM_JOB_NODELIST") printf "%s\\n" $NAMES ;;
          *) NODE=batch python3 "$RECORD" scontrol "" "$@" ;;
        esac
    """,
    # Runs the command for each given node, returns the last non-zero exit code, and stops the command when terminated.
    "srun": """
        while [[ $1 == --* ]]; do
          case $1 in --nodelist=*) list=${1#*=} ;; --nodes=*) nodes=${1#*=} ;; esac
          shift
        done
        trap 'kill $(jobs -p)' TERM
        trap 'kill -USR1 $(jobs -p)' USR1
        rank=0 worst=0
        for node in ${list//,/ }; do
          SLURM_PROCID=$rank NODE=$node "$@" &
          task=$!
          while kill -0 $task 2> /dev/null; do wait $task; done
          wait $task || worst=$?
          rank=$((rank + 1))
        done
        test $rank = $nodes && exit $worst
    """,
    "vllm": 'python3 "$RECORD" vllm "$VLLM_SERVER_DEV_MODE" "$@"; exec sleep 60',
    # Waits until the server has started, as the trainer does.
    "accelerate": """
        until grep -q '"vllm"' "$RECORDS"; do sleep 0.1; done
        python3 "$RECORD" accelerate "" "$@"
        test -z "$WARNED" && exit ${FAILS:-0}
        python3 "$RECORD" worker &
        wait $! || exit 1  # as a launcher does, whatever the code of its process
    """,
}
RECORD = """
import json, os, signal, sys
if sys.argv[1] == "worker":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
name, mode, *words = [*sys.argv[1:], ""]
with open(os.environ["RECORDS"], "a") as file:
    print(json.dumps({"name": name, "node": os.environ["NODE"], "mode": mode, "words": words[:-1]}), file=file)
if name == "worker":
    signal.sigwait([signal.SIGUSR1])
    sys.exit(75)
"""


def submit(
    directory: Path, nodes: str, *words: str, warned_after: str | None = None, **environment: str
) -> tuple[int, list[dict[str, object]]]:
    """Run the script as `sbatch` would on the given nodes. Return its exit code and the programs that it started.

    SLURM warns it with SIGUSR1 once the program `warned_after` has started.
    """
    directory.mkdir()
    for name, body in STUBS.items():
        (directory / name).write_text(f"#!/bin/bash\n{body}\n")
        (directory / name).chmod(0o755)
    (directory / "record").write_text(RECORD)
    (directory / "records").touch()
    environ = {"SLURM_JOB_NODELIST": "compressed", "NAMES": nodes, "PATH": f"{directory}:{os.environ['PATH']}"}
    environ |= {"RECORD": str(directory / "record"), "RECORDS": str(directory / "records"), **environment}
    environ |= {"SLURM_JOB_ID": "42", "WARNED": warned_after or ""}
    job = subprocess.Popen(["bash", SCRIPT, *words], cwd=REPOSITORY, env=os.environ | environ)
    if warned_after is not None:
        deadline = time.monotonic() + 60
        while f'"{warned_after}"' not in (directory / "records").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
    code = job.wait(timeout=60)
    return code, [json.loads(line) for line in (directory / "records").read_text().splitlines()]


@pytest.mark.children
def test_the_last_machine_serves_and_the_others_train(tmp_path: Path) -> None:
    code, started = submit(tmp_path / "bin", "a1 a2 a3", "org/model", "--config", RECIPE, "--run_name", "two words")
    assert code == 0
    [server] = [program for program in started if program["name"] == "vllm"]
    assert (server["node"], server["mode"]) == ("a3", "1")
    assert server["words"][:2] == ["serve", "org/model"]
    flags = dict(zip(server["words"][2::2], server["words"][3::2], strict=True))
    assert json.loads(flags["--weight-transfer-config"]) == {"backend": "nccl"}
    recipe = yaml.safe_load((REPOSITORY / RECIPE).read_text())
    assert int(flags["--max-model-len"]) > recipe["max_completion_length"]
    trainers = [program for program in started if program["name"] == "accelerate"]
    assert [trainer["node"] for trainer in trainers] == ["a1", "a2"]
    for rank, trainer in enumerate(trainers):
        launch = launch_command_parser().parse_args(trainer["words"][1:])
        assert (launch.num_machines, launch.machine_rank, launch.num_processes) == (2, rank, 16)
        assert (launch.main_process_ip, launch.main_process_port) == ("a1", 29500)
        assert (launch.module, launch.training_script) == (True, "raml_trl.train_grpo")
        assert (REPOSITORY / launch.config_file).is_file()
        portable = ["--use_cpu", "true", "--report_to", "none"]
        words = [*launch.training_script_args, *portable]
        _, config, model, options = StrictParser([*READERS["grpo"], RunOptions], allow_abbrev=False).parse(words)
        assert options.when_locked == "wait"
        assert (config.vllm_mode, config.vllm_server_host, config.run_name) == ("server", "a3", "two words")
        assert model.model_name_or_path == "org/model"
    rollouts = launch.num_processes * config.per_device_train_batch_size * config.steps_per_generation
    assert rollouts == 1024 * config.num_generations


@pytest.mark.children
def test_a_failure_ends_the_job(tmp_path: Path) -> None:
    code, started = submit(tmp_path / "bin", "a1 a2", "org/model", "--config", RECIPE, FAILS="3")
    assert code == 3
    assert "scontrol" not in [program["name"] for program in started]  # a defect must not repeat itself without end


@pytest.mark.children
def test_the_warning_reaches_the_processes_of_the_launcher_and_the_job_is_requeued(tmp_path: Path) -> None:
    code, started = submit(tmp_path / "bin", "a1 a2", "org/model", "--config", RECIPE, warned_after="worker")
    assert code == 1  # of the launcher
    assert [program["words"] for program in started if program["name"] == "scontrol"] == [["requeue", "42"]]


@pytest.mark.children
def test_one_machine_is_too_few(tmp_path: Path) -> None:
    assert submit(tmp_path / "bin", "a1", "org/model", "--config", RECIPE) == (2, [])


def test_a_job_can_resume_on_other_machines(tmp_path: Path) -> None:
    """A job that is submitted again may get other machines, and resumes the same run."""
    settings = {"vllm_server_host": "a3", "seed": 1}
    open_run(tmp_path / "out", "train_grpo", settings)
    open_run(tmp_path / "out", "train_grpo", settings | {"vllm_server_host": "b7"})
    with pytest.raises(InputError, match="seed"):
        open_run(tmp_path / "out", "train_grpo", settings | {"seed": 2})
