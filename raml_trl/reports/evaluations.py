"""Reads the evaluations that a report shows.

Each evaluation is a stage of the report, such as the base model, SFT and GRPO. A stage has metrics, paired differences
to the stage before it, and some of its samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from raml_trl.evaluation.comparison import compare_runs
from raml_trl.evaluation.intervals import Difference
from raml_trl.evaluation.samples import read_samples
from raml_trl.render.tables import DASH, Cell, Table, interval
from raml_trl.reports.runs import Seeds, TrainingRun
from raml_trl.reports.terms import INTERVAL, P_VALUE, metric_terms, metric_title
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import Row, read_rows
from raml_trl.runtime.rollout_table import CORRECT, SELECTED, column_name, read_flag, read_rollouts
from raml_trl.runtime.runs import complete_record, identity, is_run, read_record

_SAMPLES = "samples.parquet"
_SAMPLES_SHOWN = 2  # correct samples of each stage, and as many wrong samples
_ROLLOUTS_SHOWN = 16  # at most, of a logged group


@dataclass(frozen=True)
class MetricMean:
    """Mean of a metric over the questions of an evaluation, with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class StageComparison:
    """The difference of each metric: its value for this stage, minus its value for the stage named `before`.

    `differences` maps the name of a metric to its difference. If the two stages cannot be compared, it is empty, and
    `reason` says why.
    """

    before: str
    differences: Mapping[str, Difference]
    reason: str | None = None


@dataclass(frozen=True)
class Stage:
    """One evaluation. `results` are the results in the `run.json` of the evaluation.

    `seconds` is the duration of the training with the same name, or None if the report has no such training.
    """

    name: str
    directory: str
    seconds: float | None
    results: Mapping[str, Any]
    comparison: StageComparison | None = None

    @property
    def metrics(self) -> dict[str, MetricMean]:
        return {
            name: MetricMean(value["mean"], value["low"], value["high"])
            for name, value in self.results["metrics"].items()
        }

    def to_json(self) -> dict[str, object]:
        """Return the stage as `report.json` stores it."""
        content = {"name": self.name, "directory": self.directory, "seconds": self.seconds, **self.results}
        if self.comparison is not None:
            differences = {name: asdict(value) for name, value in self.comparison.differences.items()}
            content |= {"before": self.comparison.before, "differences": differences}
            content |= {"reason": self.comparison.reason} if self.comparison.reason else {}
        return content


def read_stages(named: Sequence[tuple[str, str]], seconds: Mapping[str, float], seed: int) -> list[Stage]:
    """Read evaluations and compare each with the evaluation before it, paired by question. Return a stage for each.

    Args:
        named: name and directory of each evaluation, in order.
        seconds: seconds that each training took, by the name of its stage.
        seed: seed of the resampling for intervals and p-values.

    Raises:
        InputError: if a directory holds no complete evaluation of a single model.
    """
    stages = [_read_stage(name, directory, seconds.get(name)) for name, directory in named]
    metrics = common_metrics(stages)
    return stages[:1] + [_compared(before, stage, metrics, seed) for before, stage in pairwise(stages)]


def _read_stage(name: str, directory: str, seconds: float | None) -> Stage:
    record = complete_record(directory, "evaluate")
    if "metrics" not in record["results"]:
        raise InputError(f"{directory} holds evaluations of several models: give the directory of one of them")
    return Stage(name, directory, seconds, record["results"])


def common_metrics(stages: Sequence[Stage]) -> list[str]:
    """Return the names of the metrics that all stages have, in the order of the first stage."""
    return [name for name in stages[0].metrics if all(name in stage.metrics for stage in stages)] if stages else []


def _compared(before: Stage, stage: Stage, metrics: Sequence[str], seed: int) -> Stage:
    """Return `stage` with its differences to `before`. Metrics that `compare` does not compute have no difference."""
    try:
        differences, reason = _differences(before, stage, metrics, seed), None
    except InputError as error:  # the report still shows each stage by itself
        differences, reason = {}, str(error)
    comparison = StageComparison(before.name, differences, reason)
    return Stage(stage.name, stage.directory, stage.seconds, stage.results, comparison)


def _differences(before: Stage, stage: Stage, metrics: Sequence[str], seed: int) -> dict[str, Difference]:
    runs = {each.name: read_samples(Path(each.directory) / _SAMPLES) for each in (before, stage)}
    ks = sorted({int(name.partition("@")[2].partition("_")[0]) for name in metrics})
    compared = compare_runs(runs, ks, seed)
    return {name: Difference(**compared[name][stage.name]["difference"]) for name in metrics if name in compared}


def stage_table(stages: Sequence[Stage]) -> Table:
    """Make the table of metrics, one row per stage."""
    metrics = common_metrics(stages)
    timed = any(stage.seconds is not None for stage in stages)
    rows = [
        (
            Cell(stage.name),
            *(interval(stage.metrics[name]) for name in metrics),
            *([Cell(DASH if stage.seconds is None else f"{stage.seconds:.0f}")] if timed else []),
        )
        for stage in stages
    ]
    sizes = {(stage.results["questions"], stage.results["samples_per_question"]) for stage in stages}
    over = " or ".join(f"{questions} questions with {samples} samples each" for questions, samples in sorted(sizes))
    note = f"Means over {over}; 95 % bootstrap intervals over questions."
    head = ("stage", *map(metric_title, metrics), *["seconds"] * timed)
    terms = (*metric_terms(metrics), INTERVAL, *[("seconds", "training time of the stage")] * timed)
    return Table(head, tuple(rows), note, terms, "metrics by stage")


