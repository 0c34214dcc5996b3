"""Checks the rows of a dataset, and writes the questions and trajectories that pass as Parquet shards.

The rows are read once. Memory holds a few rows at a time, and a digest of each question to recognise duplicates.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path

import numpy as np
from tqdm import tqdm

from raml_trl.data import arithmetic, arithmetic_mixed
from raml_trl.data.config import PrepareDataConfig
from raml_trl.data.duplicates import Benchmarks
from raml_trl.data.reading import open_data, read_tasks, stream_tasks, table_columns
from raml_trl.data.records import Question, Reject, Task, Trajectory, task_row
from raml_trl.data.screening import REASONS, Refusal, Screen
from raml_trl.data.shards import QUESTIONS, TRAJECTORIES, write_shards
from raml_trl.data.tables import DatasetReference
from raml_trl.grading.references import KINDS, UnreadableKind
from raml_trl.prompts import lay_out
from raml_trl.render.tables import escape_markdown, markdown_table
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file


@dataclass
class Counts:
    """The number of rows read, of questions and trajectories kept, and of rows left out for each reason.

    `unreadable_answers` counts the rows left out because the grader cannot read their answer, for each kind of fault.
    """

    rows: int = 0
    questions: int = 0
    questions_without_markup: int = 0
    trajectories: int = 0
    correct_trajectories: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable_answers: Counter[UnreadableKind] = field(default_factory=Counter)

    def summary(self) -> str:
        """Return the most important counts as one line."""
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.most_common())
        trajectories = f", {self.trajectories:,} trajectories, {self.correct_trajectories:,} of them correct"
        return (
            f"{self.questions:,} of {self.rows:,} rows kept as questions{trajectories if self.trajectories else ''}; "
            f"left out: {left_out or 'none'}"
        )

    def to_json(self) -> dict[str, int | dict[str, int]]:
        return {
            **vars(self),
            "left_out": dict(self.left_out),
            "unreadable_answers": {kind: self.unreadable_answers[kind] for kind in KINDS},
        }


def prepare(config: PrepareDataConfig, directory: Path, count_tokens: Callable[[str], int] = len) -> Counts:
    """Check the rows of the dataset that `config` names, write the results into `directory`, and return the counts.

    The results are the shards, `rejects.jsonl` (the rows left out) and `report.md` (the counts for each reason).

    Args:
        count_tokens: counts the tokens of a question, for the limit `max_question_tokens`. Default: one for each
            character.

    Raises:
        InputError: if the dataset cannot be read, or no question passes the checks.
    """
    tasks, kind = _generate_arithmetic(config) if config.is_generated else _read_table(config)
    screen, counts = _open_screen(config, count_tokens), Counts()
    with whole_file(directory / "rejects.jsonl") as partial, partial.open("w", encoding="utf-8") as rejects:

        def reject(row: int, reason: str, content: Mapping[str, object]) -> None:
            counts.left_out[reason] += 1
            rejects.write(json.dumps({"row": row, "reason": reason, **content}, ensure_ascii=True) + "\n")

        kept = _screen_tasks(tqdm(tasks, desc="checking questions", unit="q"), screen, config, counts, reject)
        write_shards(directory, map(task_row, kept), kind)
    if not counts.questions:
        raise InputError(f"{config.dataset_name}: every question was left out: {dict(counts.left_out)}")
    (directory / "report.md").write_text(_format_report(config, counts), encoding="utf-8")
    return counts


def first_task(config: PrepareDataConfig) -> Task | Reject:
    """Return the first row of the dataset, before the checks: a `Task`, or a `Reject` if it is not a question.

    Nothing is written.

    Raises:
        InputError: if the dataset cannot be read, or has no row.
    """
    tasks, _ = _generate_arithmetic(config) if config.is_generated else _read_table(config)
    return next(tasks)


def _generate_arithmetic(config: PrepareDataConfig) -> tuple[Iterator[Task], str]:
    """Return generated arithmetic questions with correct trajectories, and the kind of shards for them."""
    assert config.num_questions is not None
    rng = np.random.default_rng([config.seed, list(arithmetic.SPLITS).index(config.dataset_split)])
    mixed = config.dataset_name == arithmetic_mixed.NAME
    generate = arithmetic_mixed.generate_mixed_questions if mixed else arithmetic.generate_questions
    draw_texts = arithmetic_mixed.mixed_trajectories if mixed else arithmetic.generate_trajectories
    generated = generate(config.dataset_split, config.num_questions, rng)

    def tasks() -> Iterator[Task]:
        for number, digits in enumerate(generated):
            answer, source = digits.answer, config.dataset_name
            if mixed:
                answer, source = arithmetic_mixed.mixed_reference(digits, config.seed)
            question = Question(f"{config.dataset_split}-{number}", digits.text, answer, source)
            texts = draw_texts(digits, config.num_trajectories, rng)
            yield Task(question, tuple(Trajectory(text, True, config.dataset_name) for text in texts))

    return tasks(), TRAJECTORIES if config.num_trajectories else QUESTIONS


def _read_table(config: PrepareDataConfig) -> tuple[Iterator[Task | Reject], str]:
    """Return the tasks and rejected rows of a file or a Hub dataset, and the kind of shards for the tasks."""
    table = open_data(config)
    return read_tasks(table), QUESTIONS if table_columns(table).generations is None else TRAJECTORIES


def _open_screen(config: PrepareDataConfig, count_tokens: Callable[[str], int]) -> Screen:
    return Screen(
        markup=config.strip_markup,
        figures=config.drop_figures,
        duplicates=config.drop_duplicates,
        count_tokens=count_tokens,
        max_question_tokens=inf if config.max_question_tokens is None else config.max_question_tokens,
        benchmarks=Benchmarks(_read_benchmarks(config.benchmarks), ngram_size=config.ngram_size),
        min_overlap=config.min_overlap,
    )


def _read_benchmarks(references: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the name of the benchmark, the id and the text of each question of the benchmarks in `references`."""
    for reference in map(DatasetReference.parse, references):
        for task in stream_tasks(reference.open()):
            yield Path(reference.name).name, task.question.id, task.question.question


