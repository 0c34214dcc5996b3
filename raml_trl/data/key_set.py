"""Which keys have come before, in some eight bytes a key: what finds duplicates among millions of rows."""

import hashlib

import numpy as np
from numpy.typing import NDArray

_RECENT = 2**16


class KeySet:
    """A set of texts that only remembers a 64-bit hash of each.

    Recent hashes lie in a set, older ones in sorted arrays, each at least twice as long as the next, so that adding n
    keys takes O(n log n). Two of n texts share a hash with probability n^2 / 2^65: 3e-8 for a million.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, text: str) -> bool:
        """Whether `text` is new; from now on it is not."""
        key = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        if key in self._recent or any(_contains(run, key) for run in self._runs):
            return False
        self._recent.add(key)
        if len(self._recent) == _RECENT:
            self._settle()
        return True

    def _settle(self) -> None:
        run = np.sort(np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent)))
        self._recent.clear()
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)


def _contains(run: NDArray[np.uint64], key: int) -> bool:
    place = int(np.searchsorted(run, np.uint64(key)))
    return place < len(run) and int(run[place]) == key
