"""Sweep files of Weights & Biases: what they sweep over, and the command that each of their trials starts.

The format is W&B's; what of it needs their server (`bayes`, `early_terminate`, …) is refused. Macros are expanded as
by their agent.

Source: docs.wandb.ai/models/sweeps/sweep-config-keys, and `wandb/sdk/launch/sweeps/utils.py` of wandb 0.31.0.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_yaml

Scalar = str | int | float | bool | None
Settings = dict[str, Scalar]
"""What a trial is started with, by parameter."""

SEED = "seed"
"""The parameter over which trials are averaged."""

_KEYS = frozenset({"program", "command", "method", "metric", "parameters", "run_cap"})
_LABELS = frozenset({"name", "description", "project", "entity"})  # W&B shows them
_DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
_MACRO = re.compile(r"\$\{(.*)\}")
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.,=@+-]")
_LONGEST_NAME = 120  # characters: file systems take 255 bytes, and a suffix must fit


@dataclass(frozen=True)
class Parameter:
    """One of `values`, or a number from `low` to `high`; `log`: uniform in its logarithm, `whole`: an integer."""

    values: tuple[Scalar, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def constant(self) -> bool:
        return len(self.values) == 1


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says. `metric` is named as W&B sees it, such as `eval/pass@1`."""

    path: Path
    method: Literal["grid", "random"]
    metric: str
    goal: Literal["minimize", "maximize"]
    parameters: dict[str, Parameter]
    command: tuple[str, ...]
    program: str | None
    run_cap: int | None

    @property
    def swept(self) -> dict[str, Parameter]:
        """The parameters that have more than one value."""
        return {name: parameter for name, parameter in self.parameters.items() if not parameter.constant}

    @property
    def combinations(self) -> int | None:
        """How many different trials there are; None if a parameter is continuous."""
        if not all(parameter.values for parameter in self.parameters.values()):
            return None
        return math.prod(len(parameter.values) for parameter in self.parameters.values())

    def settings(self, drawn: Mapping[str, Scalar]) -> Settings:
        """All parameters of a trial, in the order of the file, from those that are swept."""
        return {name: drawn[name] if name in drawn else one.values[0] for name, one in self.parameters.items()}

    def trial_name(self, settings: Settings) -> str:
        """A name for a directory, which tells a trial from all others of the sweep."""
        exact = ",".join(f"{name}={settings[name]}" for name in self.swept) or "only"
        safe = _UNSAFE.sub("_", exact)
        if safe == exact and len(exact) <= _LONGEST_NAME and "." not in exact[:1]:
            return exact
        return f"{safe[:_LONGEST_NAME].lstrip('.')}-{blake2b(exact.encode(), digest_size=4).hexdigest()}"


def read_sweep(path: Path) -> Sweep:
    """What the sweep file says.

    Raises:
        InputError: if it cannot be read, is no sweep file of W&B's, or needs their server.
    """
    content = read_yaml(path)
    theirs = sorted(content.keys() - _KEYS - _LABELS)
    method = content.get("method")
    if theirs or method not in ("grid", "random"):
        what = theirs[0] if theirs else f"method {method!r}"
        raise InputError(
            f"{path}: {what} is none of what runs without W&B, which is method grid or random, with "
            f"{', '.join(sorted(_KEYS))}: take it out, or start the sweep with `wandb sweep` and `wandb agent`"
        )
    metric = content.get("metric")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str) or not metric.keys() <= {"name", "goal"}:
        raise InputError(f"{path}: metric must have a name, and a goal if it is not minimize, got {metric!r}")
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise InputError(f"{path}: metric.goal must be minimize or maximize, got {goal!r}")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise InputError(f"{path}: parameters must name at least one parameter, got {parameters!r}")
    cap = content.get("run_cap")
    if not (cap is None or (type(cap) is int and cap > 0)):
        raise InputError(f"{path}: run_cap must be a number of trials, got {cap!r}")
    command = content.get("command", list(_DEFAULT_COMMAND))
    if not isinstance(command, list) or not command:
        raise InputError(f"{path}: command must be a list of words and macros, got {command!r}")
    sweep = Sweep(
        path=path,
        method=method,
        metric=metric["name"],
        goal=goal,
        parameters={str(name): _parameter(path, str(name), value, method) for name, value in parameters.items()},
        command=tuple(str(word) for word in command),
        program=content.get("program"),
        run_cap=cap,
    )
    expand(sweep, dict.fromkeys(sweep.parameters), Path(), environment=None)
    return sweep


