r"""Compares ways to choose rollouts, tokens and questions for GRPO at equal cost.

There is one comparison at equal time, one at equal generated tokens and one at an equal number of selected rollouts.

    raml-trl compare_rules recipes/tiny/rules/compare_mixed.yaml

An arm is one such way; a world is a task with the model that training starts from. A file of rules names the arms, the
worlds and the seeds (`raml_trl.sweeps.rules` describes it). First every arm is trained for a short time with several
learning rates, on seeds that only this tuning uses. Then every arm is trained with its best rate on the seeds of the
comparison. `workers` processes share the runs; a process makes one run after another.

`output_dir` gets `rules.md`, `rules.json` and `rules.svg`, and in `curves/` a file for each complete run. After an
interruption, the same command repeats only the runs that were not complete.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from raml_trl.data.reading import load_questions
from raml_trl.data.tables import open_table
from raml_trl.grpo.budgeted import MAX_STEPS, Spent, measure_start, train_on_budget
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.dataset import check_number, grpo_rows
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.limits import PATH, PROCESSES, Limits, check_settings
from raml_trl.runtime.recipes import find_recipe
from raml_trl.runtime.runs import Run, process_share
from raml_trl.sampling.engine import SamplingSettings
from raml_trl.sampling.loading import check_model
from raml_trl.sweeps.rule_results import (
    Point,
    RuleCurve,
    compare_curves,
    results_figure,
    results_json,
    results_page,
    tuning_scores,
)
from raml_trl.sweeps.rules import RuleRun, Rules, best_rates, read_rules
from raml_trl.training.evaluation import Evaluation

Clock = Callable[[], float]


@dataclass
class CompareRulesConfig:
    """Settings of `compare_rules`."""

    limits: ClassVar[Limits] = {"rules": PATH, "output_dir": PATH, "workers": PROCESSES}

    rules: str = field(metadata={"help": "YAML file of rules; raml_trl.sweeps.rules describes the format."})
    output_dir: str
    workers: int = field(default=2, metadata={"help": "Number of processes that train at a time."})

    def __post_init__(self) -> None:
        check_settings(self)


def main(config: CompareRulesConfig, record: Run) -> None:
    """Tune and compare the arms (ways to choose rollouts, tokens or questions), and write and print the results."""
    started = time.monotonic()
    processes = process_share()[1]
    if processes > 1:
        raise InputError(
            f"compare_rules was launched in {processes} processes: start it with `python -m`, and set workers to the "
            "number of processes that train at a time"
        )
    rules = read_rules(find_recipe(config.rules))
    check_runs(rules)
    try:
        tuned = complete(list(rules.tuning_runs()), record.directory, config.workers, "tuning")
        rates = best_rates(tuning_scores(tuned))
        compared = complete(list(rules.comparison_runs(rates)), record.directory, config.workers, "comparison")
    finally:
        record.save(record.seconds + time.monotonic() - started)
    results = compare_curves(compared, rules)
    page = results_page(results, compared, rules)
    for name, text in (("rules.md", page), ("rules.svg", results_figure(results, rules))):
        with whole_file(record.directory / name) as partial:
            partial.write_text(text, encoding="utf-8")
    write_json(record.directory / "rules.json", results_json(results, [*tuned, *compared]))
    record.finish(record.seconds, {"runs": len(tuned) + len(compared)})
    sys.stdout.write(f"\n{page}\n{record.directory / 'rules.md'}\n")


def check_runs(rules: Rules) -> None:
    """Check the settings of all runs, and that their models and datasets exist.

    Raises:
        InputError: if a setting is unknown or invalid, a model or dataset is missing, or a dataset has too few
            questions.
    """
    known = {entry.name for entry in fields(SubsetGRPOConfig)}
    checked = set()
    for rule_run in rules.all_runs():
        unknown = next((name for name in rule_run.settings if name not in known), None)
        if unknown is not None:
            raise InputError(f"{rule_run.arm} in {rule_run.world}: train_grpo has no setting {unknown!r}")
        try:
            grpo = grpo_config(rule_run, "unused")
        except (ValueError, NotImplementedError) as error:  # raised by TRL's config and by ours
            raise InputError(f"{rule_run.arm} in {rule_run.world}: {error}") from error
        start = rule_run.start
        start_and_batch = (start.model, start.questions, start.test, grpo.generation_batch_size, grpo.num_generations)
        if start_and_batch not in checked:
            check_model(start.model)
            check_number(grpo_rows(open_table(start.questions), rule_run.prompt_style), grpo, start.questions)
            open_table(start.test)
            checked.add(start_and_batch)


def complete(runs: Sequence[RuleRun], directory: Path, workers: int, stage: str) -> list[RuleCurve]:
    """Carry out those of `runs` that have no result in `directory` yet, and return the curves of all `runs`.

    A curve holds the Pass@1 of a run after growing amounts of time, generated tokens and selected rollouts.

    Args:
        runs: the runs of one stage, which is the tuning or the comparison.
        directory: the output directory of the comparison.
        workers: number of processes that train at a time.
        stage: name of the stage, which the progress bar shows.

    Raises:
        InputError: if `directory` has a result of one of the runs that was made with other settings.
    """
    missing = [rule_run for rule_run in runs if read_curve(rule_run, directory) is None]
    with tqdm(total=len(runs), initial=len(runs) - len(missing), desc=stage, unit="run") as bar:
        for _ in _make(missing, directory, workers):
            bar.update()
    curves = [read_curve(rule_run, directory) for rule_run in runs]
    return [curve for curve in curves if curve is not None]


def _make(runs: Iterable[RuleRun], directory: Path, workers: int) -> Iterator[None]:
    """Make `runs`, and yield after each. With several workers, the order of the ends is that of the processes.

    The workers end with this generator, also in the middle of their runs, as after a signal.
    """
    if workers == 1:
        for rule_run in runs:
            make_run(rule_run, directory)
            yield
        return
    # A forked process would share the threads of torch with its parent.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        try:
            futures = [pool.submit(make_run, rule_run, directory) for rule_run in runs]
            for future in as_completed(futures):
                yield future.result()
        finally:
            for worker in multiprocessing.active_children():
                worker.terminate()  # no result is lost or half-written, because a file is written in one step


def _end_with_parent() -> None:
    """End this process when its parent ends, also if the parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def make_run(
    rule_run: RuleRun, directory: Path, *, clock: Clock = time.process_time, wall: Clock = time.monotonic
) -> None:
    """Train, and write the curve of the run (Pass@1 after growing amounts of time, tokens and rows) below `directory`.

    `clock` returns the CPU time of this process and `wall` the wall-clock time, in seconds.
    """
    start = rule_run.start
    rows = grpo_rows(open_table(start.questions), rule_run.prompt_style)
    with tempfile.TemporaryDirectory() as scratch:
        config = grpo_config(rule_run, scratch)
        assert config.max_completion_length is not None
        evaluation = Evaluation(
            # A batch of questions of equal length has less padding.
            questions=tuple(sorted(load_questions(start.test), key=lambda question: len(question.question))),
            prompt_style=rule_run.prompt_style,
            settings=SamplingSettings(rule_run.num_samples, config.max_completion_length, config.temperature, 1.0, 0),
            k=(1,),
            batch_size=config.per_device_eval_batch_size,
            seed=rule_run.seed,
        )
        before = _start_score(
            rule_run, evaluation, directory, lambda: measure_start(start.model, rows, evaluation, config)
        )
        spent = train_on_budget(
            start.model,
            rows,
            evaluation,
            config,
            tokens=rule_run.tokens,
            evaluations=rule_run.evaluations,
            clock=clock,
            wall=wall,
        )
    write_json(_curve_path(rule_run, directory), RuleCurve(rule_run, (Point(before), *map(_point, spent))).as_json())


