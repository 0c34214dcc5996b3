"""A run that is resumed from a checkpoint ends like an uninterrupted run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.trainers import Selections, make_trainer, read_tables, untimed, weights

pytestmark = pytest.mark.long


PLACES = {
    "between generations": {},
    "in mid-buffer": {"steps_per_generation": 4},
    "in mid-buffer, second pass": {"steps_per_generation": 2, "num_iterations": 2},
    "in mid-buffer, between log lines": {"steps_per_generation": 4, "logging_steps": 2},
    "in mid-buffer, with old and reference log-probs": {"steps_per_generation": 4, "beta": 0.1},
    "accumulation that does not divide": {"steps_per_generation": 3, "gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("settings", PLACES.values(), ids=PLACES)
def test_a_resumed_run_equals_an_uninterrupted_one(model_dir: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    settings = settings | {"num_generations_update": 2, "max_steps": 7, "log_completions": True}
    settings |= {"save_strategy": "steps", "save_steps": 1}
    if settings.get("gradient_accumulation_steps") is None:
        settings["gradient_accumulation_steps"] = 1
    whole, whole_logs = make_trainer(model_dir, tmp_path / "whole", **settings)
    whole_selections = Selections(whole)
    whole.add_callback(whole_selections)
    loss = whole.train().training_loss

    resumed, logs = make_trainer(model_dir, tmp_path / "resumed", **settings)
    selections = Selections(resumed)
    resumed.add_callback(selections)
    assert resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3")).training_loss == loss

    assert selections.masks == whole_selections.masks[3:]
    lines = untimed(logs)
    assert logs.of("train_loss") == whole_logs.of("train_loss") == [loss]
    assert lines == untimed(whole_logs)[-len(lines) :]
    assert len(lines) >= 2
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(resumed)[name]), name
    assert resumed.ledger.counts == whole.ledger.counts
    for name, table in read_tables(tmp_path / "resumed").items():
        assert table == read_tables(tmp_path / "whole")[name]
