"""Starts training from an adapter (LoRA): merges it into its base model, or continues to train it."""

import shutil
from pathlib import Path
from typing import Any, Literal

from peft import AutoPeftModelForCausalLM, PeftModel

from raml_trl.runtime.errors import InputError
from raml_trl.sampling.loading import (
    LOADING_ERRORS,
    base_of_adapter,
    cannot_load,
    check_model,
    keep_rope_theta,
    load_tokenizer,
)
from raml_trl.training.launch import from_first_process

StartingAdapter = Literal["merge", "continue"]
MERGED = "_merged"
"""The directory of the merged model in the output directory. The underscore keeps it from being pushed."""


def check_adapter(name: str, starting_adapter: StartingAdapter | None, *, use_peft: bool) -> None:
    """Check that the setting `starting_adapter` fits the model, without loading the model.

    Args:
        name: the model that training starts from.
        starting_adapter: the setting of the user.
        use_peft: whether the trainer is to add a new adapter.

    Raises:
        InputError: if the model is an adapter and `starting_adapter` is None; if the model is no adapter and
            `starting_adapter` is set; if the base model of the adapter is missing; or if `starting_adapter` is
            `continue` and `use_peft` would add a second adapter.
    """
    base = base_of_adapter(name)
    if base is None:
        if starting_adapter is not None:
            raise InputError(
                f"starting_adapter is {starting_adapter}, but model {name} is no adapter: leave starting_adapter out"
            )
        return
    if starting_adapter is None:
        raise InputError(
            f"model {name} is an adapter of {base}: set starting_adapter to merge, to train the merged model (or a new "
            "adapter on it), or to continue, to train this adapter further"
        )
    if starting_adapter == "continue" and use_peft:
        raise InputError(
            f"starting_adapter is continue, which trains the adapter {name}, and use_peft would add another: leave "
            "use_peft out, or set starting_adapter to merge"
        )
    check_model(base)


def merge_adapter(name: str, directory: Path, *, dtype: str | None) -> str:
    """Merge an adapter into its base model, save the merged model and its tokenizer, and return their directory.

    `name` is the directory of the adapter, and `dtype` is the dtype of the merged weights; None leaves the choice to
    transformers. The model is saved in `directory`. If the run is resumed, the merged model is already there and is
    kept. The first process of the launch merges, and the others wait for it.

    Raises:
        InputError: if the adapter or its base model cannot be loaded.
    """
    return from_first_process(lambda: _merge(name, directory, dtype))


def _merge(name: str, directory: Path, dtype: str | None) -> str:
    if not directory.is_dir():
        partial = directory.with_name(f"{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            merged: Any = AutoPeftModelForCausalLM.from_pretrained(name, dtype=dtype)
        except (*LOADING_ERRORS, ValueError) as error:
            raise cannot_load(name, error) from error
        model = merged.merge_and_unload()
        keep_rope_theta(model.config)
        model.save_pretrained(partial)
        load_tokenizer(name).save_pretrained(partial)
        partial.rename(directory)
    return str(directory)


def load_adapter(name: str, **options: Any) -> PeftModel:
    """Load an adapter with its base model, to train the adapter further.

    Args:
        name: the directory of the adapter.
        options: arguments of `from_pretrained` for the base model. Arguments with the value None are not passed.

    Raises:
        InputError: if the adapter or its base model cannot be loaded.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return AutoPeftModelForCausalLM.from_pretrained(name, is_trainable=True, **given)
    except (*LOADING_ERRORS, ValueError) as error:
        raise cannot_load(name, error) from error
