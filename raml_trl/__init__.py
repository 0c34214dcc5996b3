"""Train reasoning models on m of G rollouts: RaML (arXiv 2505.19815) on TRL.

The packages, from the bottom. Each imports only from those above it in this list; import-linter checks that.

- `runtime`: errors, files, the record of a run, parsing of YAML and command lines
- `render`: tables, figures, HTML pages
- `prompts`: the text that a model reads
- `grading`: text and reference -> `Grade`
- `evaluation`: counts of correct samples -> metrics, intervals, comparisons
- `data`: questions and trajectories on disk
- `sampling`: completions outside of training
- `hub`: pushes and cards
- `training`: what SFT and GRPO share
- `sft`: K trajectories per question
- `grpo`: m of G rollouts per group; `grpo.planning` predicts time and memory
- `analysis`: likelihood of the answer; `analysis.descent`, `analysis.landscape`, `analysis.pruning`
- `sweeps`: sweep files, trials, claims
- `reports`: the report page

The other modules beside this one are commands: `python -m raml_trl.X --config recipes/...yaml`.
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
    """Import a public name when it is first asked for: TRL takes seconds, and most commands do not need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
