r"""Measures how much of a trajectory a model needs to find the answer, with several methods to shorten trajectories.

    raml-trl trajectory_pruning recipes/tiny/analysis/trajectory_pruning.yaml

Each method shortens the thinking of every trajectory. The model must then answer at once: the stub (the text that
introduces the answer) is appended, and the answer is decoded greedily.

`output_dir` gets:

- `pruned.parquet`: every trajectory as every method shortened it;
- `trajectory_pruning.json`: the accuracy and the number of tokens of each method, and the paired differences from the
  complete trajectories, all with intervals over questions; `frontier.svg` and `page.html` show these numbers;
- `data_METHOD`, for each method: the shortened trajectories whose answer is still correct, a dataset for `train_sft`.

A killed run resumes with the questions that are not done yet. In a launch of several processes, the first one
does all the work.

The reference method `none` keeps all thinking, and its answers are decoded in the same way. Methods therefore differ
only in the thinking that they keep. The methods `curve` and `drop_sentence` use the reference answer. They show how
short a trajectory could be, but cannot shorten a trajectory whose answer is unknown.
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
    """Shorten the trajectories, compare the methods, and write datasets to train on.

    `record` is the run in `output_dir`.
    """
    methods = run_experiment(config, record, time.monotonic)
    logger.info("%s", methods_table(methods))


if __name__ == "__main__":
    run(main, TrajectoryPruningConfig)
