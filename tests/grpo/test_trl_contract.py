"""A release of TRL that changed something the trainer depends on is rejected at import."""

from typing import Any

import pytest
from trl import GRPOTrainer

from raml_trl.grpo import trl_contract


def test_the_installed_release_fulfils_the_contract() -> None:
    assert list(trl_contract.find_changes(GRPOTrainer)) == []


class Gone(GRPOTrainer):
    _calculate_rewards = None


class CalledDifferently(GRPOTrainer):
    def _generate(self, prompts: Any, images: Any) -> Any: ...


class OtherBody(GRPOTrainer):
    def _prepare_inputs(self, generation_batch: Any) -> Any:
        return self._generate_and_score_completions(generation_batch)[self._step]


class OtherOrder(GRPOTrainer):
    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._calculate_rewards(self._generate(inputs))
        self._get_per_token_logps_and_entropies()
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask", "advantages")
        more = (
            "num_items_in_batch",
            "old_per_token_logps",
            "ref_per_token_logps",
            "importance_sampling_ratio",
            "extra",
        )
        return names + more


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (Gone, "GRPOTrainer._calculate_rewards is gone"),
        (CalledDifferently, "GRPOTrainer._generate is called differently"),
        (OtherBody, "GRPOTrainer._prepare_inputs no longer uses _buffered_inputs, steps_per_generation"),
        (OtherOrder, "the order of a generation is"),
    ],
)
def test_changes_are_named(monkeypatch: pytest.MonkeyPatch, trainer: type, message: str) -> None:
    [change] = trl_contract.find_changes(trainer)
    assert message in change
    monkeypatch.setattr(trl_contract, "GRPOTrainer", trainer)
    with pytest.raises(ImportError, match=r"raml_trl does not fit trl \d.*Install a release"):
        trl_contract.check_contract()


def test_a_missing_field_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_contract, "_FIELDS", {"no_such_field"})
    with pytest.raises(ImportError, match="GRPOConfig has no no_such_field"):
        trl_contract.check_contract()
