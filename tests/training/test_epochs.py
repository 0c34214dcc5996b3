"""The order of the data in an epoch does not depend on the epochs that the process has run before."""

import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SequentialSampler
from transformers import TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl.trainer.utils import RepeatSampler

from raml_trl.training.epochs import EpochSampler, EpochSetter, by_epoch

LENGTHS = [5, 9, 2, 7, 1, 8, 3, 6, 4, 10, 12, 11]


def repeating() -> RepeatSampler:
    return RepeatSampler(LENGTHS, mini_repeat_count=2, batch_size=3, repeat_count=2, seed=7)


def by_length() -> LengthGroupedSampler:
    return LengthGroupedSampler(2, lengths=LENGTHS)


@pytest.mark.parametrize("make", [repeating, by_length])
def test_an_epoch_has_one_order_in_every_process(make: type) -> None:
    uninterrupted = by_epoch(make(), seed=3)
    orders = []
    for epoch in range(4):
        uninterrupted.set_epoch(epoch)
        orders.append(list(uninterrupted))
        torch.rand(5)  # training uses the global generator
    assert len({tuple(order) for order in orders}) == 4
    assert len(uninterrupted) == len(orders[0])
    for epoch, order in enumerate(orders):
        resumed = by_epoch(make(), seed=3)
        resumed.set_epoch(epoch)
        assert list(resumed) == order


def test_uninterrupted_the_order_is_that_of_trl() -> None:
    theirs, ours = repeating(), by_epoch(repeating(), seed=0)
    for epoch in range(3):
        ours.set_epoch(epoch)
        assert list(ours) == list(theirs)


@pytest.mark.parametrize(
    "sampler",
    [
        SequentialSampler(LENGTHS),
        RandomSampler(LENGTHS),  # accelerate replaces it by one that is seeded in each epoch
        BatchSampler(SequentialSampler(LENGTHS), 2, drop_last=False),
        RepeatSampler(LENGTHS, mini_repeat_count=2, shuffle=False),
    ],
)
def test_other_samplers_stay(sampler: Sampler[int]) -> None:
    assert by_epoch(sampler, seed=0) is sampler
    assert not isinstance(sampler, EpochSampler)


class Rebalanced(BatchSampler):
    """A batch sampler with epochs, like that of `train_sampling_strategy: batch_rebalance`."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("skipped", [0, 1])
@pytest.mark.parametrize("batches", [False, True])
def test_every_sampler_learns_the_epoch(processes: int, skipped: int, batches: bool) -> None:
    """transformers does not reach a sampler on several processes after it has skipped batches."""
    sampler = Rebalanced(SequentialSampler(LENGTHS), 2, drop_last=False) if batches else by_epoch(repeating(), seed=0)
    settings = {"batch_sampler": sampler} if batches else {"sampler": sampler, "batch_size": 2}
    loader = prepare_data_loader(
        DataLoader(LENGTHS, **settings), num_processes=processes, process_index=0, put_on_device=False
    )
    if skipped:
        loader = skip_first_batches(loader, skipped)
    EpochSetter().on_epoch_begin(None, TrainerState(epoch=3.5), None, train_dataloader=loader)
    assert sampler.epoch == 3


def test_a_loader_of_another_kind_has_no_epoch_to_set() -> None:
    """A user's trainer may return any iterable from `get_train_dataloader`."""
    EpochSetter().on_epoch_begin(None, TrainerState(epoch=3.5), None, train_dataloader=[{"prompt": "1 + 1"}])
