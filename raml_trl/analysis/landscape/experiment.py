"""Runs the experiment of `loss_landscape`: measures losses on a grid of weights, and writes and summarises them.

A row of the grid consists of all points with the same first coordinate. It is kept in a file until all rows are
measured. A killed run resumes with the missing rows. The processes of `accelerate launch` divide the rows among
themselves. The process that finds all rows complete writes the results.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from raml_trl.analysis.config import LossLandscapeConfig
from raml_trl.analysis.landscape.directions import CheckpointDirections, RandomDirections, movable
from raml_trl.analysis.landscape.losses import AnswerLosses
from raml_trl.analysis.landscape.results import Summary, summarise, surface_figure
from raml_trl.analysis.landscape.surface import Floats, Surface, surface_row
from raml_trl.analysis.trajectories import encode, encode_answer, prompt_text, tokenise
from raml_trl.data.reading import open_data, stream_questions, stream_tasks
from raml_trl.data.shards import all_written, missing_shards
from raml_trl.render.html import write_page
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file, write_json, write_rows
from raml_trl.runtime.progress import progress_bar
from raml_trl.runtime.runs import Run, process_share, require_directory
from raml_trl.sampling.loading import LOADING_ERRORS, cannot_load, check_model, load_model, load_tokenizer

logger = logging.getLogger(__name__)

_SCHEMA = pa.schema(
    {
        "alpha": pa.float64(),
        "beta": pa.float64(),  # null if there is one axis
        "question_id": pa.string(),
        "loss": pa.float64(),
    }
)


@dataclass(frozen=True)
class EncodedQuestion:
    """A question as tokens: `prefix_ids` `(P,)` are all tokens before the answer, `answer_ids` `(A,)` the answer."""

    id: str
    prefix_ids: Tensor
    answer_ids: Tensor


@dataclass(frozen=True)
class Landscape:
    """A model, the axes along which its weights move, and the questions whose losses are measured."""

    model: PreTrainedModel
    directions: RandomDirections | CheckpointDirections
    losses: AnswerLosses
    question_ids: Sequence[str]


def run_experiment(config: LossLandscapeConfig, record: Run, clock: Callable[[], float]) -> Summary | None:
    """Measure the rows of the grid that belong to this process, and write the results once all rows are measured.

    The results are written to `record.directory`. `clock` returns seconds; the difference of two of its values is
    recorded as the time of the run.

    Returns:
        The summary, or None if other processes are still measuring, or have already written the results.

    Raises:
        InputError: if a model cannot be loaded, or no question can be used.
    """
    started = clock()
    for name in (config.model_name_or_path, *config.towards):
        check_model(name)
    landscape = prepare(config)
    paths = [record.directory / f"row-{index:05d}.parquet" for index in range(len(config.axes[0]))]
    log_cost(config, landscape)
    rank, num_processes = process_share()
    own = paths[rank::num_processes]
    measure_rows(config, landscape, paths, own)
    if not all_written(paths, own):
        return None
    with record.completing() as chosen:
        return close_run(config, record, landscape, paths, lambda: clock() - started) if chosen else None


def close_run(
    config: LossLandscapeConfig, record: Run, landscape: Landscape, paths: Sequence[Path], seconds: Callable[[], float]
) -> Summary:
    """Join the rows of the grid, summarise the surface, write the results, and mark the run complete.

    `paths` are the files of all rows. `seconds` returns how long the run has taken.
    """
    table = pa.concat_tables([pq.read_table(path) for path in paths])
    with whole_file(record.directory / "loss_landscape.parquet") as partial:
        pq.write_table(table, partial)
    shape = (*map(len, config.axes), len(landscape.question_ids))
    surface = Surface(config.axes, table["loss"].to_numpy().reshape(shape))
    directions = landscape.directions
    summary = summarise(config, surface, directions.geometry if isinstance(directions, CheckpointDirections) else {})
    content = asdict(summary)
    write_json(record.directory / "loss_landscape.json", content)
    with whole_file(record.directory / "surface.svg") as partial:
        figure = surface_figure(surface, [axis.name for axis in summary.axes], summary.marks)
        partial.write_text(figure, encoding="utf-8")
    write_page(record.directory / "page.html", "loss_landscape", content)
    record.finish(seconds(), {"questions": summary.questions, "numbers": content["numbers"]})
    for path in paths:
        path.unlink()
    return summary


def prepare(config: LossLandscapeConfig) -> Landscape:
    """Encode the questions, load the model, and make the axes along which its weights move.

    Raises:
        InputError: if no question can be used, or a model cannot be loaded.
    """
    tokenizer = load_tokenizer(config.model_name_or_path)
    questions = list(islice(encode_questions(config, tokenizer), config.num_questions))
    if not questions:
        raise InputError(f"{config.dataset_name} has no right trajectory with thinking: leave after_thinking out")
    model, _ = load_model(config.model_name_or_path, dtype=config.dtype, all_devices=config.all_devices)
    prefixes, answers = [row.prefix_ids for row in questions], [row.answer_ids for row in questions]
    losses = AnswerLosses(model, prefixes, answers, tokens_per_pass=config.tokens_per_pass)
    return Landscape(model, make_directions(config, model), losses, [row.id for row in questions])


def make_directions(config: LossLandscapeConfig, model: PreTrainedModel) -> RandomDirections | CheckpointDirections:
    """Make the axes that the config asks for: random directions, or axes towards other checkpoints.

    Raises:
        InputError: if another checkpoint cannot be loaded, or does not match the model.
    """
    if not config.towards:
        return RandomDirections(
            model,
            seed=config.seed,
            dims=len(config.steps),
            normalisation=config.normalisation,
            embeddings=config.move_embeddings,
        )
    return CheckpointDirections(model, {name: read_weights(name, config.dtype) for name in config.towards})


def read_weights(name: str, dtype: str) -> dict[str, Tensor]:
    """Return the parameters of the model `name`, on the CPU.

    Raises:
        InputError: if the model cannot be loaded.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(check_model(name), dtype=dtype)
    except LOADING_ERRORS as error:
        raise cannot_load(name, error) from error
    return {own: parameter.detach() for own, parameter in model.named_parameters()}