def expand(sweep: Sweep, settings: Settings, json_file: Path, environment: Mapping[str, str] | None) -> list[str]:
    """The words of the command that a trial with `settings` starts.

    Args:
        sweep: whose command.
        settings: all arguments, in order; those of W&B's agent are the parameters alone.
        json_file: the path that `${args_json_file}` stands for.
        environment: the variables that `${envvar:…}` stand for; None leaves them as they are.

    Raises:
        InputError: for a macro or a variable there is none of.
    """
    macros: dict[str, Sequence[str]] = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "args": [f"--{name}={value}" for name, value in settings.items()],
        "args_no_hyphens": [f"{name}={value}" for name, value in settings.items()],
        "args_no_equals": [word for name, value in settings.items() for word in (f"--{name}", str(value))],
        # A flag without a value is there if it is true.
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in settings.items()
            if value is not False
        ],
        "args_append_hydra": [f"+{name}={value}" for name, value in settings.items()],
        "args_override_hydra": [f"++{name}={value}" for name, value in settings.items()],
        "args_json": [json.dumps(settings)],
        "args_json_file": [str(json_file)],
    }
    if sweep.program is not None:
        macros["program"] = [str(sweep.program)]
    words: list[str] = []
    for word in sweep.command:
        if environment is not None:
            word = _VARIABLE.sub(lambda found: _value_of(found[1], environment, sweep.path), word)
        elif _VARIABLE.search(word):
            continue
        # Only a word that is nothing but a macro: ${x} within one is the shell's, or whose ever the word is.
        macro = _MACRO.fullmatch(word)
        if macro is None:
            words.append(word)
        elif macro[1] in macros:
            words += macros[macro[1]]
        else:
            missing = "program is missing" if macro[1] == "program" else f"{word} is no macro of W&B's"
            raise InputError(f"{sweep.path}: {missing}; there are ${{envvar:NAME}}, {', '.join(map(_shown, macros))}")
    return words


def _shown(macro: str) -> str:
    return f"${{{macro}}}"


def _value_of(variable: str, environment: Mapping[str, str], path: Path) -> str:
    if variable not in environment:  # W&B's agent would put its name there instead
        raise InputError(f"{path}: the command wants the environment variable {variable}, which is not set")
    return environment[variable]


def _parameter(path: Path, name: str, value: object, method: str) -> Parameter:
    """A parameter from what the file says of it."""
    told = f"{path}: parameter {name}"
    if not isinstance(value, dict):
        raise InputError(f"{told} must be a mapping with value, values or min and max, got {value!r}")
    given = dict(value)
    distribution = given.pop("distribution", None)
    if given.keys() == {"value"} and distribution in (None, "constant"):
        return Parameter(_scalars(told, [given["value"]]))
    if given.keys() == {"values"} and distribution in (None, "categorical"):
        return Parameter(_scalars(told, given["values"]))
    if given.keys() == {"min", "max"}:
        return _range(told, given["min"], given["max"], distribution, method)
    raise InputError(
        f"{told} has {', '.join(map(repr, value))}: without W&B it takes value, values, or min and max with a "
        f"distribution of {', '.join(_RANGES)}"
    )


def _scalars(told: str, values: object) -> tuple[Scalar, ...]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{told}: values must be a list of at least one, got {values!r}")
    for value in values:
        if not (value is None or isinstance(value, str | int | float)):
            raise InputError(f"{told}: {value!r} is neither a number, a string, true, false nor null")
    if len(set(values)) < len(values):
        raise InputError(f"{told} has a value twice: {values!r}")
    return tuple(values)


_RANGES = ("uniform", "int_uniform", "log_uniform", "log_uniform_values")


def _range(told: str, low: object, high: object, distribution: str | None, method: str) -> Parameter:
    if not isinstance(low, int | float) or not isinstance(high, int | float) or not low < high:
        raise InputError(f"{told}: min must be a number below max, got {low!r} and {high!r}")
    whole = isinstance(low, int) and isinstance(high, int)
    distribution = distribution or ("int_uniform" if whole else "uniform")
    if distribution not in _RANGES:
        raise InputError(f"{told}: distribution {distribution!r} needs W&B; without it there are {', '.join(_RANGES)}")
    if distribution == "int_uniform":
        if not isinstance(low, int) or not isinstance(high, int):
            raise InputError(f"{told}: int_uniform needs whole min and max, got {low!r} and {high!r}")
        if method == "grid":
            return Parameter(tuple(range(low, high + 1)))
        return Parameter(low=low, high=high, whole=True)
    if method == "grid":
        raise InputError(f"{told} has infinitely many values, which make no grid: give values, or use method random")
    if distribution == "log_uniform":  # W&B's bounds are those of the logarithm
        return Parameter(low=math.exp(low), high=math.exp(high), log=True)
    if distribution == "log_uniform_values" and low <= 0:
        raise InputError(f"{told}: log_uniform_values needs a min above 0, got {low!r}")
    return Parameter(low=low, high=high, log=distribution == "log_uniform_values")


def as_data(sweep: Sweep) -> dict[str, Any]:
    """What makes two sweeps one: all that decides what their trials are."""
    spaces = {name: vars(parameter) for name, parameter in sweep.parameters.items()}
    said = [sweep.method, sweep.metric, sweep.goal, sweep.command, sweep.program, spaces]
    return {"sweep": json.loads(json.dumps(said))}
