"""Trains reasoning models with GRPO on m of the G rollouts of each question: RaML (arXiv 2505.19815) on TRL.

These are the sub-packages in order of dependency. Each imports only from sub-packages listed above it; import-linter
checks this.

- `runtime`: errors, files, run records, parsing of YAML and command lines
- `render`: tables, figures, HTML pages
- `prompts`: the prompts that models read
- `grading`: grades a completion against a reference answer
- `evaluation`: metrics, intervals and comparisons from counts of correct samples
- `data`: questions and trajectories on disk
- `sampling`: samples completions outside training
- `hub`: pushes models and datasets to the Hugging Face Hub, each with a card
- `training`: code that SFT and GRPO share: the training loop, evaluation, checkpoints, publishing
- `sft`: supervised fine-tuning on K trajectories per question
- `grpo`: GRPO on m of G rollouts per group; `grpo.planning` predicts the time and memory of a step
- `analysis`: experiments on the likelihood of the reference answer: along a trajectory (`analysis.descent`), as the
  weights move (`analysis.landscape`), and after shortened trajectories (`analysis.pruning`)
- `sweeps`: sweep files, the trials of a sweep, and claims tested on the results of sweeps
- `reports`: a report about evaluations, runs and sweeps, as HTML and Markdown

The modules in the folder of this file are the commands: `raml-trl X recipes/...yaml` runs the module `X`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raml_trl.grpo.config import SubsetGRPOConfig as SubsetGRPOConfig
    from raml_trl.grpo.rloo import SubsetRLOOConfig as SubsetRLOOConfig
    from raml_trl.grpo.rloo import SubsetRLOOTrainer as SubsetRLOOTrainer
    from raml_trl.grpo.trainer import SubsetGRPOTrainer as SubsetGRPOTrainer

__version__ = "0.2.0"

_HOMES = {
    "SubsetGRPOConfig": "raml_trl.grpo.config",
    "SubsetGRPOTrainer": "raml_trl.grpo.trainer",
    "SubsetRLOOConfig": "raml_trl.grpo.rloo",
    "SubsetRLOOTrainer": "raml_trl.grpo.rloo",
}
__all__ = ["SubsetGRPOConfig", "SubsetGRPOTrainer", "SubsetRLOOConfig", "SubsetRLOOTrainer", "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name on first use, because importing TRL takes seconds and most commands do not need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
