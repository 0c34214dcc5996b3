"""Check questions and trajectories and write them in the form that every other command reads.

    python -m raml_trl.prepare_data --config recipes/tiny/data_sft.yaml

`output_dir` gets `questions.parquet`, `trajectories.parquet` where there are any, and `rejects.jsonl`: every question
left out, and why.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from raml_trl import arithmetic
from raml_trl.arguments import PrepareDataConfig
from raml_trl.command_line import run
from raml_trl.data import (
    QUESTION_SCHEMA,
    QUESTIONS,
    TRAJECTORIES,
    TRAJECTORY_SCHEMA,
    Question,
    Trajectory,
    read_questions,
    read_table,
    read_trajectories,
)
from raml_trl.errors import InputError
from raml_trl.files import whole_file, write_rows
from raml_trl.grading import readable
from raml_trl.prompts import lay_out
from raml_trl.runs import Run

logger = logging.getLogger(__name__)


def main(config: PrepareDataConfig, record: Run) -> None:
    """Read, check, write, and say what was left out."""
    started = time.monotonic()
    if config.dataset_name == "arithmetic":
        questions, trajectories = arithmetic_data(config)
    else:
        questions, trajectories = real_data(config)
    kept, rejects = check_questions(tqdm(questions, desc="checking questions", unit="q"))
    if not kept:
        raise InputError(f"{config.dataset_name}: every question was left out: {dict(Counter(r for _, r in rejects))}")
    if config.num_questions is not None:
        kept = kept[: config.num_questions]
    answers = {question.id: question.answer for question in kept}
    trajectories = [trajectory for trajectory in trajectories if trajectory.question_id in answers]
    if config.layout is not None:
        trajectories = [
            replace(one, text=lay_out(one.text, answers[one.question_id], config.layout)) if one.correct else one
            for one in trajectories
        ]

    directory = Path(config.output_dir)
    write_rows(directory / QUESTIONS, [asdict(question) for question in kept], QUESTION_SCHEMA)
    if trajectories:
        write_rows(directory / TRAJECTORIES, [asdict(one) for one in trajectories], TRAJECTORY_SCHEMA)
    with whole_file(directory / "rejects.jsonl") as partial, partial.open("w", encoding="utf-8") as file:
        for question, reason in rejects:
            file.write(json.dumps({"reason": reason, **asdict(question)}, ensure_ascii=False) + "\n")
    results = {
        "questions": len(kept),
        "trajectories": len(trajectories),
        "correct_trajectories": sum(trajectory.correct for trajectory in trajectories),
        "left_out": dict(Counter(reason for _, reason in rejects)),
    }
    record.finish(time.monotonic() - started, results)
    logger.info("%s: %s", directory, results)


def arithmetic_data(config: PrepareDataConfig) -> tuple[list[Question], list[Trajectory]]:
    """Questions of one split of the embedded world, and trajectories of theirs, all correct."""
    assert config.num_questions is not None
    rng = np.random.default_rng([config.seed, list(arithmetic.SPLITS).index(config.dataset_split)])
    questions, trajectories = [], []
    worlds = arithmetic.generate_questions(config.dataset_split, config.num_questions, rng)
    for number, world in enumerate(tqdm(worlds, desc="writing trajectories", unit="q")):
        question = Question(f"{config.dataset_split}-{number}", world.text, world.answer, "arithmetic")
        questions.append(question)
        texts = arithmetic.generate_trajectories(world, config.num_trajectories, rng)
        trajectories += [Trajectory(question.id, text, True, "arithmetic") for text in texts]
    return questions, trajectories


def real_data(config: PrepareDataConfig) -> tuple[list[Question], list[Trajectory]]:
    """Questions of a file or a Hub data set, and their generations if it has any."""
    table = read_table(config.dataset_name, config=config.dataset_config, split=config.dataset_split)
    questions = list(read_questions(table, config.dataset_name))
    if "generations" not in table.column_names:
        return questions, []
    return questions, list(read_trajectories(table, questions, config.dataset_name))


def check_questions(questions: Iterable[Question]) -> tuple[list[Question], list[tuple[Question, str]]]:
    """The questions that can be trained on, and the others with the reason."""
    kept: list[Question] = []
    rejects: list[tuple[Question, str]] = []
    seen: set[str] = set()
    for question in questions:
        normalised = " ".join(question.question.split())
        if not normalised:
            rejects.append((question, "no question"))
        elif not question.answer.strip():
            rejects.append((question, "no answer"))
        elif normalised in seen:
            rejects.append((question, "duplicate question"))
        elif not readable(question.answer):
            rejects.append((question, "answer the grader cannot read"))
        else:
            seen.add(normalised)
            kept.append(question)
    return kept, rejects


if __name__ == "__main__":
    run(main, PrepareDataConfig)
