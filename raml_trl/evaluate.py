r"""Draws n samples per question, grades them and computes Pass@k, mG-Pass@k and maj@k with confidence intervals.

    raml-trl evaluate recipes/tiny/demo/eval.yaml \
        --model_name_or_path runs/demo/sft --output_dir runs/demo/eval_sft

`output_dir` gets `samples.parquet`, with every sample and its grade, and `metrics.json`, which is computed from
`samples.parquet`. `docs/evaluation.md` defines the metrics. With `--from_samples FILE` nothing is sampled: the metrics
are computed from the samples of an earlier run, for example for other values of k.

Until all samples are drawn, they are kept in shards, files that each hold the samples of some of the questions. A
killed run therefore resumes with the missing shards. The processes of `accelerate launch` divide the shards among
themselves. `push_to_hub` uploads the samples with a card, and `update_card` writes the metrics into the card of the
model, even if the run was already complete.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np

from raml_trl.data.reading import open_data, stream_questions
from raml_trl.data.shards import SAMPLES, merge_shards
from raml_trl.evaluation.comparison import compare_runs, comparison_table, write_comparison
from raml_trl.evaluation.samples import read_samples, sample_metrics
from raml_trl.evaluation.voting import number_answers
from raml_trl.grading.pool import GradingPool
from raml_trl.hub.card_parts import CARD, recipe, write_card
from raml_trl.hub.client import check_hub_access, push_dataset
from raml_trl.hub.completion_card import SAMPLES_FILE, samples_card
from raml_trl.hub.model_card import add_results
from raml_trl.render.tables import bounded
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import write_json
from raml_trl.runtime.local_names import nothing_at
from raml_trl.runtime.locks import locked
from raml_trl.runtime.runs import UNFINISHED, Run, complete_record, is_complete, is_first_process, open_run
from raml_trl.runtime.trackers import check_tracker, report, run_group
from raml_trl.sampling.config import EvaluateConfig
from raml_trl.sampling.loading import check_chat, check_model, load_tokenizer, open_engine, shown_name
from raml_trl.sampling.preview import preview_sampling
from raml_trl.sampling.sharded import Sample, sample_shards
from raml_trl.sampling.vllm_engine import check_vllm

logger = logging.getLogger(__name__)


def main(config: EvaluateConfig, record: Run) -> None:
    """Evaluate `model_name_or_path`; if `models` names further models, evaluate these too and compare them with it."""
    if config.from_samples is None:
        check_models(config, record)
    check_tracker(config.report_to)
    if config.hub_dataset_id is not None and is_first_process():  # fail now rather than after hours of sampling
        check_hub_access(config.hub_dataset_id, private=config.hub_private)
    if config.models:
        evaluate_models(config, record)
    else:
        evaluate_model(config, record)


def preview(config: EvaluateConfig) -> Iterator[dict[str, str]]:
    """Check the settings, the model and the data, and yield the lines that describe the evaluation, for a dry run."""
    if config.models:
        yield {"further models": ", ".join(config.models)}
    if config.from_samples is None:
        yield from preview_sampling(config, config.num_samples, tracker=config.report_to)
        return
    check_tracker(config.report_to)
    if not Path(config.from_samples).is_file():
        raise InputError(f"from_samples {config.from_samples}: {nothing_at(Path(config.from_samples))}")
    yield {"samples": config.from_samples}


def check_models(config: EvaluateConfig, record: Run) -> None:
    """Check, before the first evaluation, that all models without a complete evaluation can be evaluated.

    Raises:
        InputError: if a model is not found, lacks a pad token or a chat template for the prompts, or is not offered by
            the server.
    """
    if config.engine == "vllm":
        check_vllm()
    for name in (config.model_name_or_path, *config.models):
        if config.models and is_complete(record.directory / Path(name).name):
            continue
        if config.engine != "server":
            check_chat(load_tokenizer(name), config.prompt_style, name, pads=config.engine == "transformers")
        elif config.models:
            open_engine(replace(config, model_name_or_path=name))


def evaluate_models(config: EvaluateConfig, record: Run) -> None:
    """Evaluate each model in a directory of its own, and compare the other models with the first.

    A model whose evaluation is complete is not evaluated again. Nothing is compared while another process is still at
    work on an evaluation; one of the processes compares at the end.
    """
    started = time.monotonic()
    directories: dict[str, Path] = {}
    for model in (config.model_name_or_path, *config.models):
        name = Path(model).name
        if name in directories:
            raise InputError(f"two models are named {name}: evaluate them into different output_dirs")
        directories[name] = record.directory / name
        model_config = replace(config, model_name_or_path=model, models=[], output_dir=str(directories[name]))
        settings = {name: value for name, value in asdict(model_config).items() if name != "output_dir"}
        model_record = open_run(directories[name], "evaluate", settings)
        if not model_record.complete:
            try:
                evaluate_model(model_config, model_record)
            except InputError:
                model_record.discard()
                raise
    if not all(is_complete(directory) for directory in directories.values()):
        logger.info(UNFINISHED)
        return
    with record.completing() as chosen:
        if chosen:
            runs = {name: read_samples(directory / SAMPLES_FILE) for name, directory in directories.items()}
            compared = compare_runs(runs, config.k, config.seed)
            write_comparison(record.directory, compared)
            record.finish(time.monotonic() - started, compared)
            logger.info("%s", comparison_table(compared))
        else:
            logger.info(UNFINISHED)


def evaluate_model(config: EvaluateConfig, record: Run) -> None:
    """Sample and grade completions of one model, and complete the run if all shards are there.

    Otherwise other processes are still sampling, and one of them completes the run.
    """
    started = time.monotonic()
    shards = [] if config.from_samples is not None else draw_shards(config)
    if shards is None:
        logger.info(UNFINISHED)
        return
    with record.completing() as chosen:
        if chosen:
            close_run(config, record, shards, started)
        else:
            logger.info(UNFINISHED)


def close_run(config: EvaluateConfig, record: Run, shards: Sequence[Path], started: float) -> None:
    """Merge the shards, compute the metrics, write and report them, and mark the run complete.

    `shards` are the files of all shards, and empty with `from_samples`. `started` is the time when this process
    began the run.
    """
    if config.from_samples is not None:
        source = Path(config.from_samples)
    else:
        source = record.directory / SAMPLES_FILE
        merge_shards(shards, source, SAMPLES)
    rng = np.random.default_rng(config.seed)
    results = sample_metrics(source, config.k, rng, thresholds=config.g_pass_thresholds)
    write_json(record.directory / "metrics.json", results)
    report(
        config.report_to,
        project=config.project,
        group=run_group(record.directory),
        name=f"{shown_name(config.model_name_or_path)} on {shown_name(config.dataset_name)}",
        settings={name: value for name, value in asdict(config).items() if name not in ("api_key_variable",)},
        metrics={name: value["mean"] for name, value in results["metrics"].items()},
    )
    record.finish(time.monotonic() - started, results)
    for path in shards:
        path.unlink()
    for name, value in results["metrics"].items():
        logger.info("%-12s %s", name, bounded(value["mean"], value["low"], value["high"]))


def publish(config: EvaluateConfig, record: Run) -> list[str]:
    """Write the metrics into the cards of the models, and push samples, metrics and a card, as far as is asked for.

    Returns:
        The URL of the push, if any.
    """
    if config.update_card:
        for model in (config.model_name_or_path, *config.models):
            directory = record.directory / Path(model).name if config.models else record.directory
            update_card(config, Path(model), directory)
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


def update_card(config: EvaluateConfig, model: Path, directory: Path) -> None:
    """Write the metrics of the complete evaluation in `directory` into the card of `model`, if it is a directory.

    Raises:
        InputError: if the card cannot be read or written.
    """
    if not model.is_dir():
        return
    results = complete_record(str(directory), "evaluate")["results"]
    try:
        with locked(model, "wait"):  # another evaluation may be updating the card
            add_results(
                model,
                dataset=shown_name(config.dataset_name),
                split=config.dataset_split,
                metrics=results["metrics"],
                samples=np.unique(results["samples_per_question"]).tolist(),
            )
    except InputError as error:
        raise InputError(
            f"update_card: {error}; the evaluation itself is complete, so run the same command again to write the card"
        ) from error


def draw_shards(config: EvaluateConfig) -> list[Path] | None:
    """Draw and grade the samples of the shards that have no file yet and belong to this process.

    Returns:
        The paths of all shards, or None if other processes are still sampling.
    """
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


def sample_rows(samples: Sequence[Sample], pool: GradingPool) -> Iterator[dict[str, object]]:
    """Yield a row of `samples.parquet` for each sample.

    `samples` must be sorted by question. `pool` compares the answers to a question; samples with equal answers have the
    same number in the column `vote`.
    """
    by_question = groupby(samples, lambda sample: sample.question)
    graded = [[(sample.text, sample.outcome) for sample in question_samples] for _, question_samples in by_question]
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


if __name__ == "__main__":
    run(main, EvaluateConfig, distributed=True, publish=publish, preview=preview)
