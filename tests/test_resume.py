"""A run that is cut off and resumed ends where the run that was not ends."""

from pathlib import Path

import torch
from trainers import Selections, make_trainer, weights


def test_resumed_run_draws_the_same_subsets_and_ends_with_the_same_weights(model_dir: str, tmp_path: Path) -> None:
    settings = {"num_generations_update": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 5}
    whole, _ = make_trainer(model_dir, tmp_path / "whole", **settings)
    whole_selections = Selections(whole)
    whole.add_callback(whole_selections)
    whole.train()

    resumed, _ = make_trainer(model_dir, tmp_path / "resumed", **settings)
    selections = Selections(resumed)
    resumed.add_callback(selections)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))

    assert selections.masks == whole_selections.masks[2:]
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(resumed)[name]), name
