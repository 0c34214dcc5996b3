"""Samples and grades many questions shard by shard, so that a run can be killed and resumed on any number of processes.

A shard is a Parquet file with the samples of `questions_per_shard` questions. Each process of a launch makes every
N-th shard, where N is the number of processes, and never waits for another process. A shard file appears only when the
shard is complete. The content of a shard depends on the questions, the settings and the number of the shard, but not on
the process, so any process can make the missing shards.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TypedDict

from tqdm import tqdm

from raml_trl.data.records import Question, Task, Trajectory, task_row
from raml_trl.data.shards import all_written, missing_shards, read_notes, require_shards, shard_path, write_shard
from raml_trl.grading.grader import Outcome
from raml_trl.grading.pool import GradingPool
from raml_trl.prompts import prompt_messages, with_opening
from raml_trl.runtime.progress import progress_bar
from raml_trl.runtime.runs import process_share, require_directory
from raml_trl.sampling.config import SamplingArguments
from raml_trl.sampling.engine import Completion, Engine, SamplingSettings
from raml_trl.sampling.loading import load_tokenizer, open_engine
from raml_trl.sampling.lost_characters import warn_of_lost_characters


@dataclass(frozen=True)
class Sample:
    """One graded sample of a question."""

    question: Question
    number: int  # from 0 to n - 1
    text: str
    correct: bool
    formatted: bool
    outcome: Outcome
    num_tokens: int | None
    finished: bool


class Notes(TypedDict):
    """The counts stored with a shard.

    `outcomes` has the number of samples for each grading outcome, `finished` is the number of samples that the model
    ended, and `tokens` is the number of tokens of all samples. A sample whose tokens the server does not count adds 0.
    """

    outcomes: dict[str, int]
    finished: int
    tokens: int


Questions = Callable[[], Iterator[Question]]
"""Function that returns an iterator over all questions. Each call starts again at the first question."""
Rows = Callable[[Sequence[Sample], GradingPool], Iterable[Mapping[str, object]]]
"""Function that converts the samples of a shard, sorted by question and number, into the rows of the shard.

