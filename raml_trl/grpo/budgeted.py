"""Trains with GRPO until a given number of tokens is generated, and evaluates the model at equal shares of this budget.

A run with a budget of tokens, unlike one with a budget of time, is the same on a busy machine. Times are recorded.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.rewards import make_reward
from raml_trl.grpo.trainer import SubsetGRPOTrainer
from raml_trl.training.evaluation import Evaluation
from raml_trl.training.run import without_advice_to_trl

MAX_STEPS = 10**6
"""A number of steps that no budget reaches. Training ends when the budget is spent."""


@dataclass(frozen=True)
class Spent:
    """The score of an evaluation, and the cost of training before it.

    The cost consists of optimizer steps, of CPU and wall-clock seconds without those of evaluations, and of the counts
    of the trainer's `Ledger`, such as generated tokens.
    """

    score: float
    step: int
    process_seconds: float
    wall_seconds: float
    counts: Mapping[str, int]


@dataclass
class Budget(TrainerCallback):
    """Asks for an evaluation whenever a further 1/`evaluations` of the budget is spent. The last one ends training.

    Args:
        tokens: the budget: generated completion tokens.
        evaluations: number of evaluations, at equal shares of the budget; the last one is at its end.
        clock: returns the CPU time of the process in seconds, such as `time.process_time`.
        wall: returns the wall-clock time in seconds.
        counts: the counts of the trainer's `Ledger`, among them `tokens_generated`; the trainer updates them.
        metric: name of the evaluation metric to record as the score.
    """

    tokens: int
    evaluations: int
    clock: Callable[[], float]
    wall: Callable[[], float]
    counts: Mapping[str, int]
    metric: str = "eval_pass@1"
    points: list[Spent] = field(default_factory=list)
    _spent: tuple[float, float] = (0.0, 0.0)
    _since: tuple[float, float] = (0.0, 0.0)
    _passed: int = 0  # shares of the budget that are spent

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._since = self.clock(), self.wall()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        now = self.clock(), self.wall()
        self._spent = self._spent[0] + now[0] - self._since[0], self._spent[1] + now[1] - self._since[1]
        self._since = now
        before, self._passed = self._passed, self.counts["tokens_generated"] * self.evaluations // self.tokens
        control.should_evaluate = self._passed > before

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **_: object,
    ) -> None:
        assert metrics is not None
        self.points.append(Spent(metrics[self.metric], state.global_step, *self._spent, dict(self.counts)))
        control.should_training_stop = self._passed >= self.evaluations
        self._since = self.clock(), self.wall()  # the evaluation is not charged


@without_advice_to_trl()
def train_on_budget(
    model: str,
    rows: Dataset,
    evaluation: Evaluation,
    config: SubsetGRPOConfig,
    *,
    tokens: int,
    evaluations: int,
    clock: Callable[[], float],
    wall: Callable[[], float],
) -> list[Spent]:
    """Train `model` until `tokens` are generated, and return the score and the costs at each evaluation.

    The trained model is not saved. Several runs may follow each other in one process.

    Args:
        model: directory or name of the model.
        rows: the questions, as `grpo_rows` returns them.
        evaluation: the questions of the evaluations.
        config: the settings of the trainer; `max_steps` should be `MAX_STEPS`, so that only the budget ends training.
        tokens: the budget: generated completion tokens.
        evaluations: number of evaluations, at equal shares of the budget.
        clock: returns the CPU time of the process in seconds, to be recorded.
        wall: returns the wall-clock time in seconds, to be recorded.
    """
    trainer = _make_trainer(model, rows, evaluation, config)
    budget = Budget(tokens, evaluations, clock, wall, trainer.ledger.counts)
    trainer.add_callback(budget)
    trainer.train()
    del trainer
    gc.collect()  # a trainer is part of reference cycles
    return budget.points


@without_advice_to_trl()
def measure_start(model: str, rows: Dataset, evaluation: Evaluation, config: SubsetGRPOConfig) -> float:
    """Return the Pass@1 of `model` before training, with the sampling settings of the evaluations in training."""
    return evaluation.measure(_make_trainer(model, rows, evaluation, config))["eval_pass@1"]


def _make_trainer(model: str, rows: Dataset, evaluation: Evaluation, config: SubsetGRPOConfig) -> Any:
    trainer = SubsetGRPOTrainer(
        model,
        args=config,
        reward_funcs=make_reward(evaluation.prompt_style),
        train_dataset=rows,
        sampled_evaluation=evaluation,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
