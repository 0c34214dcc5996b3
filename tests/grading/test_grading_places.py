"""Grading where training code does it: in the workers of a DataLoader, and in the ranks of a launch.

What must not be left behind is looked for among the processes of this machine, by psutil.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.utils.data import DataLoader, Dataset

from raml_trl.grading import grader as grading
from raml_trl.grading.grader import grade
from raml_trl.grading.pool import GradingPool
from tests.grading.test_pool import LATE, RIGHT, ROOT, TOWER, children, roots, still_running
from tests.helpers import REPOSITORY

# It does not end, but can be ended by SIGALRM.
SUM = (r"\boxed{\sum_{k=1}^{9999} \frac{x^k}{k^2}}", r"\sum_{k=2}^{9999} \frac{x^k}{k^2}")
PAIRS = [*roots(4)[0], (r"\boxed{012}", "12"), ROOT, TOWER, SUM, *roots(6)[0][4:]]
GRADES = [*roots(4)[1], RIGHT, RIGHT, LATE, LATE, *roots(6)[1][4:]]


def graders() -> list[int]:
    return [child.pid for child in children()]


def left_of(pids: set[int]) -> list[psutil.Process]:
    """Those that do not go by themselves, as they do at once or, from what has no end, after twice their deadline."""
    left = still_running([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], seconds=30)
    for process in left:
        process.kill()
    return left


class Graded(Dataset[dict[str, Any]]):
    """Pairs that are graded when they are asked for, by the pool and by `grade`, and who did it."""

    def __init__(self, pool: GradingPool) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return len(PAIRS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = PAIRS[index]
        return {
            "by the pool": self.pool.grade([pair], style="boxed")[0],
            "by grade": LATE if pair is TOWER else grade(*pair),  # the tower is one instruction, which nothing ends
            "worker": os.getpid(),
            "graders": graders(),
        }


def _be_impatient(_worker: int) -> None:
    grade(*ROOT)  # imports math-verify
    grading.SECONDS = 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_in_the_workers_of_a_data_loader(context: str) -> None:
    with GradingPool(1, seconds=2) as pool:
        assert pool.grade([ROOT], style="boxed") == [RIGHT]
        before = graders()
        loader = DataLoader(
            Graded(pool),
            batch_size=None,
            num_workers=2,
            multiprocessing_context=context,
            worker_init_fn=_be_impatient,
        )
        found = []
        for one in loader:
            found.append(one)
            if len(found) == 1:  # torch listens for the death of children now
                assert graders() == before
                assert pool.grade([TOWER, ROOT], style="boxed") == [LATE, RIGHT]
        after = graders()
        assert pool.grade([ROOT], style="boxed") == [RIGHT]
        assert graders() == after
    assert [one["by the pool"] for one in found] == GRADES
    assert [one["by grade"] for one in found] == GRADES
    assert len({one["worker"] for one in found} - {os.getpid()}) == 2
    used = {pid for one in found for pid in one["graders"]}
    assert not used & {*before, *after}  # the workers have their own, one at a time
    assert {len(one["graders"]) for one in found} <= {0, 1}  # none after what has no end
    assert len(used) == 4  # the tower is one worker's and the sum the other's, and another took its place in each
    assert not left_of(used)


@pytest.mark.parametrize("end", ["success", pytest.param("failure", marks=pytest.mark.slow)])
def test_in_the_ranks_of_a_launch(end: str, tmp_path: Path) -> None:
    pairs, grades = roots(20)
    (tmp_path / "pairs.json").write_text(json.dumps([pairs, TOWER]))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    script = ["-m", "tests.helpers.graders_in_ranks", str(tmp_path / "pairs.json"), str(tmp_path), end]
    with open(tmp_path / "said", "w") as said:  # a pipe would be waited for, as long as a grader holds it
        done = subprocess.run([*launch, *script], cwd=REPOSITORY, stderr=said, check=False, timeout=120)
    text = (tmp_path / "said").read_text()
    assert (done.returncode == 0) == (end == "success"), text
    assert ("rank 1 fails" in text) == (end == "failure"), text
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    expected = [one.outcome for one in grades]
    for one in found:
        assert one["ranks"] == 2
        assert one["by the pool"] == [*expected, LATE.outcome]
        assert one["by grade"] == expected
    used = {pid for one in found for pid in one["graders"]}
    assert len(used) == sum(len(one["graders"]) for one in found) >= 4  # no rank has those of the other
    assert not left_of(used)
