"""A subclass of our trainer trains like the same subclass of TRL's, or is rejected.

Each mixin below overrides methods of TRL. It is put before our trainer in the base classes, as a user's subclass is, or
after it, as a trainer that someone else derived from TRL's.
"""

from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from raml_trl import SubsetGRPOConfig, SubsetGRPOTrainer
from raml_trl.grpo.overrides import around, find_overrides
from raml_trl.runtime.errors import InputError
from tests.helpers.trainers import fixed_rollouts, half_dead_reward, make_trainer, untimed

SCORED = {"beta": 0.1, "steps_per_generation": 2}
"""Settings with which log-probabilities under the old and the reference model are computed."""


def stock(mixin: type) -> type:
    """Return a class that derives from the mixin and from TRL's trainer."""
    return type("Stock", (mixin,) if issubclass(mixin, GRPOTrainer) else (mixin, GRPOTrainer), {})


def before(mixin: type) -> type:
    """Return a class that derives from the mixin and from our trainer, in this order."""
    return type("Before", (mixin, SubsetGRPOTrainer), {})


def after(mixin: type) -> type:
    """Return a class that derives from our trainer and from a trainer with the mixin, in this order."""
    return type("After", (SubsetGRPOTrainer, stock(mixin)), {})


def train(
    model_dir: str,
    directory: Path,
    trainer_class: type,
    change: Callable[[GRPOTrainer], None] = lambda _: None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Train for two steps, and return what was logged in each; `change` is called with the trainer before."""
    is_stock = not issubclass(trainer_class, SubsetGRPOTrainer)
    defaults = {"rollout_func": fixed_rollouts, "reward": half_dead_reward, "max_steps": 2}
    defaults |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    trainer, recorder = make_trainer(
        model_dir, directory, stock=is_stock, trainer_class=trainer_class, **(defaults | settings)
    )
    change(trainer)
    trainer.train()
    return untimed(recorder)


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], *names: str) -> None:
    """Assert that the metrics `names`, or else all of `theirs`, have the same values in `ours`, up to rounding."""
    assert len(ours) == len(theirs) == 2
    for our_step, their_step in zip(ours, theirs, strict=True):
        assert their_step["grad_norm"] > 0
        for name in names or their_step:
            assert our_step[name] == pytest.approx(their_step[name], rel=1e-4, abs=1e-6), name


class Stopped:
    """Cuts every completion at its first 5, after all other methods have acted on it."""

    def _generate(self, prompts: Any) -> Any:
        ids, completion_ids, tools, completions, logprobs, *rest = super()._generate(prompts)
        stop = self.processing_class.convert_tokens_to_ids("5")
        ends = [(*row, stop).index(stop) + 1 for row in completion_ids]
        completion_ids = [row[:end] for row, end in zip(completion_ids, ends, strict=True)]
        logprobs = [row[:end] for row, end in zip(logprobs, ends, strict=True)]
        texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        completions = [[{"role": "assistant", "content": text}] for text in texts]
        return (ids, completion_ids, tools, completions, logprobs, *rest)


class OtherRewards:
    """Adds to each reward the number of tokens."""

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
        lengths = torch.tensor([len(ids) for ids in completion_ids], dtype=torch.float)
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids) + 0.1 * lengths[:, None]


class OtherAdvantages:
    """Shifts the advantages, so that none is 0."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        batch["advantages"] = batch["advantages"] - 0.3 * batch["completion_mask"].sum(dim=1) / 10
        return batch


class TokenAdvantages:
    """Gives every token its own advantage."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        places = torch.arange(batch["completion_ids"].size(1))
        batch["advantages"] = batch["advantages"][:, None] * 0.9**places
        return batch


class HalfMasked:
    """Takes every second token out of the loss, without counting the tokens again."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        batch["tool_mask"] = (torch.arange(batch["completion_ids"].size(1)) % 2 == 0).expand_as(batch["completion_ids"])
        batch["tool_mask"] = batch["tool_mask"].long()
        return batch


GENERATIONS = {mixin.__name__: mixin for mixin in (Stopped, OtherRewards, OtherAdvantages, TokenAdvantages, HalfMasked)}


@pytest.mark.long
@pytest.mark.parametrize("mixin", GENERATIONS.values(), ids=GENERATIONS)
def test_an_overridden_generation(model_dir: str, tmp_path: Path, mixin: type) -> None:
    theirs = train(model_dir, tmp_path, stock(mixin), **SCORED)
    kind = {"selection": "max_variance", "advantage_scope": "subset"}
    if mixin in (OtherAdvantages, TokenAdvantages):
        kind = {"selection": "importance"}
    for placed in (before, after):
        assert_same(train(model_dir, tmp_path, placed(mixin), **SCORED), theirs, "loss", "grad_norm", "reward")
        drop, mask = (
            train(model_dir, tmp_path, placed(mixin), num_generations_update=2, subset_mode=mode, **SCORED, **kind)
            for mode in ("drop", "mask")
        )
        assert_same(drop, mask, "loss", "grad_norm", "reward")


def test_rewards_are_calculated_once_from_the_final_completions(model_dir: str, tmp_path: Path) -> None:
    """Also if they are calculated before TRL asks for them, to score selected rows only."""
    seen: list[Any] = []

    class Counted(Stopped):
        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
            seen.append(([sorted(row) for row in inputs], prompts, completions, completion_ids))
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids)

    train(model_dir, tmp_path, stock(Counted), **SCORED)
    theirs = seen.copy()
    for placed in (before, after):
        seen.clear()
        train(model_dir, tmp_path, placed(Counted), num_generations_update=2, **SCORED)
        assert seen == theirs
    assert len(theirs) == 2


