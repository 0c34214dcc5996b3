r"""The loss surface around a model: a map of how likely it finds the answers where its weights are moved.

    python -m raml_trl.loss_landscape --config recipes/tiny/analysis/loss_landscape.yaml
    accelerate launch --config_file accelerate_configs/ddp.yaml \
        -m raml_trl.loss_landscape --config recipes/qwen2.5-7b/loss_landscape.yaml

The axes are random directions scaled to the weights, or lead to one or two other checkpoints (`towards`). At every
point of the grid stands the loss of every question: the mean of -log p over the tokens of its answer, after the prompt
and what leads to an answer (`stub`). Nothing stands in between, or the thinking of a right trajectory
(`after_thinking`).

`output_dir` gets `loss_landscape.parquet`, the loss of every question at every point; `loss_landscape.json`, their mean
and what follows from it (`landscape.describe`); `surface.svg`, and `page.html`. The rows of the grid are files until
all are there: a killed run carries on with those that are missing, and the processes of a launch share them.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from raml_trl.analysis.config import LossLandscapeConfig
from raml_trl.analysis.landscape.directions import CheckpointDirections, RandomDirections, movable
from raml_trl.analysis.landscape.experiment import Mark, surface_figure
from raml_trl.analysis.landscape.losses import AnswerLosses
from raml_trl.analysis.landscape.surface import Floats, Surface, barrier, describe, surface_row
from raml_trl.analysis.trajectories import encode_answer, tokenise
from raml_trl.data.reading import open_data, stream_questions, stream_tasks
from raml_trl.data.shards import is_whole
from raml_trl.prompts import prompt_messages
from raml_trl.render.html import write_page
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import remove_partials, whole_file, write_json, write_rows
from raml_trl.runtime.runs import Run, is_complete, is_first_process, process_share
from raml_trl.sampling.loading import LOADING_ERRORS, cannot_load, check_model, load_model, load_tokenizer, shown_name

logger = logging.getLogger(__name__)

_SCHEMA = pa.schema(
    {
        "alpha": pa.float64(),
        "beta": pa.float64(),  # null on a curve
        "question_id": pa.string(),
        "loss": pa.float64(),
    }
)


def main(config: LossLandscapeConfig, record: Run) -> None:
    """Measure this process's rows of the grid, and close the run if they were the last."""
    started = time.monotonic()
    for name in (config.model_name_or_path, *config.towards):
        check_model(name)
    items = list(islice(encode(config, load_tokenizer(config.model_name_or_path)), config.num_questions))
    if not items:
        raise InputError(f"{config.dataset_name} holds no right trajectory that thinks: leave after_thinking out")
    questions, prefixes, answers = zip(*items, strict=True)
    model, _ = load_model(config.model_name_or_path, dtype=config.dtype, all_devices=config.all_devices)
    directions = make_directions(config, model)
    losses = AnswerLosses(model, prefixes, answers, tokens_per_pass=config.tokens_per_pass)
    paths = [record.directory / f"row-{index:05d}.parquet" for index in range(len(config.axes[0]))]
    say_cost(config, model, directions, losses)
    measure(config, model, directions, losses, questions, paths)
    try:
        table = pa.concat_tables([pq.read_table(path) for path in paths])
    except FileNotFoundError:
        if not is_complete(record.directory):
            logger.info("other processes still have rows of the grid to measure: the last of them closes the run")
        return
    with whole_file(record.directory / "loss_landscape.parquet") as partial:
        pq.write_table(table, partial)
    shape = (*map(len, config.axes), len(questions))
    surface = Surface(config.axes, table["loss"].to_numpy().reshape(shape))
    geometry = directions.geometry if isinstance(directions, CheckpointDirections) else {}
    summary = summarise(config, surface, geometry)
    write_json(record.directory / "loss_landscape.json", summary)
    marks = [Mark(mark["name"], mark["at"]) for mark in summary["marks"]]
    with whole_file(record.directory / "surface.svg") as partial:
        figure = surface_figure(surface, [axis["name"] for axis in summary["axes"]], marks)
        partial.write_text(figure, encoding="utf-8")
    write_page(record.directory / "page.html", "loss_landscape", summary)
    record.writes = True  # whichever process of the launch this is, it is the last
    record.finish(time.monotonic() - started, {"questions": len(questions), "numbers": summary["numbers"]})
    for path in paths:
        path.unlink(missing_ok=True)  # another process that saw the last row does the same
    remove_partials(record.directory)
    for name, value in summary["numbers"].items():
        shown = f"{value['mean']:.4g} [{value['low']:.4g}, {value['high']:.4g}]" if isinstance(value, dict) else value
        logger.info("%-26s %s", name, shown)


def make_directions(config: LossLandscapeConfig, model: Any) -> RandomDirections | CheckpointDirections:
    """The axes that the config asks for.

    Raises:
        InputError: if another checkpoint cannot be loaded, or is not one of this model.
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


def read_weights(name: str, dtype: str) -> dict[str, torch.Tensor]:
    """The parameters of a model, on the CPU.

    Raises:
        InputError: if it cannot be loaded.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(check_model(name), dtype=dtype)
    except LOADING_ERRORS as error:
        raise cannot_load(name, error) from error
    return {own: parameter.detach() for own, parameter in model.named_parameters()}


