"""Questions whose groups are mixed are drawn more often, with known probabilities, and none is given up."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from transformers import TrainerCallback
from trl import GRPOTrainer

from raml_trl.grpo.inclusion import inclusion_probabilities
from raml_trl.grpo.question_choice import FORGETTING, MixedCounts, draw_questions
from raml_trl.runtime.errors import InputError
from tests.helpers.trainers import (
    digit_reward,
    fixed_rollouts,
    loss_of,
    make_trainer,
    odd_prompts_reward,
    questions,
)

MIXED = {"question_selection": "mixed", "rollout_func": fixed_rollouts, "reward": odd_prompts_reward}


def test_the_chance_is_the_mean_of_a_beta_posterior() -> None:
    counts = MixedCounts(3)
    assert counts.chances().tolist() == [0.5, 0.5, 0.5]
    counts.add(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 1.0]]))
    counts.add(np.array([0]), np.array([[np.nan, 2.0]]))
    groups = FORGETTING + 1
    assert counts.chances().tolist() == [(FORGETTING + 1) / (groups + 2), 1 / 3, 0.5]
    assert counts.seen.tolist() == [2, 1, 0]
    assert counts.rewards[:2].tolist() == [2.0, 1.0]
    assert [(row["groups"], row["ever_mixed"], row["last_mean_reward"]) for row in counts.table()] == [
        (2, True, 2.0),
        (1, False, 1.0),
        (0, False, None),
    ]
    assert np.isnan(counts.rewards[2])
    restored = MixedCounts(3)
    restored.restore(counts.state())
    assert all(np.array_equal(values, vars(restored)[name], equal_nan=True) for name, values in vars(counts).items())


def test_questions_are_drawn_with_their_probabilities() -> None:
    chances, floor, number = np.array([0.9, 0.0, 0.5, 0.1, 0.5, 0.0]), 0.1, 3
    draws = 4000
    drawn = Counter(
        question
        for generation in range(draws)
        for question in draw_questions(chances, number, floor=floor, rng=np.random.default_rng(generation))[0]
    )
    expected = inclusion_probabilities(chances[None] + floor, number)[0]
    for question, probability in enumerate(expected):
        error = np.sqrt(probability * (1 - probability) / draws)
        assert drawn[question] / draws == pytest.approx(probability, abs=4.5 * error + 1e-9)
    assert sum(drawn.values()) == number * draws
    (first, _), (second, ones) = (draw_questions(chances, 6, floor=floor, rng=np.random.default_rng(g)) for g in (0, 1))
    assert (ones == 1).all()
    assert sorted(first) == sorted(second) == list(range(6))
    assert first.tolist() != second.tolist()


@pytest.mark.long
def test_questions_without_signal_are_drawn_less_often(model_dir: str, tmp_path: Path) -> None:
    """Half of the questions are never rewarded, so their groups are never mixed."""
    settings = MIXED | {"train_dataset": questions(6), "max_steps": 24, "question_floor": 0.05}
    trainer, recorder = make_trainer(model_dir, tmp_path, **settings)
    texts = [row["prompt"][-1]["content"] for row in trainer.train_dataset]
    live = np.array([int(text.rpartition("+")[2]) % 2 == 0 for text in texts])
    assert live.sum() == 3
    trainer.train()
    counts = trainer._question_counts
    assert counts.seen.sum() == 24 * 2  # two groups per step
    assert counts.seen.min() >= 1  # the first pass has every question
    assert counts.seen[live].sum() > 1.6 * counts.seen[~live].sum()
    signal = recorder.of("selection/group_same_reward")
    assert np.mean(signal[:3]) == 0.5  # the share of groups without a signal, on the first pass and at the end
    assert np.mean(signal[-12:]) < 0.42


@pytest.mark.long
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_the_weights_multiply_the_gradient(model_dir: str, tmp_path: Path, loss_type: str) -> None:
    """The gradient of a generation is linear in the weights of its questions, with all of G and with m of G."""
    for selected in (8, 4):
        sums = []
        for weights in ([1.0, 0.0], [0.0, 1.0], [3.0, 0.5]):
            trainer, _ = make_trainer(
                model_dir,
                tmp_path,
                **MIXED | {"reward": digit_reward, "question_weights": True, "num_generations_update": selected},
                loss_type=loss_type,
            )
            trainer.current_gradient_accumulation_steps = 1
            trainer._question_weights = np.array(weights)
            trainer._chosen_rows = lambda inputs, counts: inputs
            trainer.model.train()
            rows = [row for row in trainer.train_dataset.select(range(2)) for _ in range(8)]
            micro_batch = trainer._prepare_inputs(rows)
            loss_of(trainer, micro_batch).backward()
            sums.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
        assert sums[2].norm() > 0
        torch.testing.assert_close(sums[2], 3 * sums[0] + 0.5 * sums[1], rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_the_weights_are_inverse_probabilities(model_dir: str, tmp_path: Path) -> None:
    settings = MIXED | {"train_dataset": questions(6), "max_steps": 6, "question_weights": True}
    trainer, _ = make_trainer(model_dir, tmp_path, **settings)
    weights = []

    class Weights(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            weights.append(trainer._question_weights)

    trainer.add_callback(Weights())
    trainer.train()
    assert weights[:3] == [None] * 3  # the first pass over six questions, two per step
    drawn = np.concatenate(weights[3:])
    assert drawn.shape == (6,)
    assert (drawn > 1 / 3).all()  # 2 / (6 p), and p is less than 1
    assert len(set(drawn.tolist())) > 1


@pytest.mark.long
def test_the_first_pass_is_that_of_trl(model_dir: str, tmp_path: Path) -> None:
    logs = []
    for settings in (MIXED, MIXED | {"question_selection": "all"}):
        trainer, recorder = make_trainer(model_dir, tmp_path, **settings, train_dataset=questions(8), max_steps=4)
        trainer.train()
        logs.append(recorder.of("grad_norm"))
    assert logs[0] == logs[1]


@pytest.mark.long
@pytest.mark.parametrize(("checkpoint", "settings"), [(4, {}), (2, {"ignore_data_skip": True})])
def test_what_is_known_of_the_questions_survives(
    model_dir: str, tmp_path: Path, checkpoint: int, settings: dict[str, Any]
) -> None:
    """This holds if no step is left, and if the data start over, as they do on another number of processes."""
    shared = MIXED | {"train_dataset": questions(16), "max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    whole, _ = make_trainer(model_dir, tmp_path / "whole", **shared)
    whole.train()
    resumed, _ = make_trainer(model_dir, tmp_path / "resumed", **shared | settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{checkpoint}"))
    assert resumed._progress()["generations"]["all"] == 4
    assert resumed._question_counts.seen.sum() == whole._question_counts.seen.sum()
    if not settings:
        assert resumed.question_table == whole.question_table


@pytest.mark.long
def test_data_that_cannot_work_are_rejected(model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a generation has 2 questions, but the dataset only 1"):
        make_trainer(model_dir, tmp_path, **MIXED, train_dataset=questions(1))
    endless = IterableDataset.from_generator(lambda: iter(questions(8)))
    with pytest.raises(InputError, match="needs a dataset with numbered rows, not IterableDataset"):
        make_trainer(model_dir, tmp_path, **MIXED, train_dataset=endless)
    with pytest.raises(InputError, match="remove_unused_columns is true: use remove_unused_columns: false"):
        make_trainer(model_dir, tmp_path, **MIXED, remove_unused_columns=True)
    with pytest.raises(InputError, match=r"question_floor must be a number above 0 .*, got 0\.0"):
        make_trainer(model_dir, tmp_path, **MIXED, question_floor=0.0)
    assert issubclass(type(make_trainer(model_dir, tmp_path)[0]), GRPOTrainer)