def test_advantages_that_a_scope_would_replace_are_rejected(model_dir: str, tmp_path: Path) -> None:
    settings = {"num_generations_update": 2, "advantage_scope": "subset", "selection": "max_variance"}
    with pytest.raises(InputError, match=r"OtherAdvantages\._generate_and_score_completions changes the advantages"):
        train(model_dir, tmp_path, before(OtherAdvantages), **settings)


class Resampled:
    """Makes every generation twice and keeps the second."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        super()._generate_and_score_completions(inputs)
        return super()._generate_and_score_completions(inputs)


class Filtered:
    """Keeps the first half of the rows."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        return {name: value[: len(inputs) // 2] if value.ndim else value for name, value in batch.items()}


class FilteredLater(Filtered):
    """Keeps all rows of the first generation."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        later = super() if self.state.global_step else super(Filtered, self)
        return later._generate_and_score_completions(inputs)


@pytest.mark.parametrize("mixin", [Resampled, Filtered, FilteredLater])
def test_a_generation_with_other_rows(model_dir: str, tmp_path: Path, mixin: type) -> None:
    ours, theirs = (train(model_dir, tmp_path, place(mixin)) for place in (before, stock))
    assert_same(ours, theirs, "loss", "grad_norm", "reward", "entropy")
    with pytest.raises(InputError, match="override of _generate_and_score_completions leaves no groups to select from"):
        train(model_dir, tmp_path, before(mixin), num_generations_update=2)


def mean_over_rows(trainer: Any, model: Any, inputs: Any, factors: torch.Tensor | float) -> torch.Tensor:
    """Return the mean over rows of each row's factor times the mean log-probability of its tokens."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    loss_mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
    logps, _, _ = trainer._get_per_token_logps_and_entropies(model, ids, mask, loss_mask.size(1))
    per_row = (logps * loss_mask).sum(dim=1) / loss_mask.sum(dim=1).clamp(min=1)
    return (factors * per_row).mean() / trainer.current_gradient_accumulation_steps


class RowMean:
    """A loss that is a mean over the rows of the micro-batch, whatever the `loss_type`."""

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        return -mean_over_rows(self, model, inputs, inputs["advantages"])


class AddedTerm:
    """TRL's loss, plus a mean over rows that does not contain the advantages."""

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        return super()._compute_loss(model, inputs) + mean_over_rows(self, model, inputs, 0.1)


