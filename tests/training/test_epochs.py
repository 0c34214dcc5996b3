"""The order of the data in an epoch does not depend on the epochs that the process has run before."""

import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler, Sampler, SequentialSampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl.trainer.utils import RepeatSampler

from raml_trl.training.epochs import EpochSampler, by_epoch

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
