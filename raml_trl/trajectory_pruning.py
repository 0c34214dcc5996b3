r"""How much of its trajectories a model needs: shorten them in several ways, force the answers, and count.

    python -m raml_trl.trajectory_pruning --config recipes/tiny/analysis/trajectory_pruning.yaml

`output_dir` gets `pruned.parquet`, every trajectory as every method left it; `trajectory_pruning.json`, accuracy and
tokens of the methods with intervals over questions and paired differences to the whole trajectories; `frontier.svg` and
`page.html`; and for each method `data_METHOD`, the shortened trajectories whose answer is still correct, a data set for
`train_sft`. Questions are worked on some at a time, and what is done with is kept: a run that is killed carries on.

The answers of `none`, too, are forced and greedy, so that methods differ in what is left of the thinking alone. `curve`
and `drop_sentence` know the reference answer: they show how short a trajectory could be, not how to make it so.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from raml_trl.analysis.analysis_tasks import read_or_sample
from raml_trl.analysis.config import TrajectoryPruningConfig
from raml_trl.analysis.pruning.frontier import compare_methods, frontier_figure, methods_table
from raml_trl.analysis.pruning.prune import Tools, check_summaries
from raml_trl.analysis.pruning.pruned_rows import pruned_rows, still_correct
from raml_trl.analysis.pruning.thinking import find_thinking
from raml_trl.analysis.trajectories import THINKING, tokenise
from raml_trl.data.records import Task, Trajectory
from raml_trl.data.shards import (
    PRUNED,
    TRAJECTORIES,
    is_whole,
    merge_shards,
    read_shards,
    shard_path,
    write_shard,
    write_shards,
)
from raml_trl.grading.pool import GradingPool
from raml_trl.render.html import write_page
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import remove_partials, whole_file, write_json
from raml_trl.runtime.runs import Run
from raml_trl.sampling.engine import Engine, SamplingSettings
from raml_trl.sampling.loading import check_model, load_model, open_engine, shown_name
from raml_trl.sampling.sharded import shard_seed
from raml_trl.sampling.transformers_engine import TransformersEngine

logger = logging.getLogger(__name__)

_EXAMPLES = 4
_SHOWN = ("name", "setting", "tokens", "accuracy", "leaked", "n", "frontier")


def main(config: TrajectoryPruningConfig, record: Run) -> None:
    """Prune, chunk by chunk; then count, draw, and write what there is to train on."""
    started = time.monotonic()
    check_model(config.model_name_or_path)
    tasks = read_or_sample(config)
    if tasks is None:
        logger.info("other processes still have trajectories to sample")
        return
    trajectories = [one for task in tasks for one in task.trajectories if not _is_empty(one)]
    if not trajectories:
        raise InputError(f"{config.dataset_name}: no trajectory has any text: there is nothing to prune")
    left_out = sum(len(task.trajectories) for task in tasks) - len(trajectories)
    if left_out:
        logger.warning("%s: %d empty trajectories are left out", config.dataset_name, left_out)
    size = config.questions_per_shard
    chunks = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    paths = [shard_path(record.directory, PRUNED, number) for number in range(len(chunks))]
    missing = [number for number, path in enumerate(paths) if not is_whole(path)]
    if missing:
        fill(config, chunks, {number: paths[number] for number in missing})
    merge_shards(paths, record.directory / "pruned.parquet", PRUNED)

    columns = ["question_id", "method", "setting", "tokens_before", "tokens_after", "correct", "leaked", "nll"]
    methods = compare_methods(list(read_shards(paths, columns)), config.seed)
    results = {
        "questions": len(tasks),
        "trajectories": len(trajectories),
        "left_out": left_out,
        "correct_as_sampled": sum(one.correct for one in trajectories) / len(trajectories),
        "methods": methods,
    }
    write_json(record.directory / "trajectory_pruning.json", results)
    with whole_file(record.directory / "frontier.svg") as partial:
        partial.write_text(frontier_figure(methods), encoding="utf-8")
    write_page(record.directory / "page.html", "trajectory_pruning", page(config, tasks, methods, paths))
    for method in config.parsed_methods:
        directory = record.directory / f"data_{method.name.replace(':', '_')}"
        if not write_shards(directory, still_correct(tasks, method, paths), TRAJECTORIES):
            logger.warning("%s leaves no trajectory whose answer is correct: there is no %s", method.name, directory)
    record.finish(time.monotonic() - started, results)
    for path in paths:
        path.unlink()
    remove_partials(record.directory)
    logger.info("%s", methods_table(methods))


def fill(config: TrajectoryPruningConfig, chunks: Sequence[Sequence[Task]], missing: Mapping[int, Path]) -> None:
    """Write the chunks that are missing."""
    model, tokenizer = load_model(config.model_name_or_path, dtype=config.dtype, all_devices=config.all_devices)
    methods = config.parsed_methods
    summaries = any(method.kind == "summary" for method in methods)
    tools = Tools(
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
    total = len(methods) * sum(
        not _is_empty(one) for number in missing for task in chunks[number] for one in task.trajectories
    )
    with tqdm(total=total, desc="pruning", unit="trajectory") as bar, GradingPool(config.num_graders) as pool:
        for number, path in missing.items():
            thinkings = [
                find_thinking(
                    tokenizer,
                    tokenise(tokenizer, task.question, place, trajectory, config.prompt_style),
                    config.answer_stub,
                )
                for task in chunks[number]
                for place, trajectory in enumerate(task.trajectories)
                if not _is_empty(trajectory)
            ]
            rows: list[dict[str, Any]] = []
            for method in methods:
                bar.set_postfix_str(method.name)
                seed = shard_seed(config.seed, number)
                rows += pruned_rows(config, method, thinkings, tools, pool, seed=seed)
                bar.update(len(thinkings))
            write_shard(path, rows, PRUNED, {})


def open_summariser(config: TrajectoryPruningConfig, model: Any, tokenizer: Any) -> Engine:
    """The model itself, or the one that the config names, by its engine.

    Raises:
        InputError: if it cannot be loaded, or cannot read what it is asked.
    """
    engine: Engine
    if config.engine == "transformers" and config.summariser is None:
        engine = TransformersEngine(model, tokenizer, config.batch_size)
    else:
        engine = open_engine(replace(config, model_name_or_path=config.summariser or config.model_name_or_path))
    if isinstance(engine, TransformersEngine):
        check_summaries(engine.tokenizer)
    return engine


def page(
    config: TrajectoryPruningConfig, tasks: Sequence[Task], methods: Sequence[Mapping[str, Any]], paths: Sequence[Path]
) -> dict[str, Any]:
    """What `page.html` shows: the methods, and the first trajectory of the first questions under each of them."""
    shown = {task.question.id: task for task in tasks[:_EXAMPLES]}
    model = shown_name(config.model_name_or_path)
    return {
        "title": "How much of a trajectory is needed",
        "lead": f"Trajectories for {len(tasks)} questions of {shown_name(config.dataset_name)}, shortened in "
        f"{len(methods)} ways; from what is left the answer is forced, and decoded greedily. curve and drop_sentence "
        "know the reference answer. Intervals are 95 %, over questions.",
        "model": model,
        "methods": [{name: one[name] for name in _SHOWN} for one in methods],
        "examples": [
            {
                "question": shown[row["question_id"]].question.question,
                "answer": shown[row["question_id"]].question.answer,
                "before": shown[row["question_id"]].trajectories[0].text,
                "after": row["text"],
                **{name: row[name] for name in ("method", "setting", "tokens_before", "tokens_after")},
                **{name: row[name] for name in ("correct", "leaked")},
            }
            for row in read_shards(paths[:_EXAMPLES])
            if row["question_id"] in shown and row["number"] == 0
        ],
    }


def _is_empty(trajectory: Trajectory) -> bool:
    return trajectory.text.strip() in ("", THINKING)


if __name__ == "__main__":
    run(main, TrajectoryPruningConfig)
