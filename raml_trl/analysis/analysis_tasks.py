"""What the analyses look at: questions with their trajectories, from a rollout data set or drawn here."""

import logging
from dataclasses import replace
from functools import partial
from itertools import islice

from raml_trl.analysis.config import AnalysisArguments
from raml_trl.data.reading import open_data, stream_questions, stream_tasks
from raml_trl.data.records import Task
from raml_trl.data.shards import TRAJECTORIES, read_shards
from raml_trl.data.tables import DataTable
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.loading import shown_name
from raml_trl.sampling.sharded import sample_shards, trajectory_rows

logger = logging.getLogger(__name__)


def read_or_sample(config: AnalysisArguments, *, opening: str = "") -> list[Task] | None:
    """The first `num_questions` questions, each with its first `num_trajectories` trajectories, right and wrong.

    Trajectories that are sampled are graded and stay in `output_dir` as shards, so that a run which is killed carries
    on; under `accelerate launch` processes share them.

    Args:
        config: which, and what to sample with.
        opening: what every trajectory is to begin with: then they are drawn, whatever the data set holds.

    Returns:
        Them, or None if other processes are still sampling.

    Raises:
        InputError: if the data cannot be read, or some of its questions have no trajectory and others do.
    """
    table = open_data(config)
    tasks = list(islice(stream_tasks(table), config.num_questions))
    counts = [len(task.trajectories) for task in tasks]
    if opening or not any(counts):
        logger.info("%d trajectories are sampled for every question of %s", config.num_trajectories, table.name)
        paths = sample_shards(
            config,
            lambda: islice(stream_questions(table), config.num_questions),
            config.num_trajectories,
            TRAJECTORIES,
            trajectory_rows(shown_name(config.model_name_or_path)),
            opening=opening,
        )
        if paths is None:
            return None
        tasks = list(stream_tasks(DataTable(config.output_dir, partial(read_shards, paths), "", checked=True)))
    elif not all(counts):
        lacking = [task.question.id for task in tasks if not task.trajectories]
        raise InputError(f"{table.name}: {len(lacking)} questions have no trajectory, first {lacking[0]}")
    return [replace(task, trajectories=task.trajectories[: config.num_trajectories]) for task in tasks]
