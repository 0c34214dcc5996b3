"""Train reasoning models on m of G rollouts: RaML (arXiv 2505.19815) on TRL.

The map, from the bottom: `prompts`, `grading`, `selection`, `dealing`, `accounting`, `planning`, `metrics`,
`arithmetic` (pure, light) · `data`, `rewards`, `advantages`, `batching`, `checkpoints`, `seam`, `sampling`,
`arguments`, `configs` · `trainer`, `lifecycle`, `command_line` · and the commands, run as
`python -m raml_trl.X --config recipes/...yaml`: `build_model`, `prepare_data`, `train_sft`, `train_grpo`, `evaluate`,
`report`, `plan`.
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
