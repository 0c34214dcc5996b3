"""Tests grading in the processes in which training code grades: DataLoader workers, and the ranks of a launch.

The graders are the child processes of a `GradingPool`. The tests use psutil to find graders that are left behind.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.utils.data import DataLoader, Dataset

from raml_trl.grading import grader
from raml_trl.grading.grader import grade
from raml_trl.grading.pool import GradingPool
from tests.grading.test_pool import LATE, RIGHT, ROOT, TOWER, children, roots, still_running
from tests.helpers import REPOSITORY
from tests.helpers.preloaded import python

pytestmark = pytest.mark.children


# The comparison of this pair never ends, but SIGALRM can interrupt it.
SUM = (r"\boxed{\sum_{k=1}^{9999} \frac{x^k}{k^2}}", r"\sum_{k=2}^{9999} \frac{x^k}{k^2}")
PAIRS = [*roots(4)[0], (r"\boxed{012}", "12"), ROOT, TOWER, SUM, *roots(6)[0][4:]]
GRADES = [*roots(4)[1], RIGHT, RIGHT, LATE, LATE, *roots(6)[1][4:]]


def graders() -> list[int]:
    return [child.pid for child in children()]


def left_of(pids: set[int]) -> list[psutil.Process]:
    """Returns the processes that have not ended by themselves after 30 seconds, and kills them.

    A grader that has lost its parent may run for twice its time limit.
    """
    left = still_running([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], seconds=30)
    for process in left:
        process.kill()
    return left


class Graded(Dataset[dict[str, Any]]):
    """Grades each pair on access, with the pool and with `grade`. A row also holds the ids of the processes in use."""

    def __init__(self, pool: GradingPool) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return len(PAIRS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = PAIRS[index]
        return {
            "by the pool": self.pool.grade([pair], style="boxed")[0],
            "by grade": LATE if pair is TOWER else grade(*pair),  # nothing interrupts this single instruction
            "worker": os.getpid(),
            "graders": graders(),
        }


def _shorten_deadline(_worker: int) -> None:
    grader.SECONDS = 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
# `spawn` imports torch in every worker.
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_data_loader(context: str) -> None:
    with GradingPool(1, seconds=2) as pool:
        assert pool.grade([ROOT], style="boxed") == [RIGHT]
        before = graders()
        loader = DataLoader(
            Graded(pool),
            batch_size=None,
            num_workers=2,
            multiprocessing_context=context,
            worker_init_fn=_shorten_deadline,
        )
        rows = []
        for row in loader:
            rows.append(row)
            if len(rows) == 1:  # from now on torch handles the death of children
                assert graders() == before
                assert pool.grade([TOWER, ROOT], style="boxed") == [LATE, RIGHT]
        after = graders()
        assert pool.grade([ROOT], style="boxed") == [RIGHT]
        assert graders() == after
    assert [row["by the pool"] for row in rows] == GRADES
    assert [row["by grade"] for row in rows] == GRADES
    assert len({row["worker"] for row in rows} - {os.getpid()}) == 2
    used = {pid for row in rows for pid in row["graders"]}
    assert not used & {*before, *after}  # the workers use graders of their own
    assert {len(row["graders"]) for row in rows} <= {0, 1}  # one at a time, and none right after a timeout
    assert len(used) == 4  # one worker gets TOWER, the other SUM, and each replaces its grader
    assert not left_of(used)


@pytest.mark.parametrize("end", ["success", pytest.param("failure", marks=pytest.mark.slow)])
def test_ranks_of_a_launch(end: str, tmp_path: Path) -> None:
    pairs, grades = roots(20)
    (tmp_path / "pairs.json").write_text(json.dumps([pairs, TOWER]))
    launch = [*python(), "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    script = ["-m", "tests.helpers.graders_in_ranks", str(tmp_path / "pairs.json"), str(tmp_path), end]
    with open(tmp_path / "stderr", "w") as stderr:  # a pipe stays open as long as a grader holds it
        done = subprocess.run([*launch, *script], cwd=REPOSITORY, stderr=stderr, check=False, timeout=120)
    text = (tmp_path / "stderr").read_text()
    assert (done.returncode == 0) == (end == "success"), text
    assert ("rank 1 fails" in text) == (end == "failure"), text
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    expected = [graded.outcome for graded in grades]
    for result in results:
        assert result["ranks"] == 2
        assert result["by the pool"] == [*expected, LATE.outcome]
        assert result["by grade"] == expected
    used = {pid for result in results for pid in result["graders"]}
    assert len(used) == sum(len(result["graders"]) for result in results) >= 4  # the ranks share no grader
    assert not left_of(used)
