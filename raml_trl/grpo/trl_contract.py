"""Checks at import that the installed TRL and transformers still have what the trainer depends on.

Only names are checked: the methods that we override and their number of arguments, the attributes and keys that TRL's
methods must use, and the order of the steps in a generation. The tests check the behaviour.
"""

import inspect
from collections.abc import Iterator
from dataclasses import fields
from types import CodeType

import trl
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer

# Methods that we override, with the number of arguments besides self.
_CALLS: dict[type, dict[str, int]] = {
    GRPOTrainer: {
        "training_step": 3,
        "_prepare_inputs": 1,
        "_generate_and_score_completions": 1,
        "_generate": 1,
        "_calculate_rewards": 4,
        "_get_per_token_logps_and_entropies": 4,
        "_compute_loss": 2,
    },
    Trainer: {
        "_save_rng_state": 1,
        "_load_rng_state": 1,
        "_load_optimizer_and_scheduler": 1,
        "evaluate": 2,
        "log": 1,
        "_push_from_checkpoint": 1,
    },
}
# Names that must occur in the bodies of TRL's methods: attributes, functions and keys.
_USES: dict[str, set[str]] = {
    "__init__": {
        *("_buffered_inputs", "_step", "_metrics", "_logs", "aux_loss_enabled", "pad_to_multiple_of", "reward_weights"),
        *("num_iterations", "loss_type", "scale_rewards", "multi_objective_aggregation", "beta", "num_generations"),
        *("use_vllm", "vllm_importance_sampling_correction", "log_completions", "ref_model"),
        *("entropy_coef", "_last_world_entropy", "_pending_metrics"),
    },
    "_prepare_inputs": {"_buffered_inputs", "_step", "steps_per_generation", "_generate_and_score_completions"},
    "_generate_and_score_completions": {
        *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask", "advantages"),
        *("num_items_in_batch", "old_per_token_logps", "ref_per_token_logps", "importance_sampling_ratio", "extra"),
    },
    "_compute_loss": {
        *("prompt_ids", "completion_mask", "tool_mask", "advantages", "num_items_in_batch", "beta", "_metrics"),
        *("current_gradient_accumulation_steps", "steps_per_generation", "_get_per_token_logps_and_entropies"),
    },
    "training_step": {"_step"},
}
_ORDER = ("_generate", "_get_per_token_logps_and_entropies", "_calculate_rewards")
_FIELDS = {
    *("num_generations", "steps_per_generation", "generation_batch_size", "num_iterations", "loss_type", "beta"),
    *("scale_rewards", "multi_objective_aggregation", "entropy_coef", "use_adaptive_entropy", "top_entropy_quantile"),
    *("router_aux_loss_coef", "ignore_data_skip"),
}


def check_contract() -> None:
    """Check that the installed TRL and transformers have everything that the trainer depends on.

    Raises:
        ImportError: if something has changed; the message names the changes, and the file that lists tested releases.
    """
    changes = [*find_changes(GRPOTrainer), *_missing_fields()]
    if changes:
        raise ImportError(
            f"raml_trl does not fit trl {trl.__version__}: {'; '.join(changes)}. Install a release that it was tested "
            "with: see trl in its setup.cfg"
        )


def find_changes(trainer: type) -> Iterator[str]:
    """Yield a description of each thing that our trainer needs and `trainer`, a class like `GRPOTrainer`, lacks."""
    methods = dict(inspect.getmembers(trainer, callable))
    for owner, calls in _CALLS.items():
        for name, arguments in calls.items():
            if name not in methods:
                yield f"{owner.__name__}.{name} is gone"
                continue
            try:
                inspect.signature(methods[name]).bind(None, *[None] * arguments)
            except TypeError as error:
                yield f"{owner.__name__}.{name} is called differently ({error})"
    for name, used in _USES.items():
        missing = used - strings(_code(trainer, name))
        if missing:
            yield f"GRPOTrainer.{name} no longer uses {', '.join(sorted(missing))}"
    body = _code(trainer, "_generate_and_score_completions")
    order = [name for name in body.co_names if name in _ORDER]  # co_names is ordered by first use
    if tuple(order) != _ORDER:
        yield f"the order of a generation is {', '.join(order)}, not {', '.join(_ORDER)}"


def strings(code: CodeType) -> set[str]:
    """Return the names and string constants in the code of a function and of the functions defined inside it.

    The names are those of attributes, global names and imports that the code uses.
    """
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= strings(constant)
        elif isinstance(constant, (str, tuple)):
            names |= {constant} if isinstance(constant, str) else set(constant)
    return names


def _missing_fields() -> Iterator[str]:
    missing = _FIELDS - {field.name for field in fields(GRPOConfig)}
    if missing:
        yield f"GRPOConfig has no {', '.join(sorted(missing))}"


def _code(trainer: type, name: str) -> CodeType:
    return inspect.unwrap(getattr(trainer, name)).__code__