def encode_questions(config: LossLandscapeConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[EncodedQuestion]:
    """Yield every question of the dataset as tokens: prompt and stub (the text before the answer), then the answer.

    With `after_thinking`, thinking stands between prompt and stub. It is taken from the question's first trajectory
    that is right and closes its thinking block. Questions without such a trajectory are left out.
    """
    if not config.after_thinking:
        for question in stream_questions(open_data(config)):
            prompt = encode(tokenizer, prompt_text(tokenizer, question, config.prompt_style))
            stub, answer = encode_answer(tokenizer, config.answer_stub, question.answer)
            yield EncodedQuestion(question.id, torch.cat([prompt, stub]), answer)
        return
    for task in stream_tasks(open_data(config)):
        for number, trajectory in enumerate(task.trajectories):
            tokens = tokenise(tokenizer, task.question, number, trajectory, config.prompt_style)
            if trajectory.correct and tokens.thinking_end is not None:
                stub, answer = encode_answer(tokenizer, config.answer_stub, task.question.answer)
                prefix = torch.cat([tokens.prompt_ids, tokens.ids[: tokens.thinking_end], stub])
                yield EncodedQuestion(task.question.id, prefix, answer)
                break


def log_cost(config: LossLandscapeConfig, landscape: Landscape) -> None:
    """Log the number of grid points, the tokens that the model reads at each point, and the memory beside the model."""
    names = set(landscape.directions.names)
    parameters = dict(landscape.model.named_parameters())
    moved = [parameter for name, parameter in parameters.items() if name in names]
    snapshot = sum(parameter.numel() * parameter.element_size() for parameter in moved)
    largest = max(parameter.numel() for parameter in moved)
    logger.info(
        "%d points of %d tokens each; %d of %d parameters move. Memory per process beside the model: %.2f GiB on the "
        "CPU for %s, and %.2f GiB on the device of the model for its largest tensor",
        prod(config.steps),
        landscape.losses.tokens,
        sum(parameter.numel() for parameter in moved),
        sum(parameter.numel() for parameter in parameters.values()),
        snapshot * (1 + len(config.towards)) / 2**30,
        "the snapshot and the other checkpoints" if config.towards else "the snapshot",
        4 * 4 * largest / 2**30,  # about four float32 copies
    )


def measure_rows(config: LossLandscapeConfig, landscape: Landscape, paths: Sequence[Path], own: Sequence[Path]) -> None:
    """Measure the rows of the grid that have no file yet and belong to this process, and write one file per row.

    `paths` are the files of all rows, and `own` those of this process.
    """
    lacking = set(missing_shards(own))
    missing = [row for row, path in enumerate(paths) if path in lacking]
    if not missing:
        return
    points = len(missing) * prod(config.steps[1:])
    with (
        movable(landscape.model, landscape.directions) as move,
        progress_bar(points, "moving", "point") as bar,
    ):

        def losses() -> Floats:
            measured = landscape.losses()
            bar.update()
            return measured

        for row in missing:
            measured = surface_row(move, losses, config.axes, row)
            betas = config.axes[1] if len(config.axes) == 2 else [None]
            rows = [
                {"alpha": config.axes[0][row], "beta": beta, "question_id": question, "loss": loss}
                for beta, by_question in zip(betas, np.atleast_2d(measured), strict=True)
                for question, loss in zip(landscape.question_ids, by_question.tolist(), strict=True)
            ]
            require_directory(paths[row].parent)
            write_rows(paths[row], rows, _SCHEMA)
