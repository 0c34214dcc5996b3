"""Reads sweep files: the parameters of a sweep, and the command that each trial runs.

The format is that of Weights & Biases (W&B). Options that need W&B's server (`bayes`, `early_terminate`, …) are
rejected. Macros in the command, such as `${args}`, expand as in W&B's agent.

Source: docs.wandb.ai/models/sweeps/sweep-config-keys, and `wandb/sdk/launch/sweeps/utils.py` of wandb 0.31.0.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from raml_trl.runtime.errors import InputError, shown, suggestion
from raml_trl.runtime.files import read_yaml

Scalar = str | int | float | bool | None
Settings = dict[str, Scalar]
"""The values of the parameters of a trial, by name of the parameter."""

SEED = "seed"
"""The name of the parameter that repeats a setting: results are averaged over its values."""

_KEYS = frozenset({"program", "command", "method", "metric", "parameters", "run_cap"})
_LABELS = frozenset({"name", "description", "project", "entity"})  # shown by W&B, ignored here
_KEYS_OF_SERVER = frozenset({"early_terminate", "controller", "job", "scheduler"})
_DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
_RANGES = ("uniform", "int_uniform", "log_uniform", "log_uniform_values")
_MACRO = re.compile(r"\$\{(.*)\}")
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.,=@+-]")
_MOST_VALUES = 10_000
_LARGEST = 10**15
_LARGEST_LOGARITHM = 700
_MOST_TRIALS = 10**6
_LONGEST_NAME = 120  # characters; file systems allow 255 bytes, and suffixes must fit


@dataclass(frozen=True)
class Parameter:
    """The values that a parameter of a sweep may take: `values` or, if these are empty, numbers from `low` to `high`.

    With `log`, the logarithm of the number is drawn uniformly. With `whole`, numbers are integers.
    """

    values: tuple[Scalar, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def constant(self) -> bool:
        return len(self.values) == 1

    @property
    def num_values(self) -> int | None:
        """The number of different values; None if it is continuous: drawn from a range, not only as whole numbers."""
        return len(self.values) or (int(self.high) - int(self.low) + 1 if self.whole else None)


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep file.

    `metric` has the name that W&B shows, such as `eval/pass@1`. `command` has words and macros; the macro `${program}`
    stands for `program`. `run_cap` is the number of trials, unless the user gives another.
    """

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
        """The number of different trials; None if a parameter is continuous."""
        sizes = [parameter.num_values for parameter in self.parameters.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def settings(self, drawn: Mapping[str, Scalar]) -> Settings:
        """Add the constant parameters to those `drawn` for a trial, and return all in the order of the file."""
        return {
            name: drawn[name] if name in drawn else parameter.values[0] for name, parameter in self.parameters.items()
        }

    def trial_name(self, settings: Settings) -> str:
        """Return a name for the trial with these settings: unique within the sweep, and valid as a directory name."""
        exact = ",".join(f"{name}={settings[name]}" for name in self.swept) or "only"
        safe = _UNSAFE.sub("_", exact)
        if safe == exact and len(exact) <= _LONGEST_NAME and "." not in exact[:1]:
            return exact
        return f"{safe[:_LONGEST_NAME].lstrip('.')}-{blake2b(exact.encode(), digest_size=4).hexdigest()}"


def logged_name(metric: str) -> str:
    """Return the name under which the trainer logs a metric: `eval_NAME` or `NAME`.

    W&B shows these names as `eval/NAME` and `train/NAME`. A `metric` without such a prefix is returned unchanged.
    """
    if metric.startswith("eval/"):
        return "eval_" + metric.removeprefix("eval/")
    return metric.removeprefix("train/")


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        InputError: if the file cannot be read, is not in W&B's format, or needs W&B's server.
    """
    content = read_yaml(path)
    method = content.get("method")
    of_server = [*sorted(content.keys() & _KEYS_OF_SERVER), *(["method bayes"] if method == "bayes" else [])]
    if of_server:
        raise InputError(
            f"{path}: {of_server[0]} needs the server of W&B: remove it, or start the sweep with `wandb sweep` and "
            "`wandb agent`"
        )
    known = _KEYS | _LABELS
    for key in content.keys() - known:
        near = suggestion(str(key)[:100], known) or f": remove it; known are {', '.join(sorted(known))}"
        raise InputError(f"{path}: unknown key {shown(key)}{near}")
    if method not in ("grid", "random"):
        raise InputError(f"{path}: method must be grid or random, got {shown(method)}")
    metric = content.get("metric")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str) or not metric.keys() <= {"name", "goal"}:
        raise InputError(f"{path}: metric must have a name, and a goal unless it is minimize, got {metric!r}")
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
    if method == "grid" and (sweep.combinations or 0) > _MOST_TRIALS:
        raise InputError(f"{path}: the grid has {sweep.combinations:,} trials: list fewer values, or use method random")
    expand(sweep, dict.fromkeys(sweep.parameters), Path(), environment=None)
    return sweep


def expand(sweep: Sweep, settings: Settings, json_file: Path, environment: Mapping[str, str] | None) -> list[str]:
    """Return the command of a trial, as a list of words.

    Args:
        sweep: the sweep whose command is expanded.
        settings: all arguments of the trial, in order: its parameters, then those that W&B's agent would not pass, such
            as `output_dir`.
        json_file: the path that `${args_json_file}` expands to.
        environment: the environment variables that `${envvar:NAME}` expands to. With None, words of the command that
            contain such a macro are left out.

    Raises:
        InputError: for an unknown macro or an environment variable that is not set.
    """
    macros: dict[str, Sequence[str]] = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "args": [f"--{name}={value}" for name, value in settings.items()],
        "args_no_hyphens": [f"{name}={value}" for name, value in settings.items()],
        "args_no_equals": [word for name, value in settings.items() for word in (f"--{name}", str(value))],
        # True becomes a flag without a value; false is left out.
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
            word = _expand_variables(word, environment, sweep.path)
        elif _VARIABLE.search(word):
            continue
        # Only a whole word is a macro: ${x} inside a longer word may belong to the shell.
        macro = _MACRO.fullmatch(word)
        if macro is None:
            words.append(word)
        elif macro[1] in macros:
            words += macros[macro[1]]
        else:
            error = "program is missing" if macro[1] == "program" else f"{word} is not a macro of W&B"
            supported = ", ".join(f"${{{name}}}" for name in ("envvar:NAME", *macros))
            raise InputError(f"{sweep.path}: {error}; supported are {supported}")
    return words


def _expand_variables(word: str, environment: Mapping[str, str], path: Path) -> str:
    for name in _VARIABLE.findall(word):
        if name not in environment:  # W&B's agent would insert the name of the variable
            raise InputError(f"{path}: the command needs the environment variable {name}, which is not set")
    return _VARIABLE.sub(lambda match: environment[match[1]], word)


def _parameter(path: Path, name: str, value: object, method: str) -> Parameter:
    """Parse one entry of `parameters`."""
    prefix = f"{path}: parameter {name}"
    if not isinstance(value, dict):
        raise InputError(f"{prefix} must be a mapping with value, values or min and max, got {value!r}")
    fields = dict(value)
    distribution = fields.pop("distribution", None)
    if fields.keys() == {"value"} and distribution in (None, "constant"):
        return Parameter(_scalars(prefix, [fields["value"]]))
    if fields.keys() == {"values"} and distribution in (None, "categorical"):
        return Parameter(_scalars(prefix, fields["values"]))
    if fields.keys() == {"min", "max"}:
        return _range(prefix, fields["min"], fields["max"], distribution, method)
    raise InputError(
        f"{prefix} has {', '.join(map(repr, value))}: without W&B it takes value, values, or min and max with a "
        f"distribution of {', '.join(_RANGES)}"
    )


def _scalars(prefix: str, values: object) -> tuple[Scalar, ...]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{prefix}: values must be a list of at least one, got {values!r}")
    for value in values:
        if not (value is None or isinstance(value, str | int | float)):
            raise InputError(f"{prefix}: {value!r} must be a number, a string, true, false or null")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{prefix}: {value!r} must be a finite number")
    if len(set(values)) < len(values):
        raise InputError(f"{prefix} has a value twice: {values!r}")
    return tuple(values)


def _range(prefix: str, low: object, high: object, distribution: str | None, method: str) -> Parameter:
    if not isinstance(low, int | float) or not isinstance(high, int | float) or not -_LARGEST <= low < high <= _LARGEST:
        raise InputError(f"{prefix}: min must be a number below max, both within ±1e15, got {low!r} and {high!r}")
    whole = isinstance(low, int) and isinstance(high, int)
    distribution = distribution or ("int_uniform" if whole else "uniform")
    if distribution not in _RANGES:
        raise InputError(f"{prefix}: distribution {distribution!r} needs W&B; supported are {', '.join(_RANGES)}")
    if distribution == "int_uniform":
        if not isinstance(low, int) or not isinstance(high, int):
            raise InputError(f"{prefix}: int_uniform needs whole min and max, got {low!r} and {high!r}")
        if method == "grid":
            if high - low >= _MOST_VALUES:
                raise InputError(f"{prefix} has more than {_MOST_VALUES:,} values: narrow it, or use method random")
            return Parameter(tuple(range(low, high + 1)))
        return Parameter(low=low, high=high, whole=True)
    if method == "grid":
        raise InputError(f"{prefix} is continuous and has no grid: list its values, or use method random")
    if distribution == "log_uniform" and high > _LARGEST_LOGARITHM:
        raise InputError(f"{prefix}: max is a logarithm and must be at most {_LARGEST_LOGARITHM}, got {high!r}")
    if distribution == "log_uniform":  # min and max of W&B are logarithms here
        return Parameter(low=math.exp(low), high=math.exp(high), log=True)
    if distribution == "log_uniform_values" and low <= 0:
        raise InputError(f"{prefix}: log_uniform_values needs a min above 0, got {low!r}")
    return Parameter(low=low, high=high, log=distribution == "log_uniform_values")


def sweep_identity(sweep: Sweep) -> dict[str, object]:
    """Return the parts of a sweep file that determine its trials, as JSON. Equal parts mean the same sweep."""
    spaces = {name: vars(parameter) for name, parameter in sweep.parameters.items()}
    content = [sweep.method, sweep.metric, sweep.goal, sweep.command, sweep.program, spaces]
    return {"sweep": json.loads(json.dumps(content))}
