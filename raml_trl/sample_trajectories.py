r"""Sample n trajectories of a teacher for every question, grade them, and write them as Parquet shards.

    python -m raml_trl.sample_trajectories --config recipes/tiny/sample.yaml
    accelerate launch --config_file accelerate_configs/ddp.yaml \
        -m raml_trl.sample_trajectories --config recipes/qwen2.5-7b/sample_distill_14b.yaml

Every process of the launch takes its share of the shards, whatever the others do: they never wait for each other, and
whoever finishes last closes the run. A shard appears when it is whole; started again, on any number of processes, the
command makes those that are missing, and they are what they would have been. What stands in `output_dir` is a data set
for `train_sft`, in the form of the paper's rollout data sets; `push_to_hub` sends it to the Hub with a card.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from raml_trl.cards import SHARDS, Counts, trajectories_card
from raml_trl.command_line import run
from raml_trl.data import Question, Task, Trajectory, stream_questions, task_row
from raml_trl.data_arguments import SampleTrajectoriesConfig
from raml_trl.files import remove_partials, whole_file
from raml_trl.grading_pool import GradingPool
from raml_trl.hub import check_hub_access, push_dataset
from raml_trl.models import check_model, load_model
from raml_trl.prompts import prompt_messages, with_opening
from raml_trl.runs import Run, is_first_process, process_share
from raml_trl.sampling import Completion, Engine, SamplingSettings
from raml_trl.server_engine import ServerEngine
from raml_trl.shards import TRAJECTORIES, is_whole, read_notes, read_shards, shard_path, write_shard
from raml_trl.tables import Table, open_table

logger = logging.getLogger(__name__)

_CARD = "README.md"


def main(config: SampleTrajectoriesConfig, record: Run) -> None:
    """Make this process's shards, and close the run if they were the last."""
    started = time.monotonic()
    if config.engine != "server":
        check_model(config.model_name_or_path)
    table = open_table(config.dataset_name, config=config.dataset_config, split=config.dataset_split)
    if config.hub_dataset_id is not None and is_first_process():  # before hours of work
        check_hub_access(config.hub_dataset_id, private=config.hub_private)
    num_shards, own = missing_shards(config, table)
    if own:
        fill_shards(config, table, own)
    paths = [shard_path(Path(config.output_dir), TRAJECTORIES, number) for number in range(num_shards)]
    absent = sum(not path.exists() for path in paths)
    if absent:
        logger.info("%d of %d shards are not there yet: the other processes have them", absent, num_shards)
        return
    close_run(config, record, paths, time.monotonic() - started)


def questions_of(config: SampleTrajectoriesConfig, table: Table) -> Iterator[tuple[int, list[Question]]]:
    """The questions of every shard, with its number."""
    questions = islice(stream_questions(table), config.num_questions)
    number = 0
    while chunk := list(islice(questions, config.questions_per_shard)):
        yield number, chunk
        number += 1


def missing_shards(config: SampleTrajectoriesConfig, table: Table) -> tuple[int, set[int]]:
    """How many shards there are to be, and which of this process's are not there yet."""
    index, of = process_share()
    num_shards, missing = 0, set()
    for number, _ in questions_of(config, table):
        num_shards += 1
        if number % of == index and not is_whole(shard_path(Path(config.output_dir), TRAJECTORIES, number)):
            missing.add(number)
    return num_shards, missing


def fill_shards(config: SampleTrajectoriesConfig, table: Table, own: set[int]) -> None:
    """Sample, grade and write the shards of `own`."""
    engine = open_engine(config)
    settings = SamplingSettings(
        num_samples=config.num_trajectories,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
    )
    total = sum(len(questions) for number, questions in questions_of(config, table) if number in own)
    bar = tqdm(
        total=total * config.num_trajectories, desc="sampling", unit="trajectory", disable=not is_first_process()
    )
    started, tokens = time.monotonic(), 0
    outcomes: Counter[str] = Counter()
    with GradingPool(config.num_graders) as pool, bar:
        for number, questions in questions_of(config, table):
            if number not in own:
                continue
            prompts = [prompt_messages(question.question, config.prompt_style) for question in questions]
            completions = []
            for completion in engine.sample(prompts, settings, seed=config.seed * 1_000_003 + number):
                completions.append(completion)
                tokens += completion.num_tokens
                bar.update()
            tasks, notes = grade_shard(config, questions, completions, pool)
            path = shard_path(Path(config.output_dir), TRAJECTORIES, number)
            write_shard(path, map(task_row, tasks), TRAJECTORIES, notes)
            outcomes.update(notes["outcomes"])
            correct = outcomes["correct"] / outcomes.total()
            rate = tokens / (time.monotonic() - started)
            bar.set_postfix(correct=f"{correct:.3f}", tokens_per_second=f"{rate:,.0f}")


