"""Loss landscape: its directions, losses and numbers are right, and the weights end bit-identical to their start."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, Qwen2Config

from raml_trl.analysis.config import LossLandscapeConfig
from raml_trl.analysis.landscape import experiment
from raml_trl.analysis.landscape import losses as answer_losses
from raml_trl.analysis.landscape.directions import CheckpointDirections, RandomDirections, movable
from raml_trl.analysis.landscape.losses import AnswerLosses
from raml_trl.analysis.landscape.results import Mark, summarise, surface_figure
from raml_trl.analysis.landscape.surface import Surface, axis_to_one, barrier, centred_axis, describe, roughness, scan
from raml_trl.analysis.likelihood import answer_nll
from raml_trl.data.reading import load_questions
from raml_trl.data.records import Question, Task, Trajectory, task_row
from raml_trl.data.shards import QUESTIONS, TRAJECTORIES, write_shards
from raml_trl.loss_landscape import main
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_rows
from raml_trl.runtime.runs import open_run
from raml_trl.sampling.loading import load_model
from tests.analysis.test_likelihood import PACKABLE, SIZES, make_model
from tests.helpers import REPOSITORY
from tests.launches.test_interruption import LAUNCH, kill_when

STUB = "</think>\\boxed{"


def qwen2(*, tied: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    return make_model(Qwen2Config(**SIZES, tie_word_embeddings=tied), "sdpa", dtype)


@pytest.fixture
def texts() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Random prefixes and answers of seven questions, not sorted by length."""
    generator = torch.Generator().manual_seed(3)
    lengths = [(9, 2), (1, 1), (30, 5), (4, 7), (30, 1), (12, 3), (2, 6)]
    drawn = [[torch.randint(97, (length,), generator=generator) for length in pair] for pair in lengths]
    return [prefix for prefix, _ in drawn], [answer for _, answer in drawn]


def bits(model: Any) -> dict[str, bytes]:
    return {
        name: parameter.detach().flatten().view(torch.uint8).numpy().tobytes()
        for name, parameter in model.named_parameters()
    }


# Directions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_filter_directions_have_the_norm_of_each_output_row(dtype: torch.dtype) -> None:
    model = qwen2(dtype=dtype)
    weights = dict(model.named_parameters())
    directions = RandomDirections(model, seed=0)
    moved = [
        name for name, weight in weights.items() if weight.ndim == 2 and "embed" not in name and "lm_head" not in name
    ]
    assert sorted(directions.names) == sorted(moved)
    for number in (0, 1):
        for name in moved:
            drawn = directions.direction(number, name, weights[name].detach())
            for row, own in zip(drawn, weights[name], strict=True):
                wanted = math.sqrt(sum(value**2 for value in own.tolist()))
                assert math.sqrt(sum(value**2 for value in row.tolist())) == pytest.approx(wanted, rel=1e-5)


def test_tensor_directions_have_the_norm_of_each_tensor() -> None:
    model = qwen2()
    weights = dict(model.named_parameters())
    directions = RandomDirections(model, seed=0, normalisation="tensor")
    assert set(weights) - set(directions.names) == {"model.embed_tokens.weight", "lm_head.weight"}
    rows_alike = True
    for name in directions.names:
        drawn, own = directions.direction(0, name, weights[name].detach()).numpy(), weights[name].detach().numpy()
        # This holds for a bias of zeros too: it does not move.
        assert np.sqrt((drawn**2).sum()) == pytest.approx(np.sqrt((own**2).sum()), rel=1e-5)
        if own.ndim == 2:
            rows_alike &= np.allclose(np.linalg.norm(drawn, axis=1), np.linalg.norm(own, axis=1), rtol=1e-3)
    assert not rows_alike


def test_global_directions_have_one_scale() -> None:
    model = qwen2()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    whole = RandomDirections(model, seed=0, normalisation="global")
    raw = RandomDirections(model, seed=0, normalisation="tensor")
    for number in (0, 1):
        drawn = {name: whole.direction(number, name, weights[name]).double().numpy() for name in whole.names}
        length = math.sqrt(sum((direction**2).sum() for direction in drawn.values()))
        wanted = math.sqrt(sum((weights[name].double().numpy() ** 2).sum() for name in drawn))
        assert length == pytest.approx(wanted, rel=1e-5)
        # Before scaling, the entries are the same as with "tensor". All are then multiplied by one number.
        spreads = [direction.std() for direction in drawn.values() if direction.size > 1000]
        assert max(spreads) / min(spreads) < 1.2
        name = "model.layers.0.mlp.up_proj.weight"
        ratio = drawn[name] / raw.direction(number, name, weights[name]).double().numpy()
        assert np.ptp(ratio) / ratio.mean() < 1e-4


