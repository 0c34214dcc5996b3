r"""Samples trajectories for each question from a teacher model, grades them, and writes them as Parquet shards.

    raml-trl sample_trajectories recipes/tiny/demo/sample.yaml
    accelerate launch --config_file accelerate_configs/ddp.yaml \
        -m raml_trl.sample_trajectories --config recipes/qwen2.5-7b/sample_distill_14b.yaml

A shard is a file with the trajectories of some of the questions. Each process of the launch writes its share of the
shards and never waits for another process. A shard appears on disk only once it is complete. If the command was
interrupted, the same command, on any number of processes, writes the missing shards, with the same content as without
the interruption. The process that finishes last writes the card and marks the run as complete. `output_dir` is then a
dataset for `train_sft`, in the format of the RaML paper's rollout datasets. `push_to_hub` uploads the dataset and the
card, even if the run was already complete.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from raml_trl.data.reading import open_data, stream_questions
from raml_trl.data.shards import TRAJECTORIES, read_shards
from raml_trl.hub.card_parts import CARD, NO_REPO, write_card
from raml_trl.hub.client import check_hub_access, push_dataset
from raml_trl.hub.trajectory_card import SHARDS, Counts, trajectories_card
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import count_of
from raml_trl.runtime.runs import UNFINISHED, Run, is_first_process
from raml_trl.sampling.config import SampleTrajectoriesConfig
from raml_trl.sampling.loading import check_model, shown_name
from raml_trl.sampling.preview import preview_sampling
from raml_trl.sampling.sharded import add_notes, sample_shards, trajectory_rows
from raml_trl.sampling.vllm_engine import check_vllm

logger = logging.getLogger(__name__)


def main(config: SampleTrajectoriesConfig, record: Run) -> None:
    """Write the shards that belong to this process, and complete the run if no shard of any process is missing.

    `record` is the run in `output_dir`.
    """
    started = time.monotonic()
    if config.engine != "server":
        check_model(config.model_name_or_path)
    if config.engine == "vllm":
        check_vllm()
    table = open_data(config)
    if config.hub_dataset_id is not None and is_first_process():  # fail now rather than after sampling
        check_hub_access(config.hub_dataset_id, private=config.hub_private)
    paths = sample_shards(
        config,
        lambda: islice(stream_questions(table), config.num_questions),
        config.num_trajectories,
        TRAJECTORIES,
        trajectory_rows(shown_name(config.model_name_or_path)),
    )
    if paths is None:
        logger.info(UNFINISHED)
        return
    with record.completing() as chosen:
        if chosen:
            close_run(config, record, paths, time.monotonic() - started)
        else:
            logger.info(UNFINISHED)


def preview(config: SampleTrajectoriesConfig) -> Iterator[dict[str, str]]:
    """Check the settings, the model and the data, and yield texts that describe the sampling, for a dry run."""
    yield from preview_sampling(config, config.num_trajectories)


def close_run(config: SampleTrajectoriesConfig, record: Run, paths: Sequence[Path], seconds: float) -> None:
    """Count the trajectories of all shards, write the dataset card, and complete the run.

    `record` is the run in `output_dir`, `paths` are the files of all shards, and `seconds` is the time since this
    command started.
    """
    counts = count_trajectories(paths)
    correct, total = counts.correct, counts.total
    write_card(record.directory / CARD, make_card(config, NO_REPO, counts))
    results = {
        "questions": len(total),
        "trajectories": sum(total),
        "correct_trajectories": sum(correct),
        "questions_with_a_correct_one": sum(map(bool, correct)),
        "outcomes": counts.outcomes,
        "finished": counts.finished,
        "tokens": counts.num_tokens,
        "shards": len(paths),
    }
    record.finish(seconds, results)
    logger.info(
        "%s: %s, %s of them correct, of %s; %s have a correct one",
        record.directory,
        count_of(sum(total), "trajectory", "trajectories"),
        f"{sum(correct):,}",
        count_of(len(total), "question"),
        f"{sum(map(bool, correct)):,}",
    )


def publish(config: SampleTrajectoriesConfig, record: Run) -> list[str]:
    """Push the shards and a card to the Hub if `hub_dataset_id` is set; return the URL of the push, if any."""
    if config.hub_dataset_id is None:
        return []
    repo_id = check_hub_access(config.hub_dataset_id, private=config.hub_private).repo_id
    counts = count_trajectories(sorted(record.directory.glob(SHARDS)))
    write_card(record.directory / CARD, make_card(config, repo_id, counts))
    message = f"{config.num_trajectories} trajectories of {shown_name(config.model_name_or_path)} per question"
    return [
        push_dataset(record.directory, repo_id, private=config.hub_private, patterns=[CARD, SHARDS], message=message)
    ]


def count_trajectories(paths: Sequence[Path]) -> Counts:
    """Return the numbers of questions and trajectories in the shards `paths`."""
    notes = add_notes(paths)
    sources: Counter[str] = Counter()
    correct, total = [], []
    for row in read_shards(paths, columns=["source", "labels"]):
        sources[row["source"]] += 1
        correct.append(sum(row["labels"]))
        total.append(len(row["labels"]))
    return Counts(correct, total, notes["finished"], notes["tokens"], sources, notes["outcomes"])


def make_card(config: SampleTrajectoriesConfig, repo_id: str, counts: Counts) -> str:
    """Return the card (README.md) of the dataset `repo_id`.

    The card states the sampling settings of `config`, and the `counts` of trajectories and tokens in the dataset.
    """
    names = ("num_trajectories", "max_completion_length", "temperature", "top_p", "top_k", "seed", "prompt_style")
    return trajectories_card(
        repo_id,
        model=shown_name(config.model_name_or_path),
        engine=config.engine,
        settings={name: getattr(config, name) for name in names},
        counts=counts,
    )


if __name__ == "__main__":
    run(main, SampleTrajectoriesConfig, distributed=True, publish=publish, preview=preview)
