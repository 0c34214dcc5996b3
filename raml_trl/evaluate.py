r"""Draw n samples per question, grade them, and count: Pass@k, mG-Pass@k and maj@k with intervals.

    python -m raml_trl.evaluate --config recipes/tiny/demo/eval.yaml \
        --model_name_or_path runs/demo/sft --output_dir runs/demo/eval_sft

`output_dir` gets `samples.parquet`, every sample with its grade, and `metrics.json`, which follows from it: with
`--from_samples FILE` nothing is sampled, and the samples of an earlier run are counted again, for other k. Until the
end the samples lie in shards, so a run that is killed carries on; under `accelerate launch` processes share them.
`push_to_hub` sends the samples to the Hub with a card, of a run that was complete before as well.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from raml_trl.data.reading import open_data, stream_questions
from raml_trl.data.shards import SAMPLES, merge_shards
from raml_trl.evaluation.comparison import compare_runs, comparison_table, write_comparison
from raml_trl.evaluation.metrics import summarise
from raml_trl.evaluation.samples import read_samples
from raml_trl.evaluation.voting import number_answers
from raml_trl.grading.pool import GradingPool
from raml_trl.hub.card_parts import CARD, recipe, write_card
from raml_trl.hub.client import check_hub_access, push_dataset
from raml_trl.hub.completion_card import SAMPLES_FILE, samples_card
from raml_trl.hub.model_card import add_results
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import remove_partials, write_json
from raml_trl.runtime.runs import Run, is_complete, is_first_process, open_run
from raml_trl.runtime.trackers import check_tracker, report, run_group
from raml_trl.sampling.config import EvaluateConfig
from raml_trl.sampling.loading import check_model, shown_name
from raml_trl.sampling.sharded import Sample, sample_shards

logger = logging.getLogger(__name__)


def main(config: EvaluateConfig, record: Run) -> None:
    """Evaluate one model, or each of several and compare them."""
    check_tracker(config.report_to)
    if config.hub_dataset_id is not None and is_first_process():  # before hours of work
        check_hub_access(config.hub_dataset_id, private=config.hub_private)
    if not config.models:
        evaluate_one(config, record)
        return
    started = time.monotonic()
    directories: dict[str, Path] = {}
    for model in (config.model_name_or_path, *config.models):
        name = Path(model).name
        if name in directories:
            raise InputError(f"two models are named {name}: evaluate them into different output_dirs")
        directories[name] = record.directory / name
        one = replace(config, model_name_or_path=model, models=[], output_dir=str(directories[name]))
        settings = {name: value for name, value in asdict(one).items() if name != "output_dir"}
        of_one = open_run(directories[name], "evaluate", settings)
        if not of_one.complete:
            evaluate_one(one, of_one)
    if not all(is_complete(directory) for directory in directories.values()):
        logger.info("other processes still have shards to make: the last of them closes the run")
        return
    runs = {name: read_samples(directory / "samples.parquet") for name, directory in directories.items()}
    compared = compare_runs(runs, config.k, config.seed)
    write_comparison(record.directory, compared)
    record.writes = True
    record.finish(time.monotonic() - started, compared)
    logger.info("%s", comparison_table(compared))


def evaluate_one(config: EvaluateConfig, record: Run) -> None:
    """Sample, grade, count, write, report."""
    started = time.monotonic()
    shards: list[Path] = []
    if config.from_samples is not None:
        source = Path(config.from_samples)
    else:
        made = make_samples(config)
        if made is None:
            logger.info("other processes still have shards to make: the last of them closes the run")
            return
        shards, source = made, record.directory / SAMPLES_FILE
        merge_shards(shards, source, SAMPLES)
    metrics = count_samples(config, source)
    write_json(record.directory / "metrics.json", metrics)
    model = Path(config.model_name_or_path)
    if config.update_card and model.is_dir():
        add_results(
            model,
            dataset=shown_name(config.dataset_name),
            split=config.dataset_split,
            metrics=metrics["metrics"],
            samples=np.unique(metrics["samples_per_question"]).tolist(),
        )
    report(
        config.report_to,
        project=config.project,
        group=run_group(record.directory),
        name=f"{shown_name(config.model_name_or_path)} on {shown_name(config.dataset_name)}",
        settings={name: value for name, value in asdict(config).items() if name not in ("api_key_variable",)},
        metrics={name: value["mean"] for name, value in metrics["metrics"].items()},
    )
    record.writes = True  # whichever process of the launch this is, it is the last
    record.finish(time.monotonic() - started, metrics)
    for path in shards:
        path.unlink()
    remove_partials(record.directory)
    for name, value in metrics["metrics"].items():
        logger.info("%-12s %.3f [%.3f, %.3f]", name, value["mean"], value["low"], value["high"])


def publish(config: EvaluateConfig, record: Run) -> list[str]:
    """Push samples, metrics and a card, if asked to."""
    if config.hub_dataset_id is None:
        return []
    repo_id = check_hub_access(config.hub_dataset_id, private=config.hub_private).repo_id
    names = ("num_samples", "max_completion_length", "temperature", "top_p", "top_k", "seed", "prompt_style", "engine")
    results = record.record["results"]
    card = samples_card(
        repo_id,
        model=shown_name(config.model_name_or_path),
        data=f"{shown_name(config.dataset_name)}, {config.dataset_split}",
        settings={name: getattr(config, name) for name in names},
        questions=results["questions"],
        samples_per_question=results["samples_per_question"],
        metrics=results["metrics"],
        recipe=recipe(record.record["command"], record.record["settings"]),
    )
    write_card(record.directory / CARD, card)
    patterns, message = [CARD, SAMPLES_FILE, "metrics.json"], f"Samples of {shown_name(config.model_name_or_path)}"
    return [push_dataset(record.directory, repo_id, private=config.hub_private, patterns=patterns, message=message)]


def make_samples(config: EvaluateConfig) -> list[Path] | None:
    """The shards of all samples, or None if other processes are still at work on some."""
    if config.engine != "server":
        check_model(config.model_name_or_path)
    table = open_data(config)
    return sample_shards(
        config,
        lambda: islice(stream_questions(table), config.num_questions),
        config.num_samples,
        SAMPLES,
        sample_rows,
    )


def sample_rows(samples: Sequence[Sample], pool: GradingPool) -> Iterator[dict[str, Any]]:
    """One row a sample."""
    graded = [[(one.text, one.outcome) for one in own] for _, own in groupby(samples, lambda one: one.question)]
    votes = chain.from_iterable(number_answers(graded, pool))
    for sample, vote in zip(samples, votes, strict=True):
        yield {
            "question_id": sample.question.id,
            "sample": sample.number,
            "text": sample.text,
            "correct": sample.correct,
            "formatted": sample.formatted,
            "outcome": sample.outcome,
            "vote": vote,
            "num_tokens": sample.num_tokens,
            "finished": sample.finished,
        }


def count_samples(config: EvaluateConfig, source: Path) -> dict[str, Any]:
    """What `metrics.json` holds: a function of the samples, of k, the thresholds and the seed of the bootstrap.

    Raises:
        InputError: if the samples cannot be read, or a question has fewer than k.
    """
    samples = read_samples(source)
    n, correct = samples.n, samples.correct
    if max(config.k) > n.min():
        raise InputError(f"samples {source}: k = {max(config.k)}, but a question has only {n.min()} samples")
    return {
        "questions": len(n),
        "samples_per_question": int(n[0]) if n.min() == n.max() else [int(n.min()), int(n.max())],
        "formatted": samples.formatted,
        "mean_tokens": samples.mean_tokens,
        "outcomes": samples.outcomes,
        "metrics": summarise(
            correct,
            n,
            config.k,
            np.random.default_rng(config.seed),
            thresholds=config.g_pass_thresholds,
            votes=samples.votes,
        ),
    }


if __name__ == "__main__":
    run(main, EvaluateConfig, distributed=True, publish=publish)
