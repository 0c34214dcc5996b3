"""Curves of a report: what was logged over optimizer steps, the mean of several seeds and how far it can be trusted."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from raml_trl.evaluation.intervals import student_interval
from raml_trl.render.figures import smooth
from raml_trl.reports.runs import TrainingRun

Curve = Mapping[int, float]
"""A quantity by optimizer step."""

# What is worth a figure, by the name under which it is logged, in the order of the figures.
_QUANTITIES = {
    "loss": "loss",
    "eval_loss": "loss on held-out questions",
    "correct": "rollouts that are correct",
    "reward": "mean reward (eq. 21)",
    "grad_norm": "gradient norm",
    "completions/mean_length": "tokens per rollout",
    "completions/clipped_ratio": "rollouts cut off",
    "selection/group_same_reward": "groups of one reward (no signal)",
}
_METRIC = re.compile(r"(eval[_/])?(pass|mg_pass|g_pass|maj)@(\d+)(?:_([\d.]+))?")
_METRIC_NAMES = {"pass": "Pass", "mg_pass": "mG-Pass", "g_pass": "G-Pass", "maj": "maj"}
_WINDOWS = 20  # a long curve is smoothed over a twentieth of it
_POINTS = 400  # of a curve: more than a figure has pixels for once it is smoothed


def metric_title(name: str) -> str:
    """How a metric of an evaluation is shown: `mg_pass@8` as mG-Pass@8; others as they are."""
    found = _METRIC.fullmatch(name)
    if found is None:
        return name
    tau = f" (τ = {found[4]})" if found[4] else ""
    return f"{_METRIC_NAMES[found[2]]}@{found[3]}{tau}"


def is_held_out(name: str) -> bool:
    """Whether `name` is a metric of the evaluations in training."""
    return name.startswith("eval_") and _METRIC.fullmatch(name) is not None


def metric_order(name: str) -> tuple[int, str]:
    """Sorts metrics of evaluations in training: Pass@k and maj@k before those with longer names."""
    return name.count("_"), name.replace("pass", "")


def quantity_title(name: str) -> str:
    """What a logged quantity is, in words."""
    return f"{metric_title(name)} on held-out questions" if is_held_out(name) else _QUANTITIES.get(name, name)


def quantities(runs: Sequence[TrainingRun]) -> list[str]:
    """What of the runs of one command is worth a figure: logged by one of them at two steps or more.

    The loss of GRPO is zero up to clipping, whatever is learned: it is shown of SFT alone.
    """
    logged = {name for run in runs for name, curve in run.curves.items() if len(curve) > 1}
    logged -= {"loss"} if runs and runs[0].command == "train_grpo" else set()
    held_out = sorted(filter(is_held_out, logged), key=metric_order)
    return [*held_out, *(name for name in _QUANTITIES if name in logged)]


def band(seeds: Sequence[Curve]) -> dict[str, Any] | None:
    """The mean of a quantity over `seeds`, at the steps at which all logged it, and its 95 % interval (Student's).

    With 40 steps or more, each seed's curve is first smoothed over a twentieth of them; of more than 400, every so
    many are kept.

    Returns:
        `x`, the steps; `mean`; `low` and `high`, None with one seed; `n` seeds; the `window` of the smoothing, in
        values; and `raw`, a single seed's values before that, else None. None if there is no such step.
    """
    steps = sorted(set.intersection(*(set(curve) for curve in seeds))) if seeds else []
    if not steps:
        return None
    window = max(1, len(steps) // _WINDOWS)
    values = [smooth([curve[step] for step in steps], window).tolist() for curve in seeds]
    thin = slice((len(steps) - 1) % -(-len(steps) // _POINTS), None, -(-len(steps) // _POINTS))  # the last step stays
    at_steps = list(zip(*values, strict=True))[thin]
    bounds = [student_interval(one) for one in at_steps] if len(seeds) > 1 else None
    return {
        "x": steps[thin],
        "mean": [sum(one) / len(one) for one in at_steps],
        "low": bounds and [low for low, _ in bounds],
        "high": bounds and [high for _, high in bounds],
        "n": len(seeds),
        "window": window,
        "raw": [seeds[0][step] for step in steps[thin]] if len(seeds) == 1 and window > 1 else None,
    }


def figures(lines: Mapping[str, Sequence[TrainingRun]]) -> list[dict[str, Any]]:
    """A figure for every quantity: its `name` and `title`, and of each of `lines` (a name and its seeds) the `band`."""
    found = []
    for name in quantities([run for runs in lines.values() for run in runs]):
        bands = {}
        for line, runs in lines.items():
            one = band([run.curves[name] for run in runs if name in run.curves])
            if one is not None:
                bands[line] = one
        if bands:
            found.append({"name": name, "title": quantity_title(name), "lines": bands})
    return found