def test_a_direction_depends_only_on_seed_number_and_name() -> None:
    model, name = qwen2(), "model.layers.1.self_attn.q_proj.weight"
    other = "model.layers.2.self_attn.q_proj.weight"
    start = dict(model.named_parameters())[name].detach()

    def drawn(seed: int, number: int, name: str) -> torch.Tensor:
        return RandomDirections(model, seed=seed).direction(number, name, start)

    first = drawn(0, 0, name)
    assert torch.equal(first, drawn(0, 0, name))
    for key in [(1, 0, name), (0, 1, name), (0, 0, other)]:
        assert abs(torch.corrcoef(torch.stack([first.flatten(), drawn(*key).flatten()]))[0, 1]) < 0.15
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert torch.equal(first, drawn(0, 0, name))
    assert torch.equal(torch.random.get_rng_state(), before)  # the global generator is not used


class Reordered:
    """A model that lists its parameters in the opposite order."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.get_input_embeddings, self.get_output_embeddings = model.get_input_embeddings, model.get_output_embeddings

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return iter(reversed(list(self._model.named_parameters())))


@pytest.mark.parametrize("normalisation", ["filter", "tensor", "global"])
def test_the_order_of_parameters_does_not_matter(normalisation: Any) -> None:
    model = qwen2()
    here = RandomDirections(model, seed=0, normalisation=normalisation)
    there = RandomDirections(Reordered(model), seed=0, normalisation=normalisation)
    assert here.names == there.names[::-1]
    for name, weights in model.named_parameters():
        if name in here.names:
            first, second = (each.at(name, weights.detach(), [0.3, -0.2]) for each in (here, there))
            assert torch.allclose(first, second, rtol=1e-6, atol=0)


def test_tied_embeddings_are_one_parameter() -> None:
    model = qwen2(tied=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not [name for name in RandomDirections(model, seed=0).names if "embed" in name or "lm_head" in name]
    directions = RandomDirections(model, seed=0, dims=1, embeddings=True)
    before = model.lm_head.weight.detach().clone()
    with movable(model, directions) as move:
        move([0.5])
        assert model.lm_head.weight is model.model.embed_tokens.weight
        moved = (model.lm_head.weight.detach() - before).norm(dim=1) / before.norm(dim=1)
        assert torch.allclose(moved, torch.full_like(moved, 0.5), rtol=1e-4)  # once, not twice
    untied = RandomDirections(qwen2(), seed=0, embeddings=True)
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(untied.names)


# Weights are restored


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_end_as_they_began(dtype: torch.dtype, texts: Any) -> None:
    model = qwen2(dtype=dtype)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, :3] = torch.tensor([-0.0, 0.0, 1e-40])
    before = bits(model)
    axes = (centred_axis(5, 0.3), centred_axis(3, 0.3))
    losses = AnswerLosses(model, *texts)
    first = scan(model, RandomDirections(model, seed=0, normalisation="tensor"), axes, losses)
    assert bits(model) == before
    assert np.array_equal(first.losses[first.origin], losses())  # at the origin, the model is unchanged
    again = scan(model, RandomDirections(model, seed=0, normalisation="tensor"), axes, losses)
    assert np.array_equal(first.losses, again.losses)


def test_a_point_does_not_depend_on_earlier_points() -> None:
    model = qwen2(dtype=torch.bfloat16)
    directions = RandomDirections(model, seed=0)
    with movable(model, directions) as move:
        move([0.1, 0.2])
        direct = bits(model)
        for _ in range(20):
            move([0.7, -0.3])
            move([0.1, 0.2])
        assert bits(model) == direct


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_restored_when_something_fails(error: type[BaseException]) -> None:
    model = qwen2(dtype=torch.bfloat16)
    before, calls = bits(model), []

    def losses() -> Any:
        calls.append(bits(model))
        if len(calls) == 6:
            raise error("in the middle")
        return np.zeros(2)

    with pytest.raises(error, match="in the middle"):
        scan(model, RandomDirections(model, seed=0), (centred_axis(3, 1.0),) * 2, losses)
    assert calls[-1] != before  # the weights had moved when the failure came
    assert bits(model) == before


def test_a_model_that_changes_meanwhile_raises() -> None:
    model = qwen2()
    layer = model.model.layers[0].self_attn.q_proj

    def losses() -> Any:
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
        return np.zeros(2)

    with pytest.raises(RuntimeError, match=r"1 parameters could not be restored, first model\.layers\.0"):
        scan(model, RandomDirections(model, seed=0), (centred_axis(3, 1.0),) * 2, losses)


def test_losses_keep_the_mode_of_the_model(texts: Any) -> None:
    model = qwen2().train()
    AnswerLosses(model, *texts)()
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


# The loss


@pytest.mark.parametrize("name", PACKABLE)
@pytest.mark.parametrize("tokens_per_pass", [1, 60, 10_000])
def test_losses_equal_those_of_each_question_alone(name: str, tokens_per_pass: int, texts: Any) -> None:
    model = make_model(*PACKABLE[name])
    losses = AnswerLosses(model, *texts, tokens_per_pass=tokens_per_pass)()
    wanted = [answer_nll(model, prefix, answer) for prefix, answer in zip(*texts, strict=True)]
    assert losses.tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    assert np.ptp(wanted) > 0.5


def test_the_loss_of_a_model_with_a_state(texts: Any) -> None:
    config = MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8)
    model = make_model(config, "eager")
    wanted = [answer_nll(model, prefix, answer) for prefix, answer in zip(*texts, strict=True)]
    assert AnswerLosses(model, *texts)().tolist() == pytest.approx(wanted, rel=1e-3)


def test_batches_stay_within_their_tokens(texts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = qwen2(), []
    forward = model.forward

    def counted(**inputs: Any) -> Any:
        seen.append(inputs["input_ids"].shape)
        return forward(**inputs)

    losses = AnswerLosses(model, *texts, tokens_per_pass=60)
    assert losses.tokens == sum(len(text) for part in texts for text in part) - 7
    monkeypatch.setattr(model, "forward", counted)
    losses()
    assert max(rows * width for rows, width in seen) <= 60
    assert 1 < len(seen) < 7
    assert sum(rows for rows, _ in seen) == 7

    seen.clear()
    monkeypatch.setattr(answer_losses, "_LOGITS_PER_PASS", 1)
    AnswerLosses(model, *texts)()
    assert [rows for rows, _ in seen] == [1] * 7


def test_losses_need_a_question_a_prefix_and_an_answer() -> None:
    token = torch.tensor([1])
    for prefixes, answers in [([], []), ([token[:0]], [token]), ([token], [token[:0]])]:
        with pytest.raises(ValueError, match="pass at least one question"):
            AnswerLosses(qwen2(), prefixes, answers)


# Checkpoints


def perturbed(model: Any, seed: int, **settings: Any) -> Any:
    """Return a model of the same shape, in which some weights are different."""
    other, generator = qwen2(**settings), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "o_proj" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype), alpha=0.1)
    return other


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_checkpoints_lie_at_one(dtype: torch.dtype, texts: Any) -> None:
    model = qwen2(dtype=dtype)
    others = [perturbed(model, seed, dtype=dtype) for seed in (1, 2)]
    directions = CheckpointDirections(model, {"B": parameters(others[0]), "C": parameters(others[1])})
    assert not [name for name in directions.names if "o_proj" in name]
    assert [name for name in directions.names if "embed" in name]
    before = bits(model)
    with movable(model, directions) as move:
        for point, other in (([1.0, 0.0], others[0]), ([0.0, 1.0], others[1])):
            move(point)
            assert bits(model) == bits(other)
        move([0.5, 0.0])
        name = "model.layers.0.mlp.up_proj.weight"
        halfway = (parameters(others[0])[name].double() + parameters(qwen2(dtype=dtype))[name].double()) / 2
        assert torch.allclose(parameters(model)[name].double(), halfway, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert bits(model) == before
    axes = (axis_to_one(5, 0.5), axis_to_one(7, 0.5))
    surface = scan(model, directions, axes, AnswerLosses(model, *texts))
    assert bits(model) == before
    for point, other in (([0, 0], model), ([1, 0], others[0]), ([0, 1], others[1])):
        assert np.array_equal(surface.losses[surface.index(point)], AnswerLosses(other, *texts)())


def test_distances_and_cosine_of_checkpoints() -> None:
    model = qwen2()
    name = "model.layers.0.mlp.up_proj.weight"
    corners = [parameters(model) for _ in range(2)]
    apart = torch.zeros_like(corners[0][name])
    apart[0, 0] = 3.0
    corners[0] = corners[0] | {name: corners[0][name] + apart}
    aside = apart.clone()
    aside[0, 1] = 4.0
    corners[1] = corners[1] | {name: corners[1][name] + aside}
    geometry = CheckpointDirections(model, dict(zip("BC", corners, strict=True))).geometry
    length = math.sqrt(sum(float((weight.double() ** 2).sum()) for weight in parameters(model).values()))
    assert geometry["distance 1"] == pytest.approx(3, rel=1e-5)
    assert geometry["distance 2"] == pytest.approx(5, rel=1e-5)
    assert geometry["cosine between the axes"] == pytest.approx(0.6, rel=1e-5)
    assert geometry["length of the weights"] == pytest.approx(length, rel=1e-6)


def test_checkpoints_of_another_model_are_rejected() -> None:
    model = qwen2()
    own = parameters(model)
    with pytest.raises(InputError, match=r"towards B: its weights equal those of model_name_or_path"):
        CheckpointDirections(model, {"B": own})
    with pytest.raises(InputError, match=r"towards B: only model_name_or_path has the parameter lm_head\.weight"):
        CheckpointDirections(model, {"B": parameters(qwen2(tied=True))})
    with pytest.raises(InputError, match=r"towards B: only this checkpoint has the parameter lm_head\.weight"):
        CheckpointDirections(qwen2(tied=True), {"B": own})
    with pytest.raises(InputError, match=r"lm_head\.weight is \(3, 32\), not \(97, 32\)"):
        CheckpointDirections(model, {"B": own | {"lm_head.weight": own["lm_head.weight"][:3]}})


# The grid and its numbers


class Bowl(torch.nn.Module):
    """A model of two tensors. The tests define losses for it that are known functions of the tensors."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a = torch.nn.Parameter(torch.randn(8, 16, generator=generator, dtype=torch.float64))
        self.b = torch.nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64))

    def get_input_embeddings(self) -> None:
        return None

    get_output_embeddings = get_input_embeddings


