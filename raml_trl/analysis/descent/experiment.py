"""Runs the experiment of `pseudo_gradient`: measures curves part by part, summarises them, and writes the results.

A curve is the loss of the answer along a trajectory. A part is a group of questions, whose curves are kept in one file.
A killed run resumes with the missing parts. The processes of `accelerate launch` divide the parts among themselves, and
each measures the trajectories that it has sampled itself, so none waits for another. The process that finds all parts
complete writes the results.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raml_trl.analysis.config import PseudoGradientConfig
from raml_trl.analysis.descent.curves import Mode, summarise_descent, summarise_modes
from raml_trl.analysis.descent.measure import SCHEMA, MeasuredTrajectory, measure_curves
from raml_trl.analysis.descent.prediction import predict_correctness
from raml_trl.analysis.descent.results import Summary, write_figures_and_page
from raml_trl.analysis.descent.token_effects import compare_groups, effects
from raml_trl.analysis.trajectories import read_or_sample
from raml_trl.data.records import Task
from raml_trl.data.shards import all_written, missing_shards
from raml_trl.prompts import NO_THINKING
from raml_trl.runtime.files import whole_file, write_json, write_rows
from raml_trl.runtime.progress import progress_bar
from raml_trl.runtime.runs import Run, process_share, require_directory
from raml_trl.sampling.loading import check_model, load_model, shown_name

_WITHOUT = "no_thinking"  # subdirectory of the trajectories that are sampled without thinking


def run_experiment(config: PseudoGradientConfig, record: Run, clock: Callable[[], float]) -> Summary | None:
    """Measure the curves that belong to this process, and write the results once all curves are measured.

    The results are written to `record.directory`. `clock` returns seconds; the difference of two of its values is
    recorded as the time of the run.

    Returns:
        The summary, or None if other processes are still at work, or have already written the results.
    """
    started = clock()
    check_model(config.model_name_or_path)
    parts = measure_parts(config)
    if parts is None:
        return None
    with record.completing() as chosen:
        return close_run(config, record, parts, lambda: clock() - started) if chosen else None


def close_run(
    config: PseudoGradientConfig, record: Run, parts: Sequence[Path], seconds: Callable[[], float]
) -> Summary:
    """Join the curves of all parts, summarise them, write the results, and mark the run complete.

    `parts` are the files of all parts. `seconds` returns how long the run has taken.
    """
    table = pa.concat_tables([pq.read_table(path) for path in parts])
    with whole_file(record.directory / "curves.parquet") as partial:
        pq.write_table(table, partial)
    rows = [MeasuredTrajectory(**row) for row in table.to_pylist()]
    summary = summarise(rows, config)
    content = summary.as_json()
    write_json(record.directory / "pseudo_gradient.json", content)
    write_figures_and_page(record.directory, rows, summary, num_shown=config.num_shown)
    record.finish(seconds(), content)
    for path in parts:
        path.unlink()
    return summary


def measure_parts(config: PseudoGradientConfig) -> list[Path] | None:
    """Compute the curves of the parts that have no file yet and belong to this process, and write one file per part.

    A part is a group of questions.

    Returns:
        The files of all parts, or None if other processes are still sampling or measuring.
    """
    share = rank, num_processes = process_share()
    chunks: dict[Mode, list[list[Task]]] = {"thinking": read_or_sample(config, share=share)}
    if config.no_thinking != "none":
        without = replace(config, output_dir=str(Path(config.output_dir) / _WITHOUT))
        chunks["no_thinking"] = read_or_sample(without, opening=NO_THINKING[config.no_thinking], share=share)
    paths: list[Path] = []
    own: dict[Path, tuple[Mode, Sequence[Task]]] = {}
    for mode, of_mode in chunks.items():
        for number, chunk in enumerate(of_mode):
            first = number * config.questions_per_shard
            paths.append(path := Path(config.output_dir) / f"curves-{mode}-{first:05d}.parquet")
            if number % num_processes == rank:
                own[path] = (mode, chunk)
    missing = {path: own[path] for path in missing_shards(list(own))}
    if missing:
        model, tokenizer = load_model(config.model_name_or_path, dtype=config.dtype, all_devices=config.all_devices)
        total = sum(len(task.trajectories) for _, part in missing.values() for task in part)
        with progress_bar(total, "curves", "trajectory") as bar:
            for path, (mode, part) in missing.items():
                rows = []
                for row in measure_curves(model, tokenizer, mode, part, config):
                    rows.append(vars(row))
                    bar.update()
                require_directory(path.parent)
                write_rows(path, rows, SCHEMA)
    return paths if all_written(paths, list(own)) else None


def summarise(rows: Sequence[MeasuredTrajectory], config: PseudoGradientConfig) -> Summary:
    """Return the content of `pseudo_gradient.json`, computed from the measured trajectories `rows`.

    It has averages over trajectories, their descent (the fall of the loss of the answer along the thinking), the
    effects of single tokens, and how well the loss predicts which trajectories are right.
    """
    curves, rng = [row.curve for row in rows], np.random.default_rng(config.seed)
    measured = [
        effects(row.question_id, row.text, row.ends, curve.nll, curve.start, curve.last, config.window)
        for row, curve in zip(rows, curves, strict=True)
        if curve.mode == "thinking"
    ]
    # The following calls share one random generator, so their order affects the intervals.
    return Summary(
        model=shown_name(config.model_name_or_path),
        modes=summarise_modes(curves, rng),
        descent=summarise_descent(curves, rng),
        descent_by_sentence=summarise_descent(curves, rng, by_sentence=True),
        token_effects=compare_groups([row for row in measured if len(row.values)], rng),
        window=config.window,
        prediction=predict_correctness(curves, rng),
    )
