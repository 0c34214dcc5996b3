"""Train reasoning models on m of G rollouts: RaML (arXiv 2505.19815) on TRL.

The sub-packages, in order of dependency. Each imports only from those above it; import-linter checks this.

- `runtime`: errors, files, run records, parsing of YAML and command lines
- `render`: tables, figures, HTML pages
- `prompts`: the prompts that models read
- `grading`: grades a completion against a reference answer
- `evaluation`: metrics, intervals and comparisons from counts of correct samples
- `data`: questions and trajectories on disk
- `sampling`: samples completions outside training
- `hub`: pushes to the Hugging Face Hub, with model and dataset cards
- `training`: shared by SFT and GRPO: the course of a run, evaluation, checkpoints, publishing
- `sft`: supervised fine-tuning on K trajectories per question
- `grpo`: GRPO on m of G rollouts per group; `grpo.planning` predicts its time and memory
- `analysis`: the likelihood of the answer along trajectories, with `analysis.descent`, `analysis.landscape` and
  `analysis.pruning`
- `sweeps`: sweep files, their trials, and claims tested on their results
- `reports`: the report as HTML and Markdown

The modules beside this one are the commands: `python -m raml_trl.X --config recipes/...yaml`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raml_trl.grpo.config import SubsetGRPOConfig as SubsetGRPOConfig
    from raml_trl.grpo.trainer import SubsetGRPOTrainer as SubsetGRPOTrainer

__version__ = "0.1.0"

_HOMES = {"SubsetGRPOConfig": "raml_trl.grpo.config", "SubsetGRPOTrainer": "raml_trl.grpo.trainer"}
__all__ = ["SubsetGRPOConfig", "SubsetGRPOTrainer", "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name on first use, because importing TRL takes seconds and most commands do not need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