def test_the_curvature_of_a_bowl() -> None:
    bowl = Bowl()
    start = {name: weight.detach().clone() for name, weight in bowl.named_parameters()}
    stiffness = np.array([1.0, 3.0, 10.0])
    directions = RandomDirections(bowl, seed=0, normalisation="tensor")
    tilt = directions.direction(1, "a", start["a"])

    def losses() -> Any:
        """Return c/2 |w - w0|^2 for three questions with stiffness c, plus a slope along the second axis."""
        moved = sum(float((weight.detach() - start[name]).square().sum()) for name, weight in bowl.named_parameters())
        slope = float(((bowl.a.detach() - start["a"]) * tilt).sum() / tilt.square().sum())
        return stiffness / 2 * moved + 0.25 * slope

    surface = scan(bowl, directions, (centred_axis(5, 0.4), centred_axis(7, 0.3)), losses)
    numbers: Any = describe(surface, np.random.default_rng(0), radius=0.2)
    # At coordinate alpha of an axis |w - w0| = alpha |w0|, so the curvature of the loss is c |w0|^2.
    squared = sum(float(weight.square().sum()) for weight in start.values())
    for axis in (1, 2):
        curvature = numbers[f"curvature {axis}"]
        assert curvature.mean == pytest.approx(squared * stiffness.mean(), rel=1e-6)
        # The interval spans all three questions, because some bootstrap samples draw the same question three times.
        assert curvature.low == pytest.approx(squared * 1.0)
        assert curvature.high == pytest.approx(squared * 10.0)
    overlap = float((directions.direction(0, "a", start["a"]) * tilt).sum() / tilt.square().sum())
    assert numbers["slope 1"].mean == pytest.approx(0.25 * overlap, rel=1e-5)
    assert numbers["slope 2"].mean == pytest.approx(0.25, rel=1e-5)
    assert numbers["loss at the origin"].mean == 0
    assert numbers["lowest loss"] == 0
    assert (numbers["lowest at 1"], numbers["lowest at 2"]) == (0, 0)
    assert numbers["share below the origin"] == 0


