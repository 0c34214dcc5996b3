"""The SLURM script starts the right programs on each machine. SLURM, vLLM and accelerate are stubs."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

from raml_trl.runtime.cli import StrictParser
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import open_run
from tests.contracts.test_recipes import READERS
from tests.helpers import REPOSITORY

SCRIPT = "recipes/slurm/train_grpo.slurm"
RECIPE = "recipes/qwen2.5-7b/grpo_vllm_server.yaml"
STUBS = {
    "scontrol": 'test "$*" = "show hostnames $SLURM_JOB_NODELIST" && printf "%s\\n" $NAMES',
    # Runs the command for each given node, returns the last non-zero exit code, and stops the command when terminated.
    "srun": """
        while [[ $1 == --* ]]; do
          case $1 in --nodelist=*) list=${1#*=} ;; --nodes=*) nodes=${1#*=} ;; esac
          shift
        done
        trap 'kill $(jobs -p)' TERM
        rank=0 worst=0
        for node in ${list//,/ }; do
          SLURM_PROCID=$rank NODE=$node "$@" &
          wait $! || worst=$?
          rank=$((rank + 1))
        done
        test $rank = $nodes && exit $worst
    """,
    "vllm": 'python3 "$RECORD" vllm "$VLLM_SERVER_DEV_MODE" "$@"; exec sleep 60',
    # Waits until the server has started, as the trainer does.
    "accelerate": """
        until grep -q '"vllm"' "$RECORDS"; do sleep 0.1; done
        python3 "$RECORD" accelerate "" "$@"; exit ${FAILS:-0}
    """,
}
RECORD = """
import json, os, sys
name, mode, *words = sys.argv[1:]
with open(os.environ["RECORDS"], "a") as file:
    print(json.dumps({"name": name, "node": os.environ["NODE"], "mode": mode, "words": words}), file=file)
"""


def submit(directory: Path, nodes: str, *words: str, **environment: str) -> tuple[int, list[dict[str, object]]]:
    """Run the script as `sbatch` would on the given nodes. Return its exit code and the programs that it started."""
    directory.mkdir()
    for name, body in STUBS.items():
        (directory / name).write_text(f"#!/bin/bash\n{body}\n")
        (directory / name).chmod(0o755)
    (directory / "record").write_text(RECORD)
    (directory / "records").touch()
    environ = {"SLURM_JOB_NODELIST": "compressed", "NAMES": nodes, "PATH": f"{directory}:{os.environ['PATH']}"}
    environ |= {"RECORD": str(directory / "record"), "RECORDS": str(directory / "records"), **environment}
    done = subprocess.run(["bash", SCRIPT, *words], cwd=REPOSITORY, env=os.environ | environ, timeout=60, check=False)
    return done.returncode, [json.loads(line) for line in (directory / "records").read_text().splitlines()]


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
        _, config, model = StrictParser(READERS["grpo"], allow_abbrev=False).parse(words)
        assert (config.vllm_mode, config.vllm_server_host, config.run_name) == ("server", "a3", "two words")
        assert model.model_name_or_path == "org/model"
    rollouts = launch.num_processes * config.per_device_train_batch_size * config.steps_per_generation
    assert rollouts == 1024 * config.num_generations


@pytest.mark.children
def test_a_failure_ends_the_job(tmp_path: Path) -> None:
    code, _ = submit(tmp_path / "bin", "a1 a2", "org/model", "--config", RECIPE, FAILS="3")
    assert code == 3


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