def _screen_tasks(
    tasks: Iterable[Task | Reject],
    screen: Screen,
    config: PrepareDataConfig,
    counts: Counts,
    reject: Callable[[int, str, Mapping[str, object]], None],
) -> Iterator[Task]:
    """Yield the tasks that pass the checks, in the requested layout, and count them in `counts`.

    `reject` is called with the row number, the reason and the content of each task that does not pass.
    """
    for number, task in enumerate(tasks):
        counts.rows += 1
        if isinstance(task, Reject):
            reject(task.row, task.reason, task.content)
            continue
        kept = screen.check(task)
        if isinstance(kept, Refusal):
            details: dict[str, object] = {"overlap": asdict(kept.overlap)} if kept.overlap else {}
            if kept.kind is not None:
                counts.unreadable_answers[kept.kind] += 1
                details["kind"] = kept.kind
            reject(number, kept.reason, {**asdict(task.question), **details})
            continue
        counts.questions += 1
        counts.questions_without_markup += kept.question.question != task.question.question
        counts.trajectories += len(kept.trajectories)
        counts.correct_trajectories += sum(trajectory.correct for trajectory in kept.trajectories)
        yield kept if config.layout is None else _change_layout(kept, config.layout)
        if counts.questions == config.num_questions:
            break


def _change_layout(task: Task, layout: str) -> Task:
    """Rewrite the correct trajectories in the layout of a prompt style, with the reference answer in the box."""
    answer = task.question.answer
    return replace(
        task,
        trajectories=tuple(
            replace(trajectory, text=lay_out(trajectory.text, answer, layout), num_tokens=None)
            if trajectory.correct
            else trajectory
            for trajectory in task.trajectories
        ),
    )


def _format_report(config: PrepareDataConfig, counts: Counts) -> str:
    """Return the counts as Markdown, with an explanation of each reason to leave rows out."""
    table = [["left out because", "rows", "share", "what it means"]]
    for reason, count in counts.left_out.most_common():
        table.append([reason, f"{count:,}", f"{count / counts.rows:.2%}", REASONS[reason]])
    lines = [
        f"# {escape_markdown(Path(config.dataset_name).name)}",
        "",
        f"{counts.questions:,} of {counts.rows:,} rows were kept as questions. HTML or URLs were removed from "
        f"{counts.questions_without_markup:,} of them. They have {counts.trajectories:,} trajectories, of which "
        f"{counts.correct_trajectories:,} are correct.",
        "",
        markdown_table(table) if counts.left_out else "No row was left out.",
        "",
    ]
    if counts.unreadable_answers:
        kinds = ", ".join(f"{kind}: {counts.unreadable_answers[kind]:,}" for kind in KINDS)
        lines += [f"Answers that the grader cannot read, by kind: {kinds}.", ""]
    if config.benchmarks:
        benchmarks = (Path(DatasetReference.parse(name).name).name for name in config.benchmarks)
        names = ", ".join(map(escape_markdown, benchmarks))
        lines += [
            f"Compared with {names}: a question overlaps with a benchmark question if they share "
            f"{config.min_overlap:.0%} of the word {config.ngram_size}-grams of the one that has fewer. "
            "`rejects.jsonl` lists each such question with the benchmark question and the first shared words.",
            "",
        ]
    return "\n".join(lines)
