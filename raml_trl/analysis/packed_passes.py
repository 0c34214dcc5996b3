"""Keys and values of one pass over texts, for many short continuations from places inside them."""

from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class PrefixCache(Cache):
    """What a pass over texts left behind; the next one sees the first tokens of it, and its own.

    A pass writes its keys over what lies beyond the prefix that it sees, so nothing is copied. Whoever goes on from
    several places begins with the last of them.
    """

    def __init__(self, passed: DynamicCache, room: int) -> None:
        """Take over `passed`; `room`: tokens that a pass from its very end will have."""
        self._own = [_Layer(layer, room) for layer in passed.layers]
        super().__init__(layers=list(self._own))

    def keep(self, length: int) -> None:
        """Let the next pass see the first `length` tokens."""
        for layer in self._own:
            layer.length = length


class _Layer(DynamicLayer):
    length = 0

    def __init__(self, passed: Any, room: int) -> None:
        super().__init__()
        self.keys = functional.pad(passed.keys, (0, 0, 0, room))
        self.values = functional.pad(passed.values, (0, 0, 0, room))
        passed.keys = passed.values = None  # the copy is all that is needed
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_named: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length