def open_engine(config: SampleTrajectoriesConfig) -> Engine:
    """The engine that the recipe names, ready to sample."""
    name = config.model_name_or_path
    if config.engine == "server":
        assert config.server_url is not None
        api_key = os.environ.get(config.api_key_variable)
        server = ServerEngine(config.server_url, name, api_key, max_requests=config.max_requests)
        server.check()
        return server
    if config.engine == "vllm":
        from raml_trl.vllm_engine import VLLMEngine

        return VLLMEngine.open(
            name,
            tensor_parallel_size=config.tensor_parallel_size,
            max_model_length=config.max_model_length,
            gpu_memory_utilization=config.gpu_memory_utilization,
            dtype=config.dtype,
        )
    from raml_trl.transformers_engine import TransformersEngine

    return TransformersEngine(*load_model(name, dtype=config.dtype), config.batch_size)


def grade_shard(
    config: SampleTrajectoriesConfig,
    questions: Sequence[Question],
    completions: Sequence[Completion],
    pool: GradingPool,
) -> tuple[list[Task], dict[str, Any]]:
    """The tasks of a shard, and what is to be noted of it: grading outcomes, and trajectories that came to an end."""
    n, model = config.num_trajectories, shown_name(config.model_name_or_path)
    completions = sorted(completions, key=lambda one: (one.prompt, one.sample))
    places = [(prompt, sample) for prompt in range(len(questions)) for sample in range(n)]
    assert [(one.prompt, one.sample) for one in completions] == places, "an engine gave samples twice or not at all"
    texts = [with_opening(one.text) for one in completions]
    answers = [questions[one.prompt].answer for one in completions]
    verdicts = pool.grade(list(zip(texts, answers, strict=True)), style=config.prompt_style)
    trajectories = [
        Trajectory(text, verdict.grade.correct, model, one.num_tokens)
        for text, verdict, one in zip(texts, verdicts, completions, strict=True)
    ]
    tasks = [
        Task(question, tuple(trajectories[number * n : (number + 1) * n])) for number, question in enumerate(questions)
    ]
    return tasks, {
        "outcomes": Counter(verdict.outcome for verdict in verdicts),
        "finished": sum(one.finished for one in completions),
        "tokens": sum(one.num_tokens for one in completions),
    }


def close_run(config: SampleTrajectoriesConfig, record: Run, paths: Sequence[Path], seconds: float) -> None:
    """Count what all shards hold, write the card, push if asked to, and mark the run complete."""
    notes = [read_notes(path) for path in paths]
    outcomes: Counter[str] = Counter()
    for note in notes:
        outcomes.update(note["outcomes"])
    sources: Counter[str] = Counter()
    correct, total = [], []
    for row in read_shards(paths, columns=["source", "labels"]):
        sources[row["source"]] += 1
        correct.append(sum(row["labels"]))
        total.append(len(row["labels"]))
    counts = Counts(
        correct=correct,
        total=total,
        finished=sum(note["finished"] for note in notes),
        num_tokens=sum(note["tokens"] for note in notes),
        sources=sources,
        outcomes=outcomes,
    )
    repo_id = config.hub_dataset_id
    if repo_id is not None:
        repo_id = check_hub_access(repo_id, private=config.hub_private).repo_id
    with whole_file(record.directory / _CARD) as partial:
        partial.write_text(write_card(config, repo_id or "USER/NAME", counts), encoding="utf-8")
    if repo_id is not None:
        message = f"{config.num_trajectories} trajectories of {shown_name(config.model_name_or_path)} per question"
        patterns = [_CARD, SHARDS]
        url = push_dataset(record.directory, repo_id, private=config.hub_private, patterns=patterns, message=message)
        logger.info("pushed to %s", url)
    results = {
        "questions": len(total),
        "trajectories": sum(total),
        "correct_trajectories": sum(correct),
        "questions_with_a_correct_one": sum(map(bool, correct)),
        "finished": counts.finished,
        "tokens": counts.num_tokens,
        "outcomes": dict(outcomes),
        "shards": len(paths),
    }
    remove_partials(record.directory)
    record.writes = True  # whichever process of the launch this is, it is the last
    record.finish(seconds, results)
    logger.info("%s: %s", record.directory, results)


def write_card(config: SampleTrajectoriesConfig, repo_id: str, counts: Counts) -> str:
    """The README.md of the data set."""
    names = ("num_trajectories", "max_completion_length", "temperature", "top_p", "top_k", "seed", "prompt_style")
    return trajectories_card(
        repo_id,
        model=shown_name(config.model_name_or_path),
        engine=config.engine,
        settings={name: getattr(config, name) for name in names},
        counts=counts,
    )


def shown_name(model: str) -> str:
    """The name of a model without the path that leads to it on this machine."""
    return Path(model).name if Path(model).exists() else model


if __name__ == "__main__":
    run(main, SampleTrajectoriesConfig, distributed=True)
