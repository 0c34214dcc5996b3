"""A run on a budget stops when the budget is spent, and evaluations are not charged."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from raml_trl.data.records import Question
from raml_trl.grpo import budgeted
from raml_trl.grpo.budgeted import MAX_STEPS, Budget, train_on_budget
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.sampling.engine import SamplingSettings
from raml_trl.training.evaluation import Evaluation
from tests.helpers.trainers import digit_reward, questions


@dataclass
class Clock:
    """A clock that shows the time it was set to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class TimedEvaluation(Evaluation):
    """An evaluation that takes 100 seconds and always gives the score 0.5."""

    clock: Clock = field(default_factory=Clock)

    def measure(self, trainer: Any) -> dict[str, float]:
        self.clock.now += 100
        return {"eval_pass@1": 0.5}


def train(own: Budget, clock: Clock, counts: dict[str, int], step_tokens: list[int]) -> list[int]:
    """Take steps of three seconds that generate so many tokens, and evaluate when asked, until training shall stop."""
    args: Any = None
    state, control = TrainerState(), TrainerControl()
    own.on_train_begin(args, state, control)
    for tokens in step_tokens:
        state.global_step += 1
        clock.now += 3
        counts["tokens_generated"] += tokens
        own.on_step_end(args, state, control)
        if control.should_evaluate:
            clock.now += 1000
            own.on_evaluate(args, state, control, {"eval_pass@1": 0.25})
        if control.should_training_stop:
            return [point.step for point in own.points]
    raise AssertionError("the budget was not spent")


def test_evaluations_have_equal_distances_in_tokens_and_cost_no_time() -> None:
    clock, counts = Clock(7.0), {"tokens_generated": 0}
    own = Budget(100, 4, clock, clock, counts)
    assert train(own, clock, counts, [10] * 20) == [3, 5, 8, 10]
    assert [point.process_seconds for point in own.points] == [9.0, 15.0, 24.0, 30.0]
    assert [point.counts["tokens_generated"] for point in own.points] == [30, 50, 80, 100]


def test_a_long_step_spends_several_shares_and_has_one_evaluation() -> None:
    clock, counts = Clock(), {"tokens_generated": 0}
    own = Budget(100, 4, clock, clock, counts)
    assert train(own, clock, counts, [10, 70, 10, 300, 10]) == [2, 4]


def test_both_clocks_are_recorded() -> None:
    process, wall, counts = Clock(), Clock(), {"tokens_generated": 0}
    own = Budget(10, 1, process, wall, counts)
    args: Any = None
    state, control = TrainerState(), TrainerControl()
    own.on_train_begin(args, state, control)
    process.now, wall.now, counts["tokens_generated"] = 12.0, 30.0, 10
    own.on_step_end(args, state, control)
    own.on_evaluate(args, state, control, {"eval_pass@1": 0.25})
    [point] = own.points
    assert (point.process_seconds, point.wall_seconds, point.score) == (12.0, 30.0, 0.25)


@pytest.mark.long
def test_training_ends_with_the_budget(model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgeted, "make_reward", lambda style: digit_reward)  # random text needs no grading process
    clock = Clock()
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        "num_generations_update": 4,
        "max_completion_length": 8,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    config = SubsetGRPOConfig(
        str(tmp_path), max_steps=MAX_STEPS, save_strategy="no", report_to="none", disable_tqdm=True, **settings
    )
    evaluation = TimedEvaluation(
        (Question("q", "a=1,b=2", "12", "s"),), "bare", SamplingSettings(1, 8, 1.0, 1.0, 0), (1,), 8, 0, clock=clock
    )

    def ticking() -> float:
        clock.now += 1  # once per step, when it ends; other calls only move the start of a step
        return clock.now

    points = train_on_budget(
        model_dir, questions(), evaluation, config, tokens=400, evaluations=2, clock=ticking, wall=clock
    )
    assert [point.process_seconds for point in points] == [float(point.step) for point in points]
    assert [point.counts["rollouts"] for point in points] == [16 * point.step for point in points]
    assert [point.counts["selected"] for point in points] == [8 * point.step for point in points]
    assert 200 <= points[0].counts["tokens_generated"] < 400 <= points[1].counts["tokens_generated"] < 400 + 16 * 8
    assert len(points) == 2
    assert not list(tmp_path.glob("checkpoint-*"))
