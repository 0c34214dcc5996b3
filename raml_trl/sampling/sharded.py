"""Samples of many questions, graded, shard by shard: what survives a kill, on any number of processes.

Every process of a launch makes its share of the shards and never waits for another. A shard appears when it is whole,
and what is in it is a function of the settings and of its number alone, so the shards that are missing are all that is
left to do, whoever does it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from raml_trl.data.records import Question, Task, Trajectory, task_row
from raml_trl.data.shards import is_complete_shard, read_notes, shard_path, write_shard
from raml_trl.grading.grader import Outcome
from raml_trl.grading.pool import GradingPool
from raml_trl.prompts import prompt_messages, with_opening
from raml_trl.runtime.runs import is_first_process, process_share
from raml_trl.sampling.config import SamplingArguments
from raml_trl.sampling.engine import Engine, SamplingSettings
from raml_trl.sampling.loading import open_engine


@dataclass(frozen=True)
class Sample:
    """One graded sample of a question."""

    question: Question
    number: int  # from 0 to n - 1
    text: str
    correct: bool
    formatted: bool
    outcome: Outcome
    num_tokens: int
    finished: bool


Questions = Callable[[], Iterator[Question]]
"""The questions, each time from the first."""
Rows = Callable[[Sequence[Sample], GradingPool], Iterable[dict[str, Any]]]
"""The rows of a shard, from its samples, by question and of each by number, and from what graded them."""


def sample_shards(
    config: SamplingArguments, questions: Questions, num_samples: int, kind: str, to_rows: Rows, *, opening: str = ""
) -> list[Path] | None:
    """Make this process's share of what is missing; the paths of all shards once all are there, else None.

    Args:
        config: what to sample with; shards lie in its `output_dir`.
        num_samples: n, per question.
        kind: of the shards.
        to_rows: in the schema of `kind`.
        opening: what every sample begins with.
    """
    index, of = process_share()
    paths, missing, total = [], {}, 0
    for number, chunk in _chunks(questions, config.questions_per_shard):
        paths.append(path := shard_path(Path(config.output_dir), kind, number))
        if number % of == index and not is_complete_shard(path):
            missing[number] = path
            total += num_samples * len(chunk)
    bar = tqdm(total=total, desc="sampling", unit="sample", disable=not (missing and is_first_process()))
    if missing:
        with bar:
            _fill(config, questions, num_samples, missing, kind, to_rows, opening, bar)
    return paths if all(path.exists() for path in paths) else None


def draw_samples(
    engine: Engine,
    pool: GradingPool,
    questions: Sequence[Question],
    settings: SamplingSettings,
    style: str,
    *,
    seed: int,
    opening: str = "",
    tick: Callable[[], object] = lambda: None,
) -> list[Sample]:
    """`settings.num_samples` samples of every question, graded: by question, and of each by number.

    Args:
        style: a key of `prompts.STYLES`.
        opening: what every sample begins with; its tokens are not counted.
        tick: called for every sample, once it is drawn.
    """
    prompts = [prompt_messages(question.question, style) for question in questions]
    if opening:
        prompts = [[*prompt, {"role": "assistant", "content": opening}] for prompt in prompts]
    completions = []
    for completion in engine.sample(prompts, settings, seed=seed):
        completions.append(completion)
        tick()
    completions.sort(key=lambda one: (one.prompt, one.sample))
    places = [(prompt, sample) for prompt in range(len(questions)) for sample in range(settings.num_samples)]
    assert [(one.prompt, one.sample) for one in completions] == places, "an engine left a sample out"
    texts = [with_opening(opening + one.text) for one in completions]
    pairs = [(text, questions[one.prompt].answer) for text, one in zip(texts, completions, strict=True)]
    grades = pool.grade(pairs, style=style)
    return [
        Sample(
            question=questions[one.prompt],
            number=one.sample,
            text=text,
            correct=grade.correct,
            formatted=grade.formatted,
            outcome=grade.outcome,
            num_tokens=one.num_tokens,
            finished=one.finished,
        )
        for text, grade, one in zip(texts, grades, completions, strict=True)
    ]


def trajectory_rows(model: str) -> Rows:
    """For `sample_shards`: rows of a rollout data set, whose trajectories are `model`'s."""

    def to_rows(samples: Sequence[Sample], _pool: GradingPool) -> Iterator[dict[str, Any]]:
        for question, own in groupby(samples, key=lambda sample: sample.question):
            trajectories = (Trajectory(one.text, one.correct, model, one.num_tokens) for one in own)
            yield task_row(Task(question, tuple(trajectories)))

    return to_rows


def shard_seed(seed: int, number: int) -> int:
    """The seed that the samples of a shard are drawn with."""
    return seed * 1_000_003 + number


def add_notes(paths: Iterable[Path]) -> dict[str, Any]:
    """What is noted of all shards together: `outcomes` of grading, samples `finished`, and `tokens`."""
    outcomes: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for notes in map(read_notes, paths):
        outcomes.update(notes["outcomes"])
        sums.update({name: notes[name] for name in ("finished", "tokens")})
    return {"outcomes": dict(outcomes), **sums}


def _chunks(questions: Questions, size: int) -> Iterator[tuple[int, list[Question]]]:
    """The questions of every shard, with its number."""
    stream, number = questions(), 0
    while chunk := list(islice(stream, size)):
        yield number, chunk
        number += 1


def _fill(
    config: SamplingArguments,
    questions: Questions,
    num_samples: int,
    missing: dict[int, Path],
    kind: str,
    to_rows: Rows,
    opening: str,
    bar: Any,
) -> None:
    engine = open_engine(config)
    settings = SamplingSettings(
        num_samples=num_samples,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
    )
    started, tokens = time.monotonic(), 0
    outcomes: Counter[str] = Counter()
    with GradingPool(config.num_graders) as pool:
        for number, chunk in _chunks(questions, config.questions_per_shard):
            if number not in missing:
                continue
            seed = shard_seed(config.seed, number)
            samples = draw_samples(
                engine, pool, chunk, settings, config.prompt_style, seed=seed, opening=opening, tick=bar.update
            )
            shard_outcomes = Counter(sample.outcome for sample in samples)
            notes: dict[str, Any] = {
                "outcomes": shard_outcomes,
                "finished": sum(sample.finished for sample in samples),
                "tokens": sum(sample.num_tokens for sample in samples),
            }
            write_shard(missing[number], to_rows(samples, pool), kind, notes)
            outcomes.update(shard_outcomes)
            tokens += notes["tokens"]
            correct, rate = outcomes["correct"] / outcomes.total(), tokens / (time.monotonic() - started)
            bar.set_postfix(correct=f"{correct:.3f}", tokens_per_second=f"{rate:,.0f}")
