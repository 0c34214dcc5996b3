"""Runs the experiment of `pseudo_gradient`: measures curves part by part, summarises them, and writes the results.

A curve is the loss of the answer along a trajectory. A part is a group of questions, whose curves are kept in one file.
A killed run resumes with the missing parts. The processes of `accelerate launch` divide the parts among themselves. The
process that finds all parts complete writes the results.
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
from raml_trl.prompts import NO_THINKING
from raml_trl.runtime.files import remove_partials, whole_file, write_json, write_rows
from raml_trl.runtime.progress import progress_bar
from raml_trl.runtime.runs import Run, all_written, process_share, require_directory
from raml_trl.sampling.loading import check_model, load_model, shown_name

_WITHOUT = "no_thinking"  # subdirectory of the trajectories that are sampled without thinking


def run_experiment(config: PseudoGradientConfig, record: Run, clock: Callable[[], float]) -> Summary | None:
    """Measure the curves that belong to this process, and write the results once all curves are measured.

    The results are written to `record.directory`. `clock` returns the time in seconds.

    Returns:
        The summary, or None if other processes are still sampling or measuring.
    """
    started = clock()
    check_model(config.model_name_or_path)
    parts = measure_parts(config)
    if parts is None:
        return None
    table = pa.concat_tables([pq.read_table(path) for path in parts])
    with whole_file(record.directory / "curves.parquet") as partial:
        pq.write_table(table, partial)
    rows = [MeasuredTrajectory(**row) for row in table.to_pylist()]
    summary = summarise(rows, config)
    content = summary.as_json()
    write_json(record.directory / "pseudo_gradient.json", content)
    write_figures_and_page(record.directory, rows, summary, num_shown=config.num_shown)
    record.writes = True  # the process that finishes last writes the results, whichever it is
    record.finish(clock() - started, content)
    for path in parts:
        path.unlink()
    remove_partials(record.directory)
    return summary


def measure_parts(config: PseudoGradientConfig) -> list[Path] | None:
    """Compute the curves of the parts that have no file yet and belong to this process, and write one file per part.

    A part is a group of questions.

    Returns:
        The files of all parts, or None if other processes are still sampling or measuring.
    """
    tasks_by_mode: dict[Mode, list[Task] | None] = {"thinking": read_or_sample(config)}
    if config.no_thinking != "none":
        without = replace(config, output_dir=str(Path(config.output_dir) / _WITHOUT))
        tasks_by_mode["no_thinking"] = read_or_sample(without, opening=NO_THINKING[config.no_thinking])
    parts: dict[Path, tuple[Mode, Sequence[Task]]] = {}
    for mode, tasks in tasks_by_mode.items():
        if tasks is None:
            return None
        for first in range(0, len(tasks), config.questions_per_shard):
            path = Path(config.output_dir) / f"curves-{mode}-{first:05d}.parquet"
            parts[path] = (mode, tasks[first : first + config.questions_per_shard])
    index, num_processes = process_share()
    missing = {path: parts[path] for path in list(parts)[index::num_processes] if not path.exists()}
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
    return list(parts) if all_written(list(parts), list(parts)[index::num_processes]) else None


def summarise(rows: Sequence[MeasuredTrajectory], config: PseudoGradientConfig) -> Summary:
    """Summarise measured trajectories: averages of each mode, descent, and effects of the tokens of the thinking."""
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
