"""The comparison with TRL's trainer finds agreement where there is agreement, and reports every kind of departure."""

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from raml_trl.grpo.agreement.cases import Case, choices, loss_cases
from raml_trl.grpo.agreement.comparison import Agreement, Difference, difference, measure
from raml_trl.grpo.agreement.results import agreement_figure, agreement_table, as_json
from raml_trl.grpo.agreement.training import Training
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.trainer import SubsetGRPOTrainer

DAPO = Case("dapo", {"loss_type": "dapo"})
Loss = Callable[..., torch.Tensor]


def test_loss_types_are_read_from_trl() -> None:
    known = {"grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"}
    assert known <= set(choices("loss_type"))
    assert {case.settings["loss_type"] for case in loss_cases() if "loss_type" in case.settings} >= known
    assert choices("importance_sampling_level") == ["sequence", "token"]


@pytest.mark.long
def test_the_trainers_agree() -> None:
    row_mean = Case("grpo, beta", {"loss_type": "grpo", "beta": 0.1, "steps_per_generation": 4})
    agreements = list(measure([DAPO, row_mean]))
    assert [failure for result in agreements for failure in result.failures(1e-5)] == []
    assert all(result.columns["default"].gradient > 0 for result in agreements)  # another order of summation


def with_term(loss: Loss) -> Loss:
    """A loss with a new term that is a mean over the tokens of a micro-batch."""

    @functools.wraps(loss)
    def changed(self: Any, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        log_probs, *_ = GRPOTrainer._get_per_token_logps_and_entropies(
            self, model, ids, mask, inputs["completion_ids"].size(1)
        )
        tokens = inputs["completion_mask"]
        return loss(self, model, inputs) + 0.01 * (log_probs * tokens).sum() / tokens.sum().clamp(min=1)

    return changed


def with_other_denominator(loss: Loss) -> Loss:
    """A loss that divides by the rows of the micro-batch."""

    @functools.wraps(loss)
    def changed(self: Any, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return loss(self, model, inputs) / len(inputs["advantages"])

    return changed


@pytest.mark.long
@pytest.mark.parametrize("change", [with_term, with_other_denominator])
def test_a_change_of_the_loss_of_trl_is_reported(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Loss], Loss]
) -> None:
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", change(GRPOTrainer._compute_loss))
    [result] = measure([DAPO])
    assert result.columns["plain"] == Difference(0.0, 0.0, result.columns["plain"].metric)  # the same rows in both
    assert result.columns["default"].gradient > 1e-3
    assert result.columns["drop against mask"].gradient > 1e-3
    failures = list(result.failures(1e-4))
    assert len(failures) == 2
    assert failures[0].startswith("dapo: default: the gradient differs by ")


@pytest.mark.long
def test_a_departure_of_our_trainer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = SubsetGRPOTrainer._compute_loss
    monkeypatch.setattr(SubsetGRPOTrainer, "_compute_loss", lambda *args: loss(*args) * (1 + 1e-6))
    [result] = measure([DAPO])
    [failure] = result.failures(1e-4)
    assert failure.startswith("dapo: plain: ")


@pytest.mark.long
def test_a_rejected_case_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(self: SubsetGRPOConfig) -> None:
        self.skip_zero_advantage, self.beta = True, 0.1
        self._check_exactness()

    monkeypatch.setattr(SubsetGRPOConfig, "__post_init__", reject)
    [result] = measure([DAPO])
    assert len(list(result.failures(1e-4))) == 3
    assert all(": skip_zero_advantage is on, but with beta" in failure for failure in result.failures(1e-4))
    assert [failure.split(": ")[1] for failure in result.failures(1e-4)] == [
        "plain is rejected",
        "default is rejected",
        "drop against mask is rejected",
    ]


def test_differences_are_relative() -> None:
    def training(scale: float, **logs: float) -> Training:
        return Training([torch.tensor([3.0, 4.0]) * scale], [logs])

    assert difference(training(1.5, a=1.0), training(1.0, a=2.0), ["a"]) == Difference(0.5, 0.5, "a")
    assert difference(training(1.0, a=0.001), training(1.0, a=0.002), ["a"]).logs == pytest.approx(0.01)
    assert difference(training(1.0, a=math.nan), training(1.0, a=math.nan), ["a"]) == Difference(0.0, 0.0, "a")
    for ours in ({"a": math.nan}, {}):
        assert difference(training(1.0, **ours), training(1.0, a=1.0), ["a"]).logs == math.inf
    assert difference(training(math.nan, a=1.0), training(1.0, a=1.0), ["a"]).gradient == math.inf
    assert difference(Training(), training(1.0, a=1.0), ["a"]).gradient == math.inf


def test_results_are_shown() -> None:
    values = {
        "plain": Difference(0.0, 0.0, "a"),
        "default": "no such loss",
        "drop against mask": Difference(1e-7, 0.5, "a"),
    }
    results = [Agreement("first", values), Agreement("second", dict.fromkeys(values, Difference(math.inf, 0.0, "a")))]
    table = agreement_table(results).splitlines()
    assert [cell.strip() for cell in table[2].split("|")[1:-1]] == ["first", "0", "rejected", "5e-01"]
    assert as_json(results)[0]["default"] == {"rejected": "no such loss"}
    assert as_json(results)[1]["plain"] == {"gradient": None, "logs": 0.0, "metric": "a"}
    figure = agreement_figure(results, 1e-4)
    assert figure.startswith("<svg")
    assert all(word in figure for word in ("first", "second", "drop against mask", "tolerance"))
