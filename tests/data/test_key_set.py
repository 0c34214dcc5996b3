"""A set of hashes agrees with a set of texts, and takes a few bytes a text."""

import tracemalloc

import numpy as np
import pytest

from raml_trl.data import key_set
from raml_trl.data.key_set import KeySet


@pytest.mark.parametrize("recent", [1, 3, 100])
def test_agrees_with_a_set(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, recent: int) -> None:
    monkeypatch.setattr(key_set, "_RECENT", recent)
    keys, texts = KeySet(), set()
    for number in rng.integers(0, 400, size=1_000):
        assert keys.add(f"text {number}") == (f"text {number}" not in texts)
        texts.add(f"text {number}")


def test_runs_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_set, "_RECENT", 4)
    keys = KeySet()
    for number in range(1_000):
        keys.add(str(number))
    assert len(keys._runs) <= 9  # each at least twice as long as the next: at most log2(1000 / 4) + 1
    assert sum(map(len, keys._runs)) == 1_000


def test_bytes_a_key() -> None:
    keys = KeySet()
    tracemalloc.start()
    for number in range(3 * key_set._RECENT):
        keys.add(str(number))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / (3 * key_set._RECENT) < 12


def test_text_that_is_not_unicode() -> None:
    assert KeySet().add("\ud800")
