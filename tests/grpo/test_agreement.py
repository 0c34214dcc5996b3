"""The comparison with TRL's trainer finds agreement where there is agreement, and reports every kind of departure."""

import inspect
import math
import sys
import textwrap
from collections.abc import Callable

import pytest
import torch
from trl import GRPOTrainer

from raml_trl.grpo.agreement import comparison
from raml_trl.grpo.agreement.cases import Case, choices, loss_cases
from raml_trl.grpo.agreement.comparison import Agreement, Difference, difference, measure
from raml_trl.grpo.agreement.results import agreement_figure, agreement_table, as_json, from_json
from raml_trl.grpo.agreement.training import Training
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.config_checks import check_exactness

DAPO = Case("dapo", {"loss_type": "dapo"})


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


CHANGES = {
    "a term that is a mean over a micro-batch": "loss + 0.01 * (per_token_logps * mask).sum() / mask.sum().clamp(1)",
    "a mean over the rows of a micro-batch": "loss / len(advantages)",
}


def changed_loss(result: str) -> Callable[..., torch.Tensor]:
    """Return the loss of the installed TRL, as a method that returns the expression `result` instead of `loss`."""
    lines = textwrap.dedent(inspect.getsource(GRPOTrainer._compute_loss)).rstrip().splitlines()
    assert lines[-1].strip() == "return loss"
    names = dict(vars(sys.modules[GRPOTrainer.__module__]))
    exec("\n".join([*lines[:-1], f"    return {result}"]), names)
    return names["_compute_loss"]


@pytest.mark.long
@pytest.mark.parametrize("result", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_loss_of_trl_is_reported(monkeypatch: pytest.MonkeyPatch, result: str) -> None:
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", changed_loss(result))
    [measured] = measure([DAPO])
    assert measured.columns["plain"].worst == 0.0  # the same rows share a micro-batch
    assert measured.columns["default"].gradient > 1e-3
    assert measured.columns["drop against mask"].gradient > 1e-3
    failures = [str(failure) for failure in measured.failures(1e-4)]
    assert len(failures) == 2
    assert failures[0].startswith("dapo: default: the ")  # gradient, or a metric such as its norm: the worst


@pytest.mark.long
def test_a_departure_of_our_trainer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = comparison._VARIANTS["plain"] | {"temperature": 1.00001}
    monkeypatch.setitem(comparison._VARIANTS, "plain", plain)
    [result] = measure([DAPO])
    [failure] = result.failures(1e-4)
    assert failure[:2] == ("dapo", "plain")


@pytest.mark.long
def test_a_rejected_case_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(self: SubsetGRPOConfig) -> None:
        self.skip_zero_advantage, self.beta = True, 0.1
        check_exactness(self)

    monkeypatch.setattr(SubsetGRPOConfig, "__post_init__", reject)
    [result] = measure([DAPO])
    assert [failure.column for failure in result.failures(1e-4)] == ["plain", "default", "drop against mask"]
    assert all("rejected: skip_zero_advantage is on" in str(failure) for failure in result.failures(1e-4))


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
    assert from_json(as_json(results)) == results
    figure = agreement_figure(results, 1e-4)
    assert figure.startswith("<svg")
    assert all(word in figure for word in ("first", "second", "drop against mask", "tolerance"))