def grpo_config(rule_run: RuleRun, output_dir: str) -> SubsetGRPOConfig:
    """Return the settings of the trainer for a run. The trainer saves no checkpoint and reports to no tracker."""
    return SubsetGRPOConfig(
        output_dir=output_dir,
        max_steps=MAX_STEPS,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **rule_run.settings,
    )


def read_curve(rule_run: RuleRun, directory: Path) -> RuleCurve | None:
    """Return the curve (Pass@1 over cost) of a complete run, or None if the run is not complete.

    Raises:
        InputError: if the file of the curve is from a run with other settings.
    """
    content = _read_result(_curve_path(rule_run, directory), {"run": rule_run.as_json()})
    return None if content is None else RuleCurve(rule_run, tuple(Point(**point) for point in content["points"]))


def _start_score(rule_run: RuleRun, evaluation: Evaluation, directory: Path, measure: Callable[[], float]) -> float:
    """Return the score of the model from which a run starts. All runs of a world and seed share it."""
    path = directory / "curves" / rule_run.world / f"start-seed-{rule_run.seed}.json"
    identity = {
        "start": asdict(rule_run.start),
        "num_samples": rule_run.num_samples,
        "prompt_style": evaluation.prompt_style,
        "sampling": asdict(evaluation.settings),
    }
    content = _read_result(path, identity)
    if content is None:
        content = {**identity, "score": measure()}
        write_json(path, content)
    return float(content["score"])


def _read_result(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the content of a result file, or None if there is none.

    The file must not differ from `identity`. It may lack entries that older versions did not write.
    """
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    expected = json.loads(json.dumps(identity))
    if expected != {name: content.get(name, value) for name, value in expected.items()}:
        raise InputError(f"{path} is from other rules: choose another output_dir, or remove this file to run it again")
    return content


def _curve_path(rule_run: RuleRun, directory: Path) -> Path:
    return directory / "curves" / f"{rule_run.name}.json"


def _point(spent: Spent) -> Point:
    counts = spent.counts
    return Point(
        pass_at_1=spent.score,
        step=spent.step,
        process_seconds=spent.process_seconds,
        wall_seconds=spent.wall_seconds,
        rollouts=counts["rollouts"],
        tokens_generated=counts["tokens_generated"],
        rows_selected=counts["selected"],
        rows_trained=counts["trained"],
        tokens_trained=counts["tokens_trained"],
    )


if __name__ == "__main__":
    run(main, CompareRulesConfig)
