"""Check questions and trajectories and write them in the form that every other command reads.

    python -m raml_trl.prepare_data --config recipes/tiny/demo/data_sft.yaml

`output_dir` gets Parquet shards of questions, or of questions with their trajectories; `rejects.jsonl`, every row left
out and why; and `report.md`, which counts and explains them. One pass, in memory that does not grow with the data.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from raml_trl.data import arithmetic
from raml_trl.data.config import PrepareDataConfig
from raml_trl.data.duplicates import Benchmarks
from raml_trl.data.reading import open_data, read_tasks, stream_tasks, table_columns
from raml_trl.data.records import Question, Reject, Task, Trajectory, task_row
from raml_trl.data.screening import REASONS, Refusal, Screen
from raml_trl.data.shards import QUESTIONS, TRAJECTORIES, write_shards
from raml_trl.data.tables import DatasetReference
from raml_trl.prompts import lay_out
from raml_trl.render.tables import markdown_table
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import remove_partials, whole_file
from raml_trl.runtime.runs import Run
from raml_trl.sampling.loading import load_tokenizer

logger = logging.getLogger(__name__)


def main(config: PrepareDataConfig, record: Run) -> None:
    """Read, check, write, and say what was left out."""
    started = time.monotonic()
    tasks, kind = arithmetic_tasks(config) if config.dataset_name == "arithmetic" else table_tasks(config)
    screen = open_screen(config)
    counts: Counter[str] = Counter()
    remove_partials(record.directory)
    with whole_file(record.directory / "rejects.jsonl") as partial, partial.open("w", encoding="utf-8") as rejects:

        def reject(entry: dict[str, Any]) -> None:
            rejects.write(json.dumps(entry, ensure_ascii=True) + "\n")

        kept = keep(tqdm(tasks, desc="checking questions", unit="q"), screen, config, counts, reject)
        write_shards(record.directory, map(task_row, kept), kind)
    left_out = {reason: counts[reason] for reason in counts if reason not in _RESULTS}
    results = {name: counts[name] for name in _RESULTS} | {"left_out": left_out}
    if not counts["questions"]:
        raise InputError(f"{config.dataset_name}: every question was left out: {left_out}")
    (record.directory / "report.md").write_text(write_report(config, results), encoding="utf-8")
    record.finish(time.monotonic() - started, results)
    logger.info("%s: %s", record.directory, results)


_RESULTS = ("rows", "questions", "questions_without_markup", "trajectories", "correct_trajectories")


def arithmetic_tasks(config: PrepareDataConfig) -> tuple[Iterator[Task], str]:
    """Questions of one split of the embedded world, and trajectories of theirs, all correct."""
    assert config.num_questions is not None
    rng = np.random.default_rng([config.seed, list(arithmetic.SPLITS).index(config.dataset_split)])
    worlds = arithmetic.generate_questions(config.dataset_split, config.num_questions, rng)

    def tasks() -> Iterator[Task]:
        for number, world in enumerate(worlds):
            question = Question(f"{config.dataset_split}-{number}", world.text, world.answer, "arithmetic")
            texts = arithmetic.generate_trajectories(world, config.num_trajectories, rng)
            yield Task(question, tuple(Trajectory(text, True, "arithmetic") for text in texts))

    return tasks(), TRAJECTORIES if config.num_trajectories else QUESTIONS


def table_tasks(config: PrepareDataConfig) -> tuple[Iterator[Task | Reject], str]:
    """Questions of a file or a Hub data set, and their generations if it has any."""
    table = open_data(config)
    return read_tasks(table), QUESTIONS if table_columns(table).generations is None else TRAJECTORIES


def open_screen(config: PrepareDataConfig) -> Screen:
    """The checks that the recipe asks for."""
    settings: dict[str, Any] = {}
    if config.tokenizer is not None:
        tokenizer: Any = load_tokenizer(config.tokenizer)
        settings["count_tokens"] = lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
        settings["max_question_tokens"] = config.max_question_tokens
    if config.benchmarks:
        settings["benchmarks"] = Benchmarks(benchmark_questions(config.benchmarks), ngram_size=config.ngram_size)
        settings["min_overlap"] = config.min_overlap
    return Screen(
        markup=config.strip_markup, figures=config.drop_figures, duplicates=config.drop_duplicates, **settings
    )


def benchmark_questions(names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Benchmark, id and text of every question of the benchmarks named."""
    for name in names:
        benchmark = DatasetReference.parse(name)
        for task in stream_tasks(benchmark.open()):
            yield Path(benchmark.name).name, task.question.id, task.question.question


def keep(
    tasks: Iterable[Task | Reject],
    screen: Screen,
    config: PrepareDataConfig,
    counts: Counter[str],
    reject: Callable[[dict[str, Any]], None],
) -> Iterator[Task]:
    """The tasks that pass, as they are to be written; what became of the others goes to `counts` and `reject`."""
    for number, task in enumerate(tasks):
        counts["rows"] += 1
        if isinstance(task, Reject):
            counts[task.reason] += 1
            reject({"row": task.row, "reason": task.reason, **task.content})
            continue
        kept = screen.check(task)
        if isinstance(kept, Refusal):
            counts[kept.reason] += 1
            overlap = {"overlap": asdict(kept.overlap)} if kept.overlap else {}
            reject({"row": number, "reason": kept.reason, **asdict(task.question), **overlap})
            continue
        counts["questions"] += 1
        counts["questions_without_markup"] += kept.question.question != task.question.question
        counts["trajectories"] += len(kept.trajectories)
        counts["correct_trajectories"] += sum(one.correct for one in kept.trajectories)
        yield kept if config.layout is None else laid_out(kept, config.layout)
        if counts["questions"] == config.num_questions:
            break


def laid_out(task: Task, layout: str) -> Task:
    """The task, its correct trajectories written into a layout with the answer in its box."""
    answer = task.question.answer
    return replace(
        task,
        trajectories=tuple(
            replace(one, text=lay_out(one.text, answer, layout), num_tokens=None) if one.correct else one
            for one in task.trajectories
        ),
    )


def write_report(config: PrepareDataConfig, results: dict[str, Any]) -> str:
    """What was read, kept and left out, and why, as Markdown."""
    rows = results["rows"]
    table = [["left out because", "rows", "share", "what it means"]]
    for reason, count in sorted(results["left_out"].items(), key=lambda entry: -entry[1]):
        table.append([reason, f"{count:,}", f"{count / rows:.2%}", REASONS.get(reason, "the row's form")])
    kept = results["questions"]
    lines = [
        f"# {Path(config.dataset_name).name}",
        "",
        f"{rows:,} rows were read and {kept:,} questions kept, {results['questions_without_markup']:,} of them without "
        f"the HTML or URLs they had; {results['trajectories']:,} trajectories, {results['correct_trajectories']:,} of "
        "them correct.",
        "",
        markdown_table(table) if results["left_out"] else "No row was left out.",
        "",
    ]
    if config.benchmarks:
        names = ", ".join(Path(DatasetReference.parse(name).name).name for name in config.benchmarks)
        lines += [
            f"Compared with {names}: a question overlaps if it has {config.min_overlap:.0%} of its {config.ngram_size}-"
            "grams of words in common with one of theirs, of the one of the two that has fewer. `rejects.jsonl` shows "
            "each with the question it overlaps and the words.",
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, PrepareDataConfig)