It may use the pool that graded the samples.
"""


def sample_shards(
    config: SamplingArguments, questions: Questions, num_samples: int, kind: str, to_rows: Rows
) -> list[Path] | None:
    """Sample, grade and write the shards of this process that are missing or damaged.

    The arguments are those of `sample_share`.

    Returns:
        The paths of the shards of all processes, or None if one of these shards is not written yet.
    """
    rank, num_processes = process_share()
    paths = sample_share(config, questions, num_samples, kind, to_rows, share=(rank, num_processes))
    return paths if all_written(paths, paths[rank::num_processes]) else None


def sample_share(
    config: SamplingArguments,
    questions: Questions,
    num_samples: int,
    kind: str,
    to_rows: Rows,
    *,
    share: tuple[int, int],
    opening: str = "",
) -> list[Path]:
    """Sample, grade and write the shards of one process that are missing or damaged.

    Returns the paths of the shards of all processes, whether they are written yet or not.

    Args:
        config: engine and sampling settings; the shards are written to its `output_dir`.
        questions: returns an iterator over all questions.
        num_samples: n, the number of samples per question.
        kind: kind of the shards, a key of `shards.SCHEMAS`.
        to_rows: converts samples into rows with the schema of `kind`.
        share: the rank of the process and the number of processes N. The process makes the shards with the numbers
            rank, rank + N, rank + 2 N, and so on.
        opening: a text with which every sample begins and which the model continues.

    Raises:
        InputError: if `output_dir` or a shard of the process is deleted during the run.
    """
    sizes = [len(chunk) for _, chunk in _chunks(questions, config.questions_per_shard)]
    paths = [shard_path(Path(config.output_dir), kind, number) for number in range(len(sizes))]
    rank, num_processes = share
    own = paths[rank::num_processes]
    lacking = set(missing_shards(own))
    missing = {number: path for number, path in enumerate(paths) if path in lacking}
    if missing:
        total = num_samples * sum(sizes[number] for number in missing)
        Path(config.output_dir).mkdir(exist_ok=True)  # one level: a subdirectory of a run's directory may be new
        with progress_bar(total, "sampling", "sample") as bar:
            _fill(config, questions, num_samples, missing, kind, to_rows, opening, bar)
    require_shards(own)
    return paths


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
    """Draw and grade `settings.num_samples` samples per question.

    Returns the samples sorted by question, in the order of `questions`, and then by their number.

    Args:
        engine: draws the samples.
        pool: grades the samples.
        questions: the questions, each with the reference answer for grading.
        settings: the number of samples per question, and how to draw them.
        style: the prompt style, a key of `prompts.STYLES`.
        seed: seed for `Engine.sample`.
        opening: a text with which every sample begins and which the model continues. Its tokens are not counted.
        tick: called each time that a sample has been drawn, to show the progress.
    """
    prompts = [prompt_messages(question.question, style) for question in questions]
    if opening:
        prompts = [[*prompt, {"role": "assistant", "content": opening}] for prompt in prompts]
    completions: list[Completion] = []
    for completion in engine.sample(prompts, settings, seed=seed):
        completions.append(completion)
        tick()
    completions.sort(key=lambda completion: (completion.prompt, completion.sample))
    expected = [(prompt, sample) for prompt in range(len(questions)) for sample in range(settings.num_samples)]
    drawn = [(completion.prompt, completion.sample) for completion in completions]
    assert drawn == expected, "an engine left a sample out"
    texts = [with_opening(opening + completion.text) for completion in completions]
    answers = [questions[completion.prompt].answer for completion in completions]
    grades = pool.grade(list(zip(texts, answers, strict=True)), style=style)
    return [
        Sample(
            question=questions[completion.prompt],
            number=completion.sample,
            text=text,
            correct=grade.correct,
            formatted=grade.formatted,
            outcome=grade.outcome,
            num_tokens=completion.num_tokens,
            finished=completion.finished,
        )
        for text, grade, completion in zip(texts, grades, completions, strict=True)
    ]


def trajectory_rows(model: str) -> Rows:
    """Return a function to pass to `sample_shards` as `to_rows`, for samples that `model` wrote.

    The function makes one row per question, with its samples as trajectories.
    """

    def to_rows(samples: Sequence[Sample], _pool: GradingPool) -> Iterator[Mapping[str, object]]:
        for question, own in groupby(samples, key=lambda sample: sample.question):
            trajectories = (Trajectory(sample.text, sample.correct, model, sample.num_tokens) for sample in own)
            yield task_row(Task(question, tuple(trajectories)))

    return to_rows


def shard_seed(seed: int, number: int) -> int:
    """Return the seed for the samples of shard `number` in a run with the seed `seed`."""
    return seed * 1_000_003 + number


def add_notes(paths: Iterable[Path]) -> Notes:
    """Return the sums of the counts that are stored with the shards `paths`."""
    outcomes: Counter[str] = Counter()
    finished = tokens = 0
    for notes in map(read_notes, paths):
        outcomes.update(notes["outcomes"])
        finished += notes["finished"]
        tokens += notes["tokens"]
    return {"outcomes": dict(outcomes), "finished": finished, "tokens": tokens}


def _chunks(questions: Questions, size: int) -> Iterator[tuple[int, list[Question]]]:
    """Yield the number and the questions of each shard."""
    stream, number = questions(), 0
    while chunk := list(islice(stream, size)):
        yield number, chunk
        number += 1


def _fill(
    config: SamplingArguments,
    questions: Questions,
    num_samples: int,
    missing: Mapping[int, Path],
    kind: str,
    to_rows: Rows,
    opening: str,
    bar: "tqdm[None]",
) -> None:
    engine = open_engine(config)
    if config.engine != "server":
        texts, name = (question.question for question in questions()), config.model_name_or_path
        warn_of_lost_characters(load_tokenizer(name), texts, config.prompt_style, model=name)
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
            notes: Notes = {
                "outcomes": dict(Counter(sample.outcome for sample in samples)),
                "finished": sum(sample.finished for sample in samples),
                "tokens": sum(sample.num_tokens or 0 for sample in samples),
            }
            require_directory(missing[number].parent)
            write_shard(missing[number], to_rows(samples, pool), kind, notes)
            outcomes.update(notes["outcomes"])
            tokens += notes["tokens"]
            correct, rate = outcomes["correct"] / outcomes.total(), tokens / (time.monotonic() - started)
            bar.set_postfix(correct=f"{correct:.3f}", tokens_per_second=f"{rate:,.0f}")