class PublicTerm:
    """The same loss as `AddedTerm`, in the public method."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **named: Any) -> Any:
        return super().compute_loss(model, inputs, *args, **named) + mean_over_rows(self, model, inputs, 0.1)


class OtherLogProbs:
    """Log-probabilities at another temperature in each column of the padded batch."""

    def _get_per_token_logps_and_entropies(self, *args: Any, **named: Any) -> Any:
        logps, *rest = super()._get_per_token_logps_and_entropies(*args, **named)
        return logps * torch.linspace(0.5, 1.0, logps.size(1)), *rest


class CentredMicroBatches:
    """Centres the advantages of each micro-batch after TRL has cut it."""

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        batch = super()._prepare_inputs(generation_batch)
        return batch | {"advantages": batch["advantages"] - batch["advantages"].mean() + 0.1}


class ClippedSteps:
    """Limits the gradient of each micro-batch."""

    def training_step(self, model: Any, *args: Any, **named: Any) -> Any:
        loss = super().training_step(model, *args, **named)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        return loss


LOSSES = {
    mixin.__name__: mixin
    for mixin in (RowMean, AddedTerm, PublicTerm, OtherLogProbs, CentredMicroBatches, ClippedSteps, GMPOTrainer)
}


@pytest.mark.long
@pytest.mark.parametrize("mixin", LOSSES.values(), ids=LOSSES)
def test_an_overridden_loss(model_dir: str, tmp_path: Path, mixin: type, caplog: pytest.LogCaptureFixture) -> None:
    """It trains like TRL's with m = G. With m < G it is rejected, unless the override says how it is normalised."""
    theirs = train(model_dir, tmp_path, stock(mixin))
    [method] = set(vars(mixin)) & {*find_overrides.__globals__["_LOSS_METHODS"], "training_step"}
    for placed in (before, after):
        caplog.clear()
        assert_same(train(model_dir, tmp_path, placed(mixin)), theirs)
        [line] = [record.message for record in caplog.records if record.name == "raml_trl.grpo.trainer"]
        assert line.startswith(f"length_bucketing and skip_zero_advantage off: {mixin.__name__}.{method} may")
        if mixin is not ClippedSteps:
            with pytest.raises(InputError, match=rf"{mixin.__name__}.{method} divides the loss by: declare"):
                train(model_dir, tmp_path, placed(mixin), num_generations_update=2)
        with pytest.raises(InputError, match=rf"max_tokens_per_micro_batch is set, but .*{mixin.__name__}.{method}"):
            train(model_dir, tmp_path, placed(mixin), max_tokens_per_micro_batch=100)
        few = {"num_generations_update": 1, "per_device_train_batch_size": 4, "subset_mode": "mask"}
        with pytest.raises(InputError, match="4 x 1 / 8 rows is not a whole number"):
            train(model_dir, tmp_path, placed(mixin), **few)
        with pytest.raises(InputError, match=rf"length_bucketing is set, but .*{mixin.__name__}.{method}"):
            train(model_dir, tmp_path, placed(mixin), length_bucketing=True)


@pytest.mark.long
@pytest.mark.parametrize("mixin", [RowMean, AddedTerm, PublicTerm, GMPOTrainer])
def test_a_loss_with_a_declared_normalizer(model_dir: str, tmp_path: Path, mixin: type) -> None:
    """With m < G, rows move and `drop` equals `mask`. `AddedTerm` is a mean over rows with `loss_type: grpo`."""
    settings = {"loss_type": "grpo", "selection": "max_variance"}
    theirs = train(model_dir, tmp_path, stock(mixin), loss_type="grpo")
    for placed in (before, after):
        declared = type("Declared", (placed(mixin),), {"loss_normalizer": "rows"})
        assert_same(train(model_dir, tmp_path, declared, loss_type="grpo"), theirs, "grad_norm", "reward")
        drop, mask, fixed = (
            train(model_dir, tmp_path, declared, num_generations_update=2, **settings, **more)
            for more in ({}, {"subset_mode": "mask"}, {"length_bucketing": False})
        )
        assert_same(drop, mask, "grad_norm", "reward")
        assert_same(drop, fixed, "grad_norm", "reward")