def test_axes_are_not_transposed() -> None:
    bowl = Bowl()
    directions = RandomDirections(bowl, seed=0, normalisation="tensor")
    start = bowl.a.detach().clone()
    both = torch.stack([directions.direction(number, "a", start).flatten() for number in (0, 1)], dim=1)

    def losses() -> Any:
        return torch.linalg.lstsq(both, (bowl.a.detach() - start).flatten()[:, None]).solution[:, 0].numpy()

    axes = (centred_axis(3, 0.5), centred_axis(7, 0.3))
    surface = scan(bowl, directions, axes, losses)
    assert surface.losses.shape == (3, 7, 2)
    for i, alpha in enumerate(axes[0]):
        for j, beta in enumerate(axes[1]):
            assert surface.losses[i, j] == pytest.approx([alpha, beta], abs=1e-6)
    assert surface.point((2, 0)) == [0.5, -0.3]
    assert surface.index([0.5, -0.3]) == (2, 0)
    assert surface.along(0)[:, 0] == pytest.approx(axes[0], abs=1e-6)
    assert surface.along(1)[:, 1] == pytest.approx(axes[1], abs=1e-6)


def grid(values: Any, *axes: tuple[float, ...]) -> Surface:
    return Surface(axes, np.asarray(values, dtype=float)[..., None])


