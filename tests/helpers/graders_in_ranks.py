"""Script that `test_grading_places` runs under `accelerate launch`: two ranks grade at the same time.

accelerate launch --config_file accelerate_configs/cpu.yaml -m tests.helpers.graders_in_ranks PAIRS.json RESULTS END

PAIRS.json holds a list of pairs of answer and reference, and one further pair whose comparison never ends. Each rank
writes a file to the directory RESULTS with the outcomes of grading and the ids of its grader processes, which it leaves
running. If END is "failure", rank 1 then fails while rank 0 grades the pair that never ends.
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
    finite, endless = json.loads(Path(pairs).read_text())
    pool, patient = GradingPool(2, seconds=2), GradingPool(1, seconds=5)
    state.wait_for_everyone()
    result = {
        "ranks": state.num_processes,
        "by the pool": [graded.outcome for graded in pool.grade([*finite, endless], style="boxed")],
        "by grade": [grade(*pair).outcome for pair in finite],
    }
    patient.grade(finite, style="boxed")
    result["graders"] = [child.pid for child in psutil.Process().children()]
    (Path(results) / f"{state.process_index}.json").write_text(json.dumps(result))
    state.wait_for_everyone()
    if end == "failure" and state.process_index == 1:
        sys.exit("rank 1 fails")
    if end == "failure":
        patient.grade([endless], style="boxed")


if __name__ == "__main__":
    main(*sys.argv[1:])