def test_the_kl_of_a_loss_with_one_value_per_row_is_weighted(model_dir: str, tmp_path: Path) -> None:
    declared = type("Declared", (GMPOTrainer, SubsetGRPOTrainer), {"loss_normalizer": "rows"})
    settings = {"num_generations_update": 2, "selection": "importance", "beta": 0.5, "learning_rate": 0.1}
    drop, mask = (train(model_dir, tmp_path, declared, subset_mode=mode, **settings) for mode in ("drop", "mask"))
    assert_same(drop, mask, "grad_norm", "kl")

    class Pooled(RowMean):
        loss_normalizer = "rows"

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            return super()._compute_loss(model, inputs) + self.beta * torch.tensor(1.0)

    with pytest.raises(InputError, match="multiplies beta by a tensor of shape"):
        train(model_dir, tmp_path, before(Pooled), **settings)


def test_a_missing_config_does_not_replace_the_defaults_of_another_trainer(model_dir: str) -> None:
    """GMPO clips at 0.4, but a default `SubsetGRPOConfig` at 0.2."""
    assert GMPOConfig.epsilon != SubsetGRPOConfig.epsilon
    with pytest.raises(InputError, match="args is None, but GMPOTrainer may have other default settings"):
        after(GMPOTrainer)(model_dir, half_dead_reward)


def test_overrides_that_skip_our_methods_are_rejected(model_dir: str, tmp_path: Path) -> None:
    class OwnInputs:
        loss_normalizer = "tokens"

        def _prepare_inputs(self, generation_batch: Any) -> Any:
            return GRPOTrainer._prepare_inputs(self, generation_batch)

    class OwnStep:
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
            return GRPOTrainer.training_step(self, model, inputs, num_items_in_batch)

    for mixin, method in ((OwnInputs, "_prepare_inputs"), (OwnStep, "training_step")):
        assert_same(train(model_dir, tmp_path, before(mixin)), train(model_dir, tmp_path, GRPOTrainer))
        with pytest.raises(InputError, match=rf"{mixin.__name__}.{method} does not call super\(\).{method}"):
            train(model_dir, tmp_path, before(mixin), num_generations_update=2)


def test_methods_that_are_replaced_later_are_found(
    model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(trainer: GRPOTrainer) -> None:
        trainer._compute_loss = partial(RowMean._compute_loss, trainer)

    def patch(trainer: GRPOTrainer) -> None:
        stock_loss = GRPOTrainer._compute_loss

        @wraps(stock_loss)
        def patched(self: Any, model: Any, inputs: Any) -> Any:
            return stock_loss(self, model, inputs) + mean_over_rows(self, model, inputs, 0.1)

        monkeypatch.setattr(GRPOTrainer, "_compute_loss", patched)

    for change, name in ((replace, "the attribute _compute_loss of the trainer"), (patch, "GRPOTrainer._compute_loss")):
        theirs = train(model_dir, tmp_path, GRPOTrainer, change=change)
        monkeypatch.undo()
        assert_same(train(model_dir, tmp_path, SubsetGRPOTrainer, change=change), theirs)
        monkeypatch.undo()
        with pytest.raises(InputError, match=name):
            train(model_dir, tmp_path, SubsetGRPOTrainer, change=change, num_generations_update=2)
        monkeypatch.undo()


def test_private_methods_of_ours_cannot_be_overridden_by_accident(model_dir: str, tmp_path: Path) -> None:
    class Mine:
        def _deal(self) -> None: ...

    for placed in (before, after):
        with pytest.raises(InputError, match=r"Mine._deal has the name of a private method of SubsetGRPOTrainer"):
            make_trainer(model_dir, tmp_path, trainer_class=placed(Mine))


def test_an_unknown_normalizer_is_rejected(model_dir: str, tmp_path: Path) -> None:
    wrong = type("Wrong", (SubsetGRPOTrainer,), {"loss_normalizer": "row"})
    with pytest.raises(InputError, match='loss_normalizer must be "rows", "tokens" or None, got \'row\''):
        make_trainer(model_dir, tmp_path, trainer_class=wrong)


def test_around_calls_the_outermost_method_and_restores_it() -> None:
    class Thing:
        def double(self, value: int) -> int:
            return 2 * value

    thing = Thing()
    with around(thing, double=lambda method, value: method(value) + 1):
        assert thing.double(3) == 7
    assert thing.double(3) == 6
    assert vars(thing) == {}
    thing.double = lambda value: 10 * value  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError), around(thing, double=lambda method, value: method(value) / 0):
        thing.double(3)
    assert thing.double(3) == 30
