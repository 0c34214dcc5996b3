"""Runs the experiment of `trajectory_pruning`: shortens trajectories, forces answers, and compares the methods.

To force an answer is to make the model answer directly after the shortened thinking (see `answers`). The work is done
in chunks of questions. The rows of a chunk are kept in a shard until all chunks are complete. A killed run resumes with
the missing chunks.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from raml_trl.analysis.config import TrajectoryPruningConfig
from raml_trl.analysis.pruning.answers import MethodOutcome, PrunedTrajectory, prune_and_answer, still_correct
from raml_trl.analysis.pruning.frontier import MethodSummary, compare_methods, frontier_figure
from raml_trl.analysis.pruning.prune import Tools, check_summaries
from raml_trl.analysis.pruning.thinking import Thinking, find_thinking
from raml_trl.analysis.trajectories import THINKING, read_or_sample, tokenise
from raml_trl.data.records import Task, Trajectory, task_row
from raml_trl.data.shards import (
    PRUNED,
    TRAJECTORIES,
    is_complete_shard,
    merge_shards,
    read_shards,
    shard_path,
    write_shard,
    write_shards,
)
from raml_trl.grading.pool import GradingPool
from raml_trl.render.html import write_page
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.runs import Run, require_directory
from raml_trl.sampling.engine import Engine, SamplingSettings
from raml_trl.sampling.loading import check_chat, load_model, load_tokenizer, open_engine, shown_name
from raml_trl.sampling.sharded import shard_seed
from raml_trl.sampling.transformers_engine import TransformersEngine

logger = logging.getLogger(__name__)

_EXAMPLES = 4  # questions whose first trajectory the page shows under every method


def run_experiment(config: TrajectoryPruningConfig, record: Run, clock: Callable[[], float]) -> list[MethodSummary]:
    """Shorten the trajectories with every method, compare the methods, and return a summary of each method.

    The results are written to `record.directory`, and for each method a dataset of the shortened trajectories that led
    to a correct answer. `clock` returns seconds; the difference of two of its values is recorded as the time of the
    run.

    Raises:
        InputError: if every trajectory is empty, or a model cannot be loaded or cannot read the request for a summary.
    """
    started = clock()
    name = config.model_name_or_path
    check_chat(load_tokenizer(name), config.prompt_style, name, pads=True)
    chunks = read_or_sample(config)
    tasks = [task for chunk in chunks for task in chunk]
    trajectories = list(_written(tasks))
    if not trajectories:
        raise InputError(
            f"{config.dataset_name}: every trajectory is empty: give a dataset whose trajectories have text"
        )
    left_out = sum(len(task.trajectories) for task in tasks) - len(trajectories)
    if left_out:
        logger.warning("%s: left out %d empty trajectories", config.dataset_name, left_out)
    paths = [shard_path(record.directory, PRUNED, number) for number in range(len(chunks))]
    missing = {number: path for number, path in enumerate(paths) if not is_complete_shard(path)}
    if missing:
        fill_chunks(config, chunks, missing)
    merge_shards(paths, record.directory / "pruned.parquet", PRUNED)

    columns = [field.name for field in fields(MethodOutcome)]
    methods = compare_methods([MethodOutcome(**row) for row in read_shards(paths, columns)], config.seed)
    results = {
        "questions": len(tasks),
        "trajectories": len(trajectories),
        "left_out": left_out,
        "correct_as_sampled": sum(trajectory.correct for trajectory in trajectories) / len(trajectories),
        "methods": [method.as_json() for method in methods],
    }
    write_json(record.directory / "trajectory_pruning.json", results)
    with whole_file(record.directory / "frontier.svg") as partial:
        partial.write_text(frontier_figure(methods), encoding="utf-8")
    write_page(record.directory / "page.html", "trajectory_pruning", page_content(config, tasks, methods, paths))
    for method in config.parsed_methods:
        directory = record.directory / f"data_{method.name.replace(':', '_')}"
        if not write_shards(directory, map(task_row, still_correct(tasks, method, paths)), TRAJECTORIES):
            logger.warning("%s leaves no trajectory with a correct answer: %s is not written", method.name, directory)
    record.finish(clock() - started, results)
    for path in paths:
        path.unlink()
    return methods


def fill_chunks(config: TrajectoryPruningConfig, chunks: Sequence[Sequence[Task]], missing: Mapping[int, Path]) -> None:
    """Shorten the trajectories of the missing chunks, force an answer after each, and write one shard per chunk.

    `missing` maps the number of a chunk to the path of its shard.
    """
    tools = load_tools(config)
    methods = config.parsed_methods
    total = len(methods) * sum(1 for number in missing for _ in _written(chunks[number]))
    with tqdm(total=total, desc="pruning", unit="trajectory") as bar, GradingPool(config.num_graders) as pool:
        for number, path in missing.items():
            thinkings = _thinkings(config, tools.tokenizer, chunks[number])
            rows: list[PrunedTrajectory] = []
            for method in methods:
                bar.set_postfix_str(method.name)
                seed = shard_seed(config.seed, number)
                rows += prune_and_answer(config, method, thinkings, tools, pool, seed=seed)
                bar.update(len(thinkings))
            require_directory(path.parent)
            write_shard(path, map(vars, rows), PRUNED, {})


def load_tools(config: TrajectoryPruningConfig) -> Tools:
    """Load the model, and the summariser if a method needs it.

    Raises:
        InputError: if a model cannot be loaded, or the summariser's tokenizer lacks the words of the request for a
            summary.
    """
    model, tokenizer = load_model(config.model_name_or_path, dtype=config.dtype, all_devices=config.all_devices)
    summaries = any(method.kind == "summary" for method in config.parsed_methods)
    return Tools(
        model,
        tokenizer,
        config.tokens_per_pass,
        max_drops=config.max_drops,
        summariser=open_summariser(config, model, tokenizer) if summaries else None,
        summary_settings=SamplingSettings(
            num_samples=1,
            max_completion_length=config.max_summary_length,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
        ),
        max_summary_input=config.max_summary_input,
    )


def open_summariser(
    config: TrajectoryPruningConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Engine:
    """Open the engine that writes summaries: the model itself, or the `summariser` of the config.

    Raises:
        InputError: if the engine cannot be loaded, or its tokenizer lacks the words of the request for a summary.
    """
    engine: Engine
    if config.engine == "transformers" and config.summariser is None:
        engine = TransformersEngine(model, tokenizer, config.batch_size)
    else:
        engine = open_engine(replace(config, model_name_or_path=config.summariser or config.model_name_or_path))
    if isinstance(engine, TransformersEngine):
        check_summaries(engine.tokenizer)
    return engine


def page_content(
    config: TrajectoryPruningConfig, tasks: Sequence[Task], methods: Sequence[MethodSummary], paths: Sequence[Path]
) -> dict[str, object]:
    """Return the content of `page.html`: the methods, and examples of trajectories as each method shortened them.

    The examples are the first trajectories of the first questions.
    """
    shown = {task.question.id: task for task in tasks[:_EXAMPLES]}
    columns = ("name", "setting", "tokens", "accuracy", "leaked", "n", "frontier")
    rows = (PrunedTrajectory(**row) for row in read_shards(paths[:_EXAMPLES]))
    return {
        "title": "Trajectory pruning: how much of a trajectory is needed",
        "lead": f"Trajectories for {len(tasks)} questions of {shown_name(config.dataset_name)}, shortened in "
        f"{len(methods)} ways; from what is left the answer is forced, and decoded greedily. curve and drop_sentence "
        "know the reference answer. Intervals are 95 %, over questions.",
        "model": shown_name(config.model_name_or_path),
        "methods": [{name: content[name] for name in columns} for content in map(MethodSummary.as_json, methods)],
        "examples": [
            {
                "question": shown[row.question_id].question.question,
                "answer": shown[row.question_id].question.answer,
                "before": shown[row.question_id].trajectories[0].text,
                "after": row.text,
                "method": row.method,
                "setting": row.setting,
                "tokens_before": row.tokens_before,
                "tokens_after": row.tokens_after,
                "correct": row.correct,
                "leaked": row.leaked,
            }
            for row in rows
            if row.question_id in shown and row.number == 0
        ],
    }


def _thinkings(
    config: TrajectoryPruningConfig, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task]
) -> list[Thinking]:
    """Find the thinking of every trajectory that has text."""
    tokens = [
        tokenise(tokenizer, task.question, number, trajectory, config.prompt_style)
        for task in tasks
        for number, trajectory in enumerate(task.trajectories)
        if not _is_empty(trajectory)
    ]
    return [find_thinking(tokenizer, trajectory, config.answer_stub) for trajectory in tokens]


def _written(tasks: Iterable[Task]) -> Iterable[Trajectory]:
    """Yield the trajectories that have text."""
    return (trajectory for task in tasks for trajectory in task.trajectories if not _is_empty(trajectory))


def _is_empty(trajectory: Trajectory) -> bool:
    return trajectory.text.strip() in ("", THINKING)