def difference_table(stages: Sequence[Stage]) -> Table | None:
    """Make the table of differences: each stage minus the stage before it. None if there are fewer than two stages."""
    metrics = common_metrics(stages)
    compared = [(stage.name, stage.comparison) for stage in stages if stage.comparison is not None]
    rows = [
        (
            Cell(f"{name} \N{MINUS SIGN} {comparison.before}"),
            *(_difference_cell(comparison.differences.get(metric)) for metric in metrics),
        )
        for name, comparison in compared
    ]
    if not rows:
        return None
    note = (
        "Each stage minus the one before it. Pairing by question removes question difficulty from the noise. 95 % "
        "bootstrap intervals; p-values of the two-sided sign-flip test, not corrected for multiple comparisons."
    )
    missing = [f" {name}: {comparison.reason}." for name, comparison in compared if comparison.reason]
    head = ("difference", *map(metric_title, metrics))
    return Table(head, tuple(rows), note + "".join(missing), (INTERVAL, P_VALUE), "differences between stages")


def _difference_cell(difference: Difference | None) -> Cell:
    return Cell(DASH) if difference is None else interval(difference, signed=True, p=difference.p_value)


@dataclass(frozen=True)
class Sample:
    """A completion of an evaluation: `text`, which answers `question`.

    `question` is the text of the question, and `reference` the answer that is right. Both are None if the dataset is
    gone or has changed.
    """

    question_id: str
    question: str | None
    reference: str | None
    text: str
    correct: bool


@dataclass(frozen=True)
class Rollout:
    """A rollout that a GRPO run logged; fields that the run did not log are None."""

    text: str
    correct: bool | None
    selected: bool | None
    advantage: float | None


@dataclass(frozen=True)
class Group:
    """At most 16 rollouts of one question from the training called `name`, logged at optimizer step `step`.

    `unreadable` is the number of later steps whose completions cannot be read, because the run is writing them or was
    killed while it wrote them.
    """

    name: str
    step: int
    question: str
    rollouts: Sequence[Rollout]
    unreadable: int = 0


def choose_samples(stage: Stage) -> list[Sample]:
    """Return the first two correct and the first two wrong samples of a stage, among sample 0 of each question."""
    path = Path(stage.directory) / _SAMPLES
    rows = [row for row in read_rows(path) if row["sample"] == 0] if path.is_file() else []
    right, wrong = ([row for row in rows if row["correct"] == correct] for correct in (True, False))
    chosen = right[:_SAMPLES_SHOWN] + wrong[:_SAMPLES_SHOWN]
    questions = _questions(Path(stage.directory), {row["question_id"] for row in chosen})
    samples = []
    for row in chosen:
        question, reference = questions.get(row["question_id"], (None, None))
        samples.append(Sample(row["question_id"], question, reference, row["text"], row["correct"]))
    return samples


def _questions(directory: Path, ids: set[str]) -> dict[str, tuple[str, str]]:
    """Return the texts of questions and their reference answers by id.

    There are none if the dataset has changed since the evaluation in `directory`.
    """
    record = read_record(directory)
    data = record["settings"].get("dataset_name")
    if not is_run(data) or identity(Path(data)) != record["inputs"].get("dataset_name"):
        return {}
    rows = [row for path in sorted(Path(data).glob("questions-*.parquet")) for row in read_rows(path)]
    return {row["id"]: (row["problem"], row["answer"]) for row in rows if row["id"] in ids}


def read_groups(trainings: Sequence[Seeds]) -> list[Group]:
    """Return, for each GRPO training that logged completions, one group of the last step whose completions can be read.

    A group with both correct and wrong rollouts is preferred. If a training has runs with several seeds, the first run
    is used.

    Raises:
        InputError: if a complete training has completions that cannot be read.
    """
    groups = []
    for training in trainings:
        rows, unreadable = _last_rollouts(training.runs[0])
        if not rows:
            continue
        by_prompt: dict[str, list[Rollout]] = {}
        for row in rows:
            by_prompt.setdefault(_text(row["prompt"]), []).append(_rollout(row))
        mixed = [prompt for prompt, group in by_prompt.items() if len({rollout.correct for rollout in group}) > 1]
        question = (mixed or list(by_prompt))[0]
        shown = by_prompt[question][:_ROLLOUTS_SHOWN]
        groups.append(Group(training.name, rows[0]["step"], question, shown, unreadable))
    return groups


def _last_rollouts(run: TrainingRun) -> tuple[list[Row], int]:
    """Return the last table of completions that can be read, and the number of later ones, or no row without any."""
    paths = sorted((run.directory / "completions").glob("*.parquet"), reverse=True)
    for unreadable, path in enumerate(paths):
        try:
            return read_rollouts(path), unreadable
        except InputError:
            if run.record["status"] == "complete":
                raise
    return [], len(paths)


def _rollout(row: Mapping[str, Any]) -> Rollout:
    correct, selected = (read_flag(row.get(column_name(row, name))) for name in (CORRECT, SELECTED))
    return Rollout(_text(row["completion"]), correct, selected, row.get("advantage"))


def _text(value: str | list[dict[str, str]]) -> str:
    """Return a prompt or completion, plain or conversational, as text."""
    return value if isinstance(value, str) else "\n".join(message["content"] for message in value)
