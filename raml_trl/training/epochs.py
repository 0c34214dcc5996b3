"""Makes the order of the data depend on the epoch only, so that a resumed run reads the data of an uninterrupted one.

Some samplers of TRL and transformers draw the order of an epoch from a generator that goes on from epoch to epoch. A
process that resumes in a later epoch has drawn no order before, so it would read that epoch in the order of the first.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl.trainer.utils import RepeatSampler


class EpochSampler(Sampler[int]):
    """A sampler whose order in an epoch is the same whether or not its process has run the epochs before.

    The order is the one that `sampler`, which must have a generator, draws in an uninterrupted run.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.start = sampler.generator.get_state()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator.set_state(self.start)
        for _ in range(self.epoch):
            next(iter(self.sampler), None)  # draws the order of an earlier epoch
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


def by_epoch(sampler: Any, seed: int) -> Any:
    """Return an `EpochSampler` for a `LengthGroupedSampler` or a shuffling `RepeatSampler`; return any other unchanged.

    A sampler that groups by length gets a generator with `seed`. Without one, it would draw from the global generator,
    whose state depends on the training before.
    """
    if isinstance(sampler, LengthGroupedSampler) and sampler.generator is None:
        sampler.generator = torch.Generator().manual_seed(seed)
    shuffles = isinstance(sampler, LengthGroupedSampler) or (isinstance(sampler, RepeatSampler) and sampler.shuffle)
    return EpochSampler(sampler) if shuffles else sampler


@runtime_checkable
class _HasEpoch(Protocol):
    def set_epoch(self, epoch: int) -> None: ...


class EpochSetter(TrainerCallback):
    """Callback that tells the sampler which epoch begins.

    On several processes, transformers fails to do so in a resumed run, after it has skipped the batches of the run so
    far.
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **given: Any,
    ) -> None:
        loader = given["train_dataloader"]  # a user's `get_train_dataloader` may return any iterable
        sampler = loader.batch_sampler if isinstance(loader, DataLoader) else None
        while sampler is not None:
            if isinstance(sampler, _HasEpoch):
                sampler.set_epoch(int(state.epoch or 0))
            wrapper = vars(sampler)  # each class of accelerate has one of these attributes for what it wraps
            sampler = wrapper.get("batch_sampler", wrapper.get("sampler"))
