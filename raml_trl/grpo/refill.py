"""Replaces groups without a signal by groups of other questions, before rollouts are selected and scored.

A group is mixed if its rewards differ. A group that is not mixed has no gradient, so a group of another question takes
its place, at most a given number of times. The replaced rollouts are counted as generated. The result is biased:
questions that are almost always or almost never solved have less weight than in the data. Source: the dynamic sampling
of DAPO, arXiv 2503.14476, section 3.2; unlike there, groups may remain without a signal.

Every process generates the same number of new rollouts, as TRL's generation expects, so the rollouts of a group may
come from several processes. Then the rollouts move to the processes whose rows they replace.

Shapes: P groups of G rollouts in a generation, over all processes; F reward functions; R rows on this process.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.advantages import is_mixed
from raml_trl.grpo.generation import Generation, Row, add_fields

Rollouts = tuple[Any, ...]
"""The result of TRL's `_generate`: lists with an entry per row, None, and dicts of such lists."""
_COMPLETION_IDS, _COMPLETIONS, _EXTRA_FIELDS = 1, 3, 5  # positions in `Rollouts`


def groups_to_generate(groups: int, group_size: int, processes: int) -> int:
    """Return the smallest number of groups, at least `groups`, whose rollouts divide equally among the processes."""
    unit = processes // gcd(group_size, processes)
    return -(-groups // unit) * unit


@dataclass
class Refiller:
    """Replaces the groups of a generation that have no signal.

    In shapes, P is the number of groups of the generation, over all processes, G the number of rollouts in each, and F
    the number of reward functions.

    Attributes:
        accelerator: the trainer's.
        group_size: G.
        generate: takes prompts and returns their `Rollouts`: the trainer's `_generate`, which a subclass may override.
        calculate_rewards: returns the rewards `(P * G, F)` of all processes: the trainer's `_calculate_rewards`, which
            a subclass may override.
        total_rewards: adds up rewards `(P * G, F)` over reward functions, and returns them as `(P, G)`.
        other_rows: returns the dataset rows of n questions that are not in the generation. Its arguments are n, and how
            often groups of this generation have already been replaced.
        columns: TRL's columns for the table of completions, to which reward functions have added an entry per row.
        metrics: TRL's metrics of the generation, each a list of values. The rollouts that replace others add none,
            because TRL would take the mean of the calls and not of the rollouts.
    """

    accelerator: Accelerator
    group_size: int
    generate: Callable[[list[Any]], Rollouts]
    calculate_rewards: Callable[..., Tensor]
    total_rewards: Callable[[Tensor], Tensor]
    other_rows: Callable[[int, int], list[Row]]
    columns: dict[str, list[Any]]
    metrics: Sequence[dict[str, list[float]]]

    def refill(self, generation: Generation, prompts: list[Any], generated: Rollouts, *, rounds: int) -> Rollouts:
        """Replace groups without a signal, at most `rounds` times each, and return the resulting rollouts.

        The rows and prompts of this process change in place, because TRL continues to use these lists. The rewards of
        the generation, and the numbers of discarded groups and tokens, are stored in `generation`.

        Args:
            generation: the intermediate results of the generation; its `inputs` are the rows of this process.
            prompts: the prompts that TRL has passed to `_generate`.
            generated: the rollouts that `_generate` has returned for these prompts.
            rounds: how often groups may be replaced.
        """
        kept = tuple(_copied(field) for field in generated)
        rewards = self._rewards(generation.inputs, prompts, kept)
        for number in range(rounds):
            groups = np.flatnonzero(~is_mixed(self.total_rewards(rewards)).cpu().numpy())
            if not len(groups):
                break
            rewards = self._replace(generation, prompts, kept, rewards, groups, number)
        generation.rewards[:] = [rewards]
        generation.early_rewards = rewards
        return kept

    def _rewards(self, rows: list[Row], prompts: list[Any], generated: Rollouts) -> Tensor:
        add_fields(rows, generated[_EXTRA_FIELDS])
        return self.calculate_rewards(rows, prompts, generated[_COMPLETIONS], generated[_COMPLETION_IDS])

    def _replace(
        self,
        generation: Generation,
        prompts: list[Any],
        kept: Rollouts,
        rewards: Tensor,
        groups: NDArray[np.int64],
        number: int,
    ) -> Tensor:
        """Replace `groups`, and return the rewards of the generation."""
        size, process = self.group_size, self.accelerator.process_index
        every_group = groups_to_generate(len(groups), size, self.accelerator.num_processes)
        rows = [row for row in self.other_rows(every_group, number) for _ in range(size)]
        share = len(rows) // self.accelerator.num_processes
        mine = [dict(row) for row in rows[process * share : (process + 1) * share]]
        logged, new_prompts = dict(self.columns), [row["prompt"] for row in mine]
        self.columns.clear()
        with _unchanged(self.metrics):
            new = self.generate(new_prompts)
            new_rewards = self._rewards(mine, new_prompts, new)

        places = (groups[:, None] * size + np.arange(size)).flatten()  # of the replaced rows, over all processes
        local = places - process * len(prompts)
        here = [(slot, int(row)) for slot, row in enumerate(local) if 0 <= row < len(prompts)]
        beyond = new[_COMPLETION_IDS][max(0, len(places) - process * share) :]  # of groups that fill up the processes
        replaced = [kept[_COMPLETION_IDS][row] for _, row in here]
        generation.tokens_discarded += sum(len(ids) for ids in [*replaced, *beyond])
        generation.groups_discarded += every_group

        arrived, logged_rows = gather_object(mine), len(prompts)
        for slot, row in here:
            generation.inputs[row] = arrived[slot]
            prompts[row] = arrived[slot]["prompt"]
        for old, other in _columns(kept, new):
            _write(old, gather_object(list(other)), here)
        for name in sorted(set(gather_object([*logged, *self.columns]))):
            column = _filled(logged.get(name, []), logged_rows)
            _write(column, gather_object(_filled(self.columns.get(name, []), share)), here)
            self.columns[name] = column
        rewards = rewards.clone()
        rewards[torch.from_numpy(places)] = new_rewards[: len(places)]
        return rewards


@contextmanager
def _unchanged(metrics: Sequence[dict[str, list[float]]]) -> Iterator[None]:
    """Remove the values that the `with` block adds to metrics. A list that it replaces keeps its new values."""
    sizes = [{name: len(values) for name, values in of_mode.items()} for of_mode in metrics]
    yield
    for of_mode, before in zip(metrics, sizes, strict=True):
        for name in list(of_mode):
            if name in before:
                del of_mode[name][before[name] :]
            else:
                del of_mode[name]


def _copied(field: Any) -> Any:
    if isinstance(field, dict):
        return {name: _copied(values) for name, values in field.items()}
    return list(field) if isinstance(field, list) else field


def _columns(kept: Rollouts, new: Rollouts) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield the lists with an entry per row, from two results of `_generate`."""
    for old, other in zip(kept, new, strict=True):
        pairs = [(old[name], other[name]) for name in sorted(old)] if isinstance(old, dict) else [(old, other)]
        yield from (pair for pair in pairs if isinstance(pair[0], list) and pair[0])


def _filled(values: list[Any], rows: int) -> list[Any]:
    """Return values of a column for the table of completions; a column of another length has no value for any row."""
    return list(values) if len(values) == rows else [None] * rows


def _write(column: list[Any], arrived: list[Any], here: list[tuple[int, int]]) -> None:
    for slot, row in here:
        column[row] = arrived[slot]