def test_the_lowest_point_and_the_sharpest() -> None:
    axes = (centred_axis(5, 0.2), centred_axis(3, 0.1))
    values = np.full((5, 3), 4.0)
    values[2, 1] = 1.0
    values[3, 1] = 2.5  # at distance 0.1 from the origin
    values[3, 2] = 3.5  # at distance 0.141
    values[0, 2] = 0.5
    values[1, 1] = values[2, 0] = values[2, 2] = values[1, 0] = values[1, 2] = values[3, 0] = 2.0
    numbers: Any = describe(grid(values, *axes), np.random.default_rng(0), radius=0.1)
    assert numbers["sharpness"].mean == 1.5
    further: Any = describe(grid(values, *axes), np.random.default_rng(0), radius=0.15)
    assert further["sharpness"].mean == 2.5
    assert (numbers["lowest loss"], numbers["lowest at 1"], numbers["lowest at 2"]) == (0.5, -0.2, 0.1)
    assert numbers["share below the origin"] == pytest.approx(1 / 15)


def test_roughness_separates_noise_from_a_parabola(rng: np.random.Generator) -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21), indexing="ij")
    assert roughness(3 * x - 2 * y) == pytest.approx(0, abs=1e-12)
    assert roughness(np.full((5, 5), 2.0)) == 0
    line = np.linspace(-1, 1, 21) ** 2
    assert roughness(line) == pytest.approx(8 / 20**2)
    assert roughness(7 * line - 3) == pytest.approx(roughness(line))
    assert roughness(np.array([0.0, 1.0, 0.0, 1.0, 0.0])) == pytest.approx(2)
    assert 0.25 < roughness(rng.normal(size=(21, 21))) < 0.45
    assert np.isnan(roughness(np.array([0.0, np.nan, 1.0])))


def test_numbers_that_are_not_finite_are_none() -> None:
    values = np.full((5, 5), 1.0)
    values[0, 0] = np.nan
    values[2, 3] = np.inf
    values[4, 4] = 0.5
    numbers: Any = describe(
        grid(values, centred_axis(5, 1.0), centred_axis(5, 1.0)), np.random.default_rng(0), radius=0.5
    )
    assert numbers["curvature 1"].mean == 0
    assert (
        numbers["curvature 2"]
        is numbers["sharpness"]
        is numbers["roughness"]
        is numbers["roughness of a question"]
        is None
    )
    assert numbers["lowest loss"] == 0.5
    json.dumps(numbers, allow_nan=False, default=asdict)


