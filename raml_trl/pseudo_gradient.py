r"""Measures the likelihood of the reference answer after every token of a trajectory: does thinking raise it?

    raml-trl pseudo_gradient recipes/tiny/analysis/pseudo_gradient.yaml

RaML regards a trajectory as the steps of a gradient descent on -log p(answer). This command measures -log p(answer)
after every prefix of a trajectory; these values are the curve of the trajectory. It measures correct and wrong
trajectories, which come from a rollout dataset or are sampled. With `no_thinking`, it also samples and measures
trajectories without thinking. The command finds where the thinking ends and where the text first contains the answer,
and measures the descent up to the earlier of these two places. It also tests which groups of tokens, such as numbers or
the word "wait", change the likelihood more or less than other tokens do.

`output_dir` gets `curves.parquet` (every curve), `pseudo_gradient.json` (the summary), two figures, and `page.html`,
which shows the tokens under the curve. If a run is killed, the same command resumes it. The processes of a launch
divide the work among themselves.
"""

import logging
import time

from raml_trl.analysis.config import PseudoGradientConfig
from raml_trl.analysis.descent.experiment import run_experiment
from raml_trl.analysis.descent.prediction import prediction_table
from raml_trl.runtime.cli import run
from raml_trl.runtime.runs import UNFINISHED, Run

logger = logging.getLogger(__name__)


def main(config: PseudoGradientConfig, record: Run) -> None:
    """Measure the curve of -log p(answer) along each trajectory that belongs to this process.

    The last process to finish writes the results and marks `record`, the run in `output_dir`, as complete.
    """
    summary = run_experiment(config, record, time.monotonic)
    if summary is None:
        logger.info(UNFINISHED)
        return
    logger.info("How well the likelihood of the answer tells right from wrong trajectories (prediction.svg):")
    logger.info("%s", prediction_table(summary.prediction))


if __name__ == "__main__":
    run(main, PseudoGradientConfig, distributed=True)
