r"""Measures how much of its trajectories a model needs: shortens them in several ways and forces an answer after each.

    python -m raml_trl.trajectory_pruning --config recipes/tiny/analysis/trajectory_pruning.yaml

`output_dir` gets:

- `pruned.parquet`: every trajectory as every method shortened it;
- `trajectory_pruning.json`: accuracy and tokens of each method with intervals over questions, and paired differences to
  the complete trajectories; `frontier.svg` and `page.html` show them;
- `data_METHOD`, for each method: the shortened trajectories whose answer is still correct, a dataset for `train_sft`.

A killed run resumes with the questions that are not done yet.

The answers of the reference method `none` are forced and greedy too, so that methods differ only in the thinking that
they leave. `curve` and `drop_sentence` use the reference answer: they show how short a trajectory could be, and are no
way to shorten one whose answer is unknown.
"""

import logging
import time

from raml_trl.analysis.config import TrajectoryPruningConfig
from raml_trl.analysis.pruning.experiment import run_experiment
from raml_trl.analysis.pruning.frontier import methods_table
from raml_trl.runtime.cli import run
from raml_trl.runtime.runs import Run

logger = logging.getLogger(__name__)


def main(config: TrajectoryPruningConfig, record: Run) -> None:
    """Shorten the trajectories, compare the methods, and write datasets to train on."""
    methods = run_experiment(config, record, time.monotonic)
    if methods is None:
        logger.info("other processes are still sampling trajectories")
        return
    logger.info("%s", methods_table(methods))
    logger.info("table, figure, page.html and data_METHOD are in %s", record.directory)


if __name__ == "__main__":
    run(main, TrajectoryPruningConfig)