def test_barrier_between_two_checkpoints() -> None:
    axis = axis_to_one(9, 0.5)  # -0.5, -0.25, 0, ..., 1.5
    assert axis == (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    assert barrier(grid([9, 9, 2, 4, 3, 2, 1, 9, 9], axis), 0) == pytest.approx(4 - 1.75)
    assert barrier(grid([9, 9, 2, 1, 1, 1, 1, 9, 9], axis), 0) == 0
    assert barrier(grid([9, 9, 2, 1, math.inf, 1, 1, 9, 9], axis), 0) is None


@pytest.mark.parametrize("steps", [3, 5, 21, 101])
@pytest.mark.parametrize("span", [0.1, 0.5, 1 / 3, 7.0])
def test_the_origin_is_on_the_grid(steps: int, span: float) -> None:
    axis = centred_axis(steps, span)
    assert len(axis) == steps
    assert axis[steps // 2] == 0
    assert (axis[0], axis[-1]) == (-span, span)
    assert np.allclose(np.diff(axis), 2 * span / (steps - 1))


@pytest.mark.parametrize("steps", [5, 7, 21, 101])
@pytest.mark.parametrize("span", [0.01, 0.5, 1 / 3, 7.0])
def test_the_origin_and_the_checkpoint_are_on_the_grid(steps: int, span: float) -> None:
    axis = axis_to_one(steps, span)
    assert len(axis) == steps
    assert 0.0 in axis[1:-1]
    assert 1.0 in axis[1:-1]
    assert axis[-1] - 1 == pytest.approx(-axis[0])
    assert np.allclose(np.diff(axis), axis[1] - axis[0])
    assert axis_to_one(21, 0.5)[0] == -0.5


def test_unusable_grids_are_rejected() -> None:
    for make, steps in [(centred_axis, 4), (centred_axis, 1), (axis_to_one, 8), (axis_to_one, 3)]:
        with pytest.raises(ValueError, match="steps must be odd"):
            make(steps, 0.5)
    with pytest.raises(ValueError, match="span positive"):
        centred_axis(5, 0.0)
    with pytest.raises(ValueError, match="the origin must be on the grid"):
        grid([1, 2, 3], (0.0, 0.5, 1.0))
    with pytest.raises(ValueError, match="do not fit axes"):
        grid([1, 2, 3, 4, 5], centred_axis(3, 1.0))


@pytest.mark.long
def test_figures_show_names_verbatim() -> None:
    axes = (centred_axis(3, 0.5), centred_axis(5, 0.5))
    values = np.arange(15.0).reshape(3, 5)
    marks = [Mark("<b>$x^2$", [0.0, 0.0], 7.0), Mark("corner", [0.5, -0.5], 10.0)]
    drawn = surface_figure(grid(values, *axes), ["first $a_b$", "second"], marks)
    assert drawn.startswith("<svg")
    assert ">&lt;b&gt;$x^2$ 7</text>" in drawn  # matplotlib also writes the name into a comment, so match an element
    assert "corner 10" in drawn
    assert ">first $a_b$</text>" in drawn
    values[0, 0] = np.nan
    assert surface_figure(grid(values, *axes), ["first", "second"], []) != drawn
    curve = surface_figure(grid(values[0, 1:4], axes[0]), ["first"], [Mark("here", [0.0], 2.0)])
    assert "here 2" in curve
    assert surface_figure(grid(np.ones((3, 5)), *axes), ["first", "second"], [])  # a flat surface


# The command


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Ten sums, each with a wrong trajectory and two right ones; the last sum has wrong ones only."""
    tasks = []
    for number in range(10):
        question = Question(f"q{number}", f"a={number}+2,b=1+{number}", str(number + 3), "test")
        texts = [("<think>a=1</think>\\boxed{1}", False)]
        texts += [(f"<think>{sum_}</think>\\boxed{{{number + 3}}}", True) for sum_ in (f"b={number}+1", "b=0")]
        trajectories = [Trajectory(text, right and number < 9, "m") for text, right in texts]
        tasks.append(Task(question, tuple(trajectories)))
    write_shards(tmp_path / "data", [task_row(task) for task in tasks], TRAJECTORIES)
    return str(tmp_path / "data")


def settings_of(model_dir: str, data: str, **settings: Any) -> dict[str, Any]:
    given = {"model_name_or_path": model_dir, "dataset_name": data, "prompt_style": "bare", "num_questions": 6}
    return {**given, "steps": [5, 3], "span": [0.2], **settings}


def measure(directory: Path, **settings: Any) -> dict[str, Any]:
    """Run `loss_landscape` in this process and return the content of its `run.json`."""
    config = LossLandscapeConfig(output_dir=str(directory), **settings)
    record = open_run(directory, "loss_landscape", settings)
    if not record.complete:
        main(config, record)
    return json.loads((directory / "run.json").read_text())


def results(directory: Path) -> dict[str, bytes]:
    names = ("loss_landscape.json", "loss_landscape.parquet", "surface.svg", "page.html")
    return {name: (directory / name).read_bytes() for name in names}


@pytest.mark.long
def test_table_and_summary_describe_the_same_points(data: str, tmp_path: Path, model_dir: str) -> None:
    out = tmp_path / "out"
    record = measure(out, **settings_of(model_dir, data))
    assert record["status"] == "complete"
    names = {"loss_landscape.json", "loss_landscape.parquet", "page.html", "run.json", "surface.svg"}
    assert {path.name for path in out.iterdir()} == names
    rows, summary = read_rows(out / "loss_landscape.parquet"), json.loads((out / "loss_landscape.json").read_text())
    assert list(rows[0]) == ["alpha", "beta", "question_id", "loss"]
    assert len(rows) == 5 * 3 * 6
    alphas, betas = (axis["values"] for axis in summary["axes"])
    assert (alphas, betas) == ([-0.2, -0.1, 0, 0.1, 0.2], [-0.2, 0, 0.2])
    for i, alpha in enumerate(alphas):
        for j, beta in enumerate(betas):
            own = [row["loss"] for row in rows if (row["alpha"], row["beta"]) == (alpha, beta)]
            assert len(own) == 6
            assert summary["loss"][i][j] == pytest.approx(np.mean(own))
    # At the origin, each loss is that of the model on this question alone.
    model, tokenizer = load_model(model_dir, dtype="auto")
    at_origin = {row["question_id"]: row["loss"] for row in rows if row["alpha"] == row["beta"] == 0}
    for question in load_questions(data)[:6]:
        text = f"<user>{question.question}<assistant>{STUB}"
        ids = [torch.tensor(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (text, question.answer)]
        assert at_origin[question.id] == pytest.approx(answer_nll(model, *ids), rel=1e-5)
    marks = {mark["name"]: mark for mark in summary["marks"]}
    assert marks[Path(model_dir).name]["at"] == [0, 0]
    assert marks[Path(model_dir).name]["loss"] == pytest.approx(np.mean(list(at_origin.values())))
    assert marks["lowest"]["loss"] == min(min(row) for row in summary["loss"])
    assert summary["numbers"]["loss at the origin"]["mean"] == pytest.approx(np.mean(list(at_origin.values())))
    assert summary["questions"] == 6
    # Away from the origin on both axes, each loss is that of the model after its weights are moved.
    directions = RandomDirections(model, seed=0)
    with movable(model, directions) as move:
        move([0.2, -0.2])
        question = load_questions(data)[4]
        text = f"<user>{question.question}<assistant>{STUB}"
        ids = [torch.tensor(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (text, question.answer)]
        wanted = answer_nll(model, *ids)
    [loss] = [row["loss"] for row in rows if (row["alpha"], row["beta"], row["question_id"]) == (0.2, -0.2, "q4")]
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert loss != pytest.approx(at_origin["q4"], rel=1e-3)


def test_after_the_thinking_of_a_right_trajectory(data: str, tmp_path: Path, model_dir: str) -> None:
    measure(tmp_path / "out", **settings_of(model_dir, data, after_thinking=True, num_questions=None, steps=[3]))
    rows = read_rows(tmp_path / "out" / "loss_landscape.parquet")
    ids = [row["question_id"] for row in rows if row["alpha"] == 0]
    assert ids == [f"q{number}" for number in range(9)]  # q9 has no right trajectory
    model, tokenizer = load_model(model_dir, dtype="auto")
    text = f"<user>a=4+2,b=1+4<assistant><think>b=4+1{STUB}"
    ids = [torch.tensor(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (text, "7")]
    [loss] = [row["loss"] for row in rows if row["alpha"] == 0 and row["question_id"] == "q4"]
    assert loss == pytest.approx(answer_nll(model, *ids), rel=1e-5)


def test_after_thinking_needs_a_trajectory_that_thinks(tmp_path: Path, model_dir: str) -> None:
    write_shards(tmp_path / "data", [task_row(Task(Question("0", "a=1+1", "2", "s")))], QUESTIONS)
    with pytest.raises(InputError, match="has no right trajectory with thinking: leave after_thinking out"):
        measure(tmp_path / "out", **settings_of(model_dir, str(tmp_path / "data"), after_thinking=True))


def other_model(model_dir: str, directory: Path, seed: int, dtype: torch.dtype = torch.float32) -> str:
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(dtype), alpha=0.02)
    model.save_pretrained(directory)
    _, tokenizer = load_model(model_dir, dtype="auto")
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.mark.long
def test_axes_towards_checkpoints(data: str, tmp_path: Path, model_dir: str) -> None:
    others = [other_model(model_dir, tmp_path / name, seed) for seed, name in enumerate(("B", "C"))]
    settings = settings_of(model_dir, data, towards=others, steps=[5, 7], radius=0.5)
    measure(tmp_path / "out", **settings)
    summary = json.loads((tmp_path / "out" / "loss_landscape.json").read_text())
    assert [axis["name"] for axis in summary["axes"]] == ["towards B", "towards C"]
    marks = {mark["name"]: mark for mark in summary["marks"]}
    assert (marks["B"]["at"], marks["C"]["at"]) == ([1, 0], [0, 1])
    for name, other in zip("BC", others, strict=True):
        alone = measure(tmp_path / f"of_{name}", **settings_of(other, data))
        assert marks[name]["loss"] == alone["results"]["numbers"]["loss at the origin"]["mean"]  # without rounding
    assert marks["B"]["loss"] != marks["C"]["loss"]
    assert {"barrier 1", "barrier 2", "distance 1", "distance 2"} < set(summary["numbers"])


def count_points(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the first coordinate of every point that is measured from now on."""
    points: list[float] = []
    whole = experiment.surface_row

    def counted(move: Any, losses: Any, axes: Any, index: int) -> Any:
        points.extend([axes[0][index]] * math.prod(len(axis) for axis in axes[1:]))
        return whole(move, losses, axes, index)

    monkeypatch.setattr(experiment, "surface_row", counted)
    return points


@pytest.mark.long
def test_a_killed_run_resumes(data: str, tmp_path: Path, model_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(model_dir, data, dtype="bfloat16")
    measure(tmp_path / "whole", **settings)
    whole = experiment.surface_row

    def killed(move: Any, losses: Any, axes: Any, index: int) -> Any:
        if index == 3:
            raise KeyboardInterrupt
        return whole(move, losses, axes, index)

    monkeypatch.setattr(experiment, "surface_row", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "out", **settings)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        f"row-{row:05d}.parquet" for row in range(3)
    ]
    row = tmp_path / "out" / "row-00001.parquet"
    row.write_bytes(row.read_bytes()[:-50])  # a damaged file counts as missing
    monkeypatch.setattr(experiment, "surface_row", whole)
    points = count_points(monkeypatch)
    measure(tmp_path / "out", **settings)
    assert points == [-0.1] * 3 + [0.1] * 3 + [0.2] * 3
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.long
def test_processes_share_the_rows_and_the_last_completes_the_run(
    data: str, tmp_path: Path, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(model_dir, data)
    alone = measure(tmp_path / "alone", **settings)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    points = count_points(monkeypatch)
    first = measure(tmp_path / "out", **settings)
    assert first["status"] == "running"
    assert points == [-0.2] * 3 + [0.0] * 3 + [0.2] * 3
    monkeypatch.setenv("RANK", "1")
    last = measure(tmp_path / "out", **settings)
    assert len(points) == 15
    assert last["status"] == "complete"
    assert last["results"] == alone["results"]
    assert results(tmp_path / "out") == results(tmp_path / "alone")


@pytest.mark.long
def test_a_single_axis_gives_a_curve(data: str, tmp_path: Path, model_dir: str) -> None:
    measure(tmp_path / "out", **settings_of(model_dir, data, steps=[7], span=[0.3]))
    summary = json.loads((tmp_path / "out" / "loss_landscape.json").read_text())
    assert len(summary["axes"]) == 1
    assert [len(summary["loss"]), summary["marks"][0]["at"]] == [7, [0]]
    rows = read_rows(tmp_path / "out" / "loss_landscape.parquet")
    assert {row["beta"] for row in rows} == {None}
    measure(tmp_path / "plane", **settings_of(model_dir, data, steps=[7, 3], span=[0.3, 0.1]))
    plane = json.loads((tmp_path / "plane" / "loss_landscape.json").read_text())
    assert [row[1] for row in plane["loss"]] == summary["loss"]  # both runs have the same first axis


def test_losses_that_are_not_finite_are_written_as_null() -> None:
    config = LossLandscapeConfig(dataset_name="d", model_name_or_path="m", output_dir="o", steps=[3, 3])
    losses = np.ones((3, 3, 4))
    losses[0, 2, 1], losses[2, 2] = np.inf, np.nan
    summary = asdict(summarise(config, Surface(config.axes, losses), {}))
    assert summary["loss"] == [[1, 1, None], [1, 1, 1], [1, 1, None]]
    assert summary["numbers"]["roughness"] is None
    json.dumps(summary, allow_nan=False)


def test_the_cost_is_logged(data: str, tmp_path: Path, model_dir: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    measure(tmp_path / "out", **settings_of(model_dir, data))
    [cost] = [line for line in caplog.messages if "points of" in line]
    assert re.match(r"15 points of \d+ tokens each; \d+ of \d+ parameters move", cost)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": [4, 5]}, "steps must be odd"),
        ({"steps": [5, 5, 5]}, "steps must be one number or two"),
        ({"steps": []}, "steps must be one number or two"),
        ({"span": [0.0]}, r"span must be a list .* a number above 0 .* got \[0\.0\]"),
        ({"span": [0.1, 0.2], "steps": [5]}, "span must be one number, or one for each of steps"),
        ({"towards": ["a"]}, "towards names 1 checkpoints, but steps has 2 axes"),
        ({"towards": ["m"], "steps": [5]}, "must be different models, got m, m"),
        ({"towards": ["a"], "steps": [3]}, "steps must be odd and 5 or more"),
        ({"towards": ["a"], "steps": [5], "normalisation": "tensor"}, "apply to random directions only"),
        ({"engine": "vllm"}, "engine vllm gives no access to the weights"),
        ({"radius": 0.01}, r"radius 0.01 reaches no point of the grid: raise it to 0.05 or more"),
        ({"normalisation": "rows"}, "normalisation must be"),
    ],
)
def test_unusable_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LossLandscapeConfig(dataset_name="d", model_name_or_path="m", output_dir="o", **settings)


def start(directory: Path, model: str, data: str, num_processes: int = 1) -> list[str]:
    """Return the command line that starts `loss_landscape`."""
    given = {
        **{"config": "recipes/tiny/analysis/loss_landscape.yaml", "model_name_or_path": model, "dataset_name": data},
        **{"output_dir": directory, "num_questions": 8},
    }
    interpreter = [sys.executable] if num_processes == 1 else LAUNCH
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [*interpreter, "-m", "raml_trl.loss_landscape", *words]


@pytest.mark.slow
def test_killed_processes_resume_with_equal_results(data: str, model_dir: str, tmp_path: Path) -> None:
    whole, killed, shared = (tmp_path / name for name in ("whole", "killed", "shared"))
    subprocess.run(start(whole, model_dir, data), cwd=REPOSITORY, check=True)
    for number in (1, 9):  # kill the run when it has written this row
        kill_when(killed / f"row-{number:05d}.parquet", start(killed, model_dir, data))
        assert json.loads((killed / "run.json").read_text())["status"] == "running"
    subprocess.run(start(killed, model_dir, data), cwd=REPOSITORY, check=True)
    subprocess.run(start(shared, model_dir, data, num_processes=2), cwd=REPOSITORY, check=True)
    assert results(killed) == results(whole)
    assert results(shared) == results(whole)
    assert {path.name for path in shared.iterdir()} == {path.name for path in whole.iterdir()}
