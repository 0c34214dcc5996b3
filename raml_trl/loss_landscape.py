r"""Maps the loss surface around a model: the loss of the reference answers at many points near the model's weights.

    raml-trl loss_landscape recipes/tiny/analysis/loss_landscape.yaml
    accelerate launch --config_file accelerate_configs/ddp.yaml \
        -m raml_trl.loss_landscape --config recipes/qwen2.5-7b/loss_landscape.yaml

The points form a grid on one or two axes in weight space. The axes are random directions, scaled to the norm of the
weights, or each axis leads to another checkpoint (`towards`). At every point, the loss of a question is the mean of
-log p over the tokens of the reference answer. The answer follows the prompt and the stub (`stub`), which is the text
that introduces an answer. With `after_thinking`, the thinking of a correct trajectory stands between the prompt and the
stub.

`output_dir` gets `loss_landscape.parquet` (the loss of every question at every point), `loss_landscape.json` (mean
losses and the numbers that describe the surface, see `analysis.landscape.surface.describe`), `surface.svg` and
`page.html`. If a run is killed, the same command measures only the rows of the grid that are still missing. The
processes of a launch divide the rows among themselves.
"""

import logging
import time

from raml_trl.analysis.config import LossLandscapeConfig
from raml_trl.analysis.landscape.experiment import run_experiment
from raml_trl.analysis.landscape.results import format_number
from raml_trl.runtime.cli import run
from raml_trl.runtime.runs import UNFINISHED, Run

logger = logging.getLogger(__name__)


def main(config: LossLandscapeConfig, record: Run) -> None:
    """Measure the rows of the grid that belong to this process.

    The last process to finish writes the results and marks `record`, the run in `output_dir`, as complete.
    """
    summary = run_experiment(config, record, time.monotonic)
    if summary is None:
        logger.info(UNFINISHED)
        return
    for name, value in summary.numbers.items():
        logger.info("%-26s %s", name, format_number(value))


if __name__ == "__main__":
    run(main, LossLandscapeConfig, distributed=True)