def encode(config: LossLandscapeConfig, tokenizer: Any) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """For every question its id, what comes before its answer `(P,)`, and the answer `(A,)`."""
    if not config.after_thinking:
        for question in stream_questions(open_data(config)):
            messages = prompt_messages(question.question, config.prompt_style)
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
            stub, answer = encode_answer(tokenizer, config.answer_stub, question.answer)
            yield question.id, torch.cat([torch.tensor(prompt), stub]), answer
        return
    for task in stream_tasks(open_data(config)):
        for number, trajectory in enumerate(task.trajectories):
            tokens = tokenise(tokenizer, task.question, number, trajectory, config.prompt_style)
            if trajectory.correct and tokens.thinking_end is not None:
                stub, answer = encode_answer(tokenizer, config.answer_stub, task.question.answer)
                prefix = torch.cat([tokens.prompt_ids, tokens.ids[: tokens.thinking_end], stub])
                yield task.question.id, prefix, answer
                break


def say_cost(
    config: LossLandscapeConfig, model: Any, directions: RandomDirections | CheckpointDirections, losses: AnswerLosses
) -> None:
    """What is about to be computed, and what memory it takes, before it begins."""
    moved = [one for name, one in model.named_parameters() if name in set(directions.names)]
    snapshot = sum(one.numel() * one.element_size() for one in moved)
    largest = max(one.numel() for one in moved)
    logger.info(
        "%d points, of %d tokens each; %d of %d parameters move. Memory of each process beside the model: %.2f GiB of "
        "the CPU for %s; for the largest tensor %.2f GiB where the model is",
        prod(config.steps),
        losses.tokens,
        sum(one.numel() for one in moved),
        sum(one.numel() for one in model.parameters()),
        snapshot * (1 + len(config.towards)) / 2**30,
        "the snapshot and the other checkpoints" if config.towards else "the snapshot",
        4 * 4 * largest / 2**30,  # some float32 copies of it
    )


def measure(
    config: LossLandscapeConfig,
    model: Any,
    directions: RandomDirections | CheckpointDirections,
    losses: AnswerLosses,
    question_ids: Sequence[str],
    paths: Sequence[Path],
) -> None:
    """Make this process's share of the rows that are missing."""
    index, of = process_share()
    missing = [row for row in range(index, len(paths), of) if not is_whole(paths[row])]
    if not missing:
        return
    points = len(missing) * prod(config.steps[1:])
    with (
        movable(model, directions) as move,
        tqdm(total=points, desc="moving", unit="point", disable=not is_first_process()) as bar,
    ):

        def measured() -> Floats:
            found = losses()
            bar.update()
            return found

        for row in missing:
            found = surface_row(move, measured, config.axes, row)
            rows = [
                {"alpha": config.axes[0][row], "beta": beta, "question_id": question, "loss": loss}
                for beta, of_point in zip(
                    config.axes[1] if len(config.axes) == 2 else [None], np.atleast_2d(found), strict=True
                )
                for question, loss in zip(question_ids, of_point.tolist(), strict=True)
            ]
            write_rows(paths[row], rows, _SCHEMA)


def summarise(config: LossLandscapeConfig, surface: Surface, geometry: dict[str, float]) -> dict[str, Any]:
    """What `loss_landscape.json` and the page hold."""
    numbers: dict[str, Any] = describe(surface, np.random.default_rng(config.seed), radius=config.reach)
    model, *towards = _titles(config)
    places = {model: [0.0] * len(config.axes)}
    for axis, name in enumerate(towards):
        numbers[f"barrier {axis + 1}"] = barrier(surface, axis)
        places[name] = [float(one == axis) for one in range(len(towards))]
    numbers |= geometry
    lowest = surface.point(surface.lowest())
    if lowest not in places.values():
        places["lowest"] = lowest
    if towards:
        names = [f"towards {name}" for name in towards]
        lead = f"The weights of {model} are moved towards those of {' and '.join(towards)}, which lie at 1."
    else:
        names = [f"random direction {axis}" for axis in range(1, len(config.axes) + 1)]
        lead = (
            f"The weights of {model} are moved along random directions, scaled to the weights "
            f"({config.normalisation}): a step of 1 is as long as they are."
        )
    after = "after the thinking of a right trajectory" if config.after_thinking else "right after the question"
    mean = surface.mean.astype(object)
    mean[~np.isfinite(surface.mean)] = None  # JSON has neither NaN nor infinity
    return {
        "title": f"Loss landscape of {model}",
        "lead": f"{lead} The loss is the mean of -log p over the answer's tokens, in nats, {after}.",
        "model": model,
        "questions": surface.losses.shape[-1],
        "axes": [{"name": name, "values": list(axis)} for name, axis in zip(names, surface.axes, strict=True)],
        "loss": mean.tolist(),
        "marks": [{"name": name, "at": at, "loss": mean[surface.index(at)]} for name, at in places.items()],
        "numbers": numbers,
    }


def _titles(config: LossLandscapeConfig) -> list[str]:
    """Of the models, without paths where that leaves them apart."""
    names = [config.model_name_or_path, *config.towards]
    shown = [shown_name(name) for name in names]
    return shown if len(set(shown)) == len(shown) else names


if __name__ == "__main__":
    run(main, LossLandscapeConfig, distributed=True)
