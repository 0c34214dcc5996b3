"""Settings that cannot work are rejected, and the error names their numbers and valid alternatives."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOConfig

from raml_trl import SubsetGRPOConfig
from raml_trl.grpo.config import CheckedGRPOConfig
from raml_trl.grpo.config_checks import check_geometry
from raml_trl.runtime.errors import InputError, MissingDevice

NUMBERS = ("batch", "steps", "num_processes", "group", "selected")


def make_config(tmp_path: Path, **settings: Any) -> SubsetGRPOConfig:
    defaults = {"per_device_train_batch_size": 8, "num_generations": 8, "use_cpu": True, "bf16": False}
    return SubsetGRPOConfig(output_dir=str(tmp_path), **(defaults | settings))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        # m out of range
        ((8, 1, 1, 8, 9), r"m = 9\) must lie between 1 and num_generations \(G = 8\)"),
        ((8, 1, 1, 8, 0), r"m = 0\) must lie between"),
        # the rollouts of all processes are not whole groups
        ((12, 1, 1, 8, 4), r"\(12 x 1 x 1\) gives 12 rollouts.*G = 8\): use per_device_train_batch_size 8 or 16$"),
        ((3, 1, 2, 8, 8), r"\(3 x 1 x 2\) gives 6 rollouts.*: use per_device_train_batch_size 4$"),
        # a micro-batch is not a whole number of rows
        (
            (2, 4, 1, 8, 2),
            r"2 x 2 / 8 rows is not a whole number: use .*size 4 or num_generations_update 4$",
        ),
        ((4, 4, 2, 16, 3), r"4 x 3 / 16 rows is not a whole number: .*size 16 or num_generations_update 4$"),
    ],
)
def test_impossible_geometry(numbers: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_geometry(*numbers)


@pytest.mark.parametrize(
    "numbers",
    [(8, 1, 1, 8, 3), (4, 2, 1, 8, 2), (4, 1, 2, 8, 8), (4, 3, 2, 8, 2), (1, 8, 1, 8, 8), (16, 128, 8, 16, 1)],
)
def test_possible_geometry(numbers: tuple[int, ...]) -> None:
    check_geometry(*numbers)


def geometry_error(*numbers: int) -> str | None:
    """Return the error of `check_geometry` for these numbers, or None."""
    try:
        check_geometry(*numbers)
    except InputError as error:
        return str(error)
    return None


def test_proposed_batch_sizes_are_valid() -> None:
    """Every batch size that an error message proposes is accepted."""
    every = [(batch, steps, 2, 8, m) for batch in range(1, 13) for steps in (1, 2, 3) for m in range(1, 9)]
    errors = {numbers: message for numbers in every if (message := geometry_error(*numbers))}
    assert len(errors) > 100
    for (_, *others), message in errors.items():
        sizes = re.search(r"use per_device_train_batch_size (\d+)(?: or (\d+))?", message)
        assert sizes, message
        for size in filter(None, sizes.groups()):
            assert geometry_error(int(size), *others) is None, message


def test_config_counts_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"\(6 x 1 x 2\) gives 12 rollouts"):
        make_config(tmp_path, per_device_train_batch_size=6, num_generations_update=4)


def test_generation_batch_size_sets_the_steps(tmp_path: Path) -> None:
    config = make_config(tmp_path, generation_batch_size=32, num_generations_update=2)
    assert (config.steps_per_generation, config.rows_per_micro_batch) == (4, 2)
    with pytest.raises(InputError, match="the nearest are 24 or 32"):
        make_config(tmp_path, generation_batch_size=30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations_update": 4.5}, "num_generations_update must be a whole number from 1 to 1,048,576, got 4.5"),
        ({"num_generations_update": True}, "must be a whole number from 1 to 1,048,576, got True"),
        ({"subset_mode": "delete"}, "subset_mode must be one of drop, mask, got 'delete'"),
        ({"selection": "best"}, "selection must be"),
        ({"length_bucketing": "yes"}, "length_bucketing must be true or false or None, got 'yes' [(]str[)]"),
        ({"advantage_scope": "subset", "num_generations_update": 1}, "nothing would be learned"),
        (
            {"advantage_scope": "subset", "multi_objective_aggregation": "normalize_then_sum"},
            "needs one reward per rollout",
        ),
        ({"subset_mode": "mask", "entropy_coef": 0.01}, "use subset_mode: drop"),
        ({"loss_type": "bnpo", "length_bucketing": True}, "rows share a micro-batch, on which loss_type: bnpo depends"),
        ({"top_entropy_quantile": 0.2, "length_bucketing": True}, "on which top_entropy_quantile depends"),
        (
            {"loss_type": "bnpo", "skip_zero_advantage": True},
            "skip_zero_advantage is on and .* loss_type: bnpo",
        ),
        ({"loss_type": "newest"}, "loss_type must be one of .*, got 'newest': raml_trl must know how"),
        ({"beta": 0.1, "skip_zero_advantage": True}, "rows with advantage 0 have a gradient too"),
        ({"subset_mode": "mask", "skip_zero_advantage": True}, "'mask' runs every row"),
        ({"selection_scope": "batch"}, "needs a selection that uses advantages, not 'random'"),
        (
            {"selection_scope": "batch", "selection": "abs_advantage", "advantage_scope": "subset"},
            "defines no advantage",
        ),
        (
            {"selection": "importance", "advantage_scope": "subset", "num_generations_update": 4},
            "use advantage_scope: group",
        ),
        ({"selection": "importance", "loss_type": "bnpo", "num_generations_update": 4}, "is not a sum over rows"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_config(tmp_path, **settings)


def test_terms_that_are_means_over_a_micro_batch(tmp_path: Path) -> None:
    assert make_config(tmp_path).per_micro_batch_terms == []
    assert make_config(tmp_path, loss_type="bnpo").per_micro_batch_terms == ["loss_type: bnpo"]
    assert make_config(tmp_path, entropy_coef=0.01).per_micro_batch_terms == ["entropy_coef"]
    assert make_config(tmp_path, router_aux_loss_coef=0.1).per_micro_batch_terms == ["router_aux_loss_coef"]


def test_none_is_all_of_g(tmp_path: Path) -> None:
    assert make_config(tmp_path).num_generations_update == 8


@pytest.mark.parametrize(
    ("selection", "warned"), [("random", True), ("first", True), ("max_variance", False), ("abs_advantage", False)]
)
def test_a_selection_without_benefit_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, selection: str, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        make_config(tmp_path, num_generations_update=4, advantage_scope="subset", selection=selection)
    assert ("plain GRPO with num_generations = 4 at the cost of 8" in caplog.text) == warned


def test_rows_are_weighted_only_if_some_are_not_selected(tmp_path: Path) -> None:
    assert make_config(tmp_path, selection="importance", num_generations_update=4).weighs
    assert not make_config(tmp_path, selection="importance").weighs  # all of G
    assert not make_config(tmp_path, num_generations_update=4).weighs


@pytest.mark.parametrize(("steps", "accumulation", "window"), [(4, 4, 4), (4, 1, 1), (4, 2, 2), (2, 4, 2), (4, 6, 2)])
def test_bucketing_window_lies_within_an_optimizer_step(
    tmp_path: Path, steps: int, accumulation: int, window: int
) -> None:
    config = make_config(tmp_path, steps_per_generation=steps, gradient_accumulation_steps=accumulation)
    assert config.bucketing_window == window


def test_a_missing_device_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command names the settings to change. The config of a script ends with the error of TRL's own config."""
    monkeypatch.setattr("raml_trl.training.config.is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(MissingDevice, match="bf16 is true, but this machine has no GPU"):
        CheckedGRPOConfig(str(tmp_path), report_to="none")
    with pytest.raises(ValueError, match="support bf16") as stock:
        GRPOConfig(str(tmp_path), report_to="none")
    with pytest.raises(ValueError, match="support bf16") as ours:
        SubsetGRPOConfig(str(tmp_path), report_to="none")
    assert str(ours.value) == str(stock.value)
