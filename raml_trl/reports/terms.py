"""Explains the technical terms of a report, each in one line."""

import re
from collections.abc import Iterable

from raml_trl.render.tables import Terms

QUANTITIES = {
    "loss": ("loss", "mean of -log p over the trained tokens, in nats; lower is better"),
    "eval_loss": ("loss on held-out questions", "the loss on questions that are not trained on; lower is better"),
    "correct": ("rollouts that are correct", "share of all G rollouts whose answer equals the reference"),
    "reward": (
        "mean reward",
        "mean over all G rollouts; unless reward_funcs names others: 1 if the answer is correct and in the requested "
        "layout, -0.5 if correct in another layout, 0 if wrong in the requested layout, -1 if wrong in another layout "
        "(RaML, equation 21)",
    ),
    "grad_norm": ("gradient norm", "length of the gradient vector before clipping"),
    "completions/mean_length": ("tokens per rollout", "mean number of tokens of a rollout"),
    "completions/clipped_ratio": (
        "rollouts cut off",
        "share of rollouts that reached the token limit before their end",
    ),
    "selection/group_same_reward": (
        "groups of one reward (no signal)",
        "share of groups, the G rollouts of one question, whose rewards are all equal; their advantages are zero, so "
        "they carry no gradient. The other groups are mixed",
    ),
}
"""Quantities that get a figure, by the name under which they are logged: title and explanation, in order."""

_SHARES = frozenset({"correct", "completions/clipped_ratio", "selection/group_same_reward"})
_FUNCTION = re.compile(r"rewards/(.+)/mean")
_OF_FUNCTION = "mean over all G rollouts of what this reward function returns, before its weight"

PHASE_MEANINGS = {
    "generating": "sampling the rollouts",
    "rewarding": "calling the reward functions",
    "scoring": "computing log-probabilities of the rollouts under the old model and the reference model",
    "preparing": "the other work of TRL before an update",
    "selecting": "choosing the m rollouts and dealing rows to micro-batches",
    "updating": "forward pass, backward pass and optimizer step",
}
"""The phases of a step, each with its explanation."""

INTERVAL = ("[low, high]", "95 % confidence interval of the number before it")
P_VALUE = ("p", "probability of a difference at least as large if there were none; below 0.05 it is called significant")

_METRIC = re.compile(r"(?:eval[_/])?(pass|mg_pass|g_pass|maj)@(\d+)(?:_([\d.]+))?")
_METRICS = {
    "pass": ("Pass@{k}", "probability that at least one of {k} samples of a question is correct"),
    "mg_pass": (
        "mG-Pass@{k}",
        "reliability: the probability that at least a share of {k} samples is correct, averaged over shares above "
        "one half; 1 if all samples of a question are correct, 0 if at most half of any {k} are",
    ),
    "g_pass": ("G-Pass@{k} (τ = {tau})", "probability that at least a share of {tau} of {k} samples is correct"),
    "maj": ("maj@{k}", "share of questions whose most frequent answer among {k} samples is correct"),
}
_SINGLE = "probability that a sample is correct: the share of correct samples"


def metric_title(name: str) -> str:
    """Format the name of an evaluation metric, such as `mg_pass@8`, as mG-Pass@8; leave other names as they are."""
    match = _METRIC.fullmatch(name)
    return name if match is None else _METRICS[match[1]][0].format(k=match[2], tau=match[3] or "")


def is_metric(name: str) -> bool:
    """Return whether `name` is a metric of evaluations."""
    return _METRIC.fullmatch(name) is not None


def is_share(name: str) -> bool:
    """Return whether a quantity is a share or a probability, from 0 to 1."""
    return name in _SHARES or is_metric(name)


def reward_function(name: str) -> str | None:
    """Return the name of the reward function if `name` is its mean reward as TRL logs it, otherwise None."""
    match = _FUNCTION.fullmatch(name)
    return None if match is None else match[1]


def metric_terms(names: Iterable[str]) -> Terms:
    """Explain the evaluation metrics among `names`."""
    matches = [(name, match) for name in names if (match := _METRIC.fullmatch(name))]
    return tuple(
        dict(
            (
                metric_title(name),
                _SINGLE
                if (match[1], match[2]) == ("pass", "1")
                else _METRICS[match[1]][1].format(k=match[2], tau=match[3] or ""),
            )
            for name, match in matches
        ).items()
    )


def quantity_title(name: str) -> str:
    """Return the title of the figure of a logged quantity."""
    held_out = name.startswith("eval_") and is_metric(name)
    if function := reward_function(name):
        return f"mean reward of {function}"
    return f"{metric_title(name)} on held-out questions" if held_out else QUANTITIES.get(name, (name, ""))[0]


def quantity_terms(names: Iterable[str]) -> Terms:
    """Explain the logged quantities among `names`, also the metrics of evaluations during training."""
    names = list(names)
    return metric_terms(names) + tuple(
        (quantity_title(name), _OF_FUNCTION) if reward_function(name) else QUANTITIES[name]
        for name in names
        if reward_function(name) or name in QUANTITIES
    )
