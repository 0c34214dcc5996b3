"""Train reasoning models on m of G rollouts: RaML (arXiv 2505.19815) on TRL.

The map, from the bottom, by what it is about:

- the choice of rollouts: `selection`, `dealing`, `advantages`, `batching`, `accounting`, `seam`, `trainer`; what it
  will cost: `planning`, `memory`, `plan_inputs`, `plan_memory`
- questions: `json_rows`, `shards`, `tables`, `columns`, `data`, `key_set`, `filtering`, `decontamination`, `screening`
- trajectories: `choosing`, `examples`, `arrow_cache`, `sft_trainer`
- what a model writes: `prompts`, `sampling`, `sharded_sampling`, and `engines`: `transformers_engine`, `vllm_engine`,
  `server_engine` with `json_client`
- what it is worth: `exact_numbers`, `answers`, `equality`, `grading`, `grading_worker`, `grading_pool`, `rewards`,
  `metrics`, `voting`, `clusters`, `intervals`, `samples`, `comparison`, `in_training`
- what is inside: `likelihood` with `prefix_cache`, `trajectory_tokens`, `statements`, `analysis_tasks`; `curves`,
  `token_effects`, `curve_figures`; `directions`, `answer_losses`, `landscape`, `landscape_figures`; `pruning_methods`,
  `pruning`, `thinking`, `sentences`, `boxes`, `forced_answers`, `pruned_rows`, `frontier`; `pages`
- what a command is told: `table_arguments`, `data_arguments`, `model_arguments`, `training_arguments`,
  `sampling_arguments`, `analysis_arguments`, `result_arguments`, `plan_arguments`, `configs`; `validation`,
  `command_line`
- runs: `runs`, `checkpoints`, `lifecycle`, `trackers`, `dashboards`, `wandb_panels`
- the Hub: `hub`, `hub_trainer`, `publishing`, `provenance`, `cards`, `model_cards`, `completion_cards`
- sweeps: `sweeps`, `sweep_results`, `studies`, `trials`; and what they say of `claims`: `measures`,
  `measured_settings`, `break_even`, `weighed_figures`
- the report: `report_runs`, `report_curves`, `report_stages`, `report_samples`, `report_sweeps`, `report_combinations`,
  `report_time`, `report_time_tables`, `report_tables`, `report_numbers`, `report_sections`, `report_page`
- the embedded world: `arithmetic`
- the commands, run as `python -m raml_trl.X --config recipes/...yaml`: `build_model`, `prepare_data`,
  `sample_trajectories`, `train_sft`, `train_grpo`, `evaluate`, `compare`, `pseudo_gradient`, `loss_landscape`,
  `trajectory_pruning`, `report`, `plan`, `sweep`, `weigh_claims`, `wandb_report`

`tests/test_architecture.py` says which may import which.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raml_trl.configs import SubsetGRPOConfig as SubsetGRPOConfig
    from raml_trl.trainer import SubsetGRPOTrainer as SubsetGRPOTrainer

__version__ = "0.1.0"

_HOMES = {"SubsetGRPOConfig": "raml_trl.configs", "SubsetGRPOTrainer": "raml_trl.trainer"}
__all__ = ["SubsetGRPOConfig", "SubsetGRPOTrainer", "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: TRL takes seconds, and most commands do not need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
