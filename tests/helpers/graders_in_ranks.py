"""What `test_grading_places` runs under `accelerate launch`: two ranks that grade at once.

accelerate launch --config_file accelerate_configs/cpu.yaml -m tests.helpers.graders_in_ranks PAIRS.json RESULTS END

PAIRS.json holds pairs, and one that has no end. RESULTS gets a file of each rank: its outcomes, and the children of its
pools, which it does not close. If END is "failure", rank 1 then fails while rank 0 is at the pair without an end.
"""

import json
import sys
from pathlib import Path

import psutil
from accelerate import PartialState

from raml_trl.grading.grader import grade
from raml_trl.grading.pool import GradingPool


def main(pairs: str, results: str, end: str) -> None:
    state = PartialState(cpu=True)
    told, endless = json.loads(Path(pairs).read_text())
    pool, patient = GradingPool(2, seconds=2), GradingPool(1, seconds=5)
    state.wait_for_everyone()
    found = {
        "ranks": state.num_processes,
        "by the pool": [one.outcome for one in pool.grade([*told, endless], style="boxed")],
        "by grade": [grade(*pair).outcome for pair in told],
    }
    patient.grade(told, style="boxed")
    found["graders"] = [child.pid for child in psutil.Process().children()]
    (Path(results) / f"{state.process_index}.json").write_text(json.dumps(found))
    state.wait_for_everyone()
    if end == "failure" and state.process_index == 1:
        sys.exit("rank 1 fails")
    if end == "failure":
        patient.grade([endless], style="boxed")


if __name__ == "__main__":
    main(*sys.argv[1:])
