"""A YAML loader that refuses files with repeated keys, recursive values, or too many or too deeply nested values."""

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, chain, count

import yaml

from raml_trl.runtime.errors import shown

_DEEPEST = 50
_MOST_NODES = 10_000
_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}
_MOST_BRACKETS = 200  # open at a time, counting those in texts too


class StrictLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML loader that raises a YAMLError if a mapping has a key twice, or a node contains itself.

    PyYAML itself keeps the last of several equal keys, and raises a RecursionError for deeply nested or recursive
    nodes. This loader also raises a YAMLError if nodes are nested more than 50 deep, or a file has more than 10,000
    nodes. An anchor may be used several times, but every use adds its nodes to this number, so that a short file cannot
    describe a huge mapping.
    """

    def __init__(self, stream: str) -> None:
        if max(accumulate(_BRACKETS.get(character, 0) for character in stream), default=0) > _MOST_BRACKETS:
            raise _too_deep()  # PyYAML would take seconds
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _too_deep()
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _check_nodes(node, (), count(1))
        return node


def _check_nodes(node: yaml.Node, above: tuple[yaml.Node, ...], counter: Iterator[int]) -> None:
    """Check a node and those below it. `above` are the nodes that contain it."""
    if any(node is other for other in above):
        raise yaml.YAMLError(f"line {node.start_mark.line + 1} contains itself: remove the anchor")
    if next(counter) > _MOST_NODES or len(above) > _DEEPEST:
        raise yaml.YAMLError(f"its anchors describe more than {_MOST_NODES:,} values: write out what they repeat")
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key, number in Counter(keys).items() if number > 1 and key != "<<"), None)
        if twice is not None:
            raise yaml.YAMLError(f"key {shown(twice)} is there twice: remove one of them")
    children = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
    if isinstance(node, yaml.CollectionNode):
        for child in children:
            _check_nodes(child, (*above, node), counter)


def _too_deep() -> yaml.YAMLError:
    return yaml.YAMLError(f"it is nested more than {_DEEPEST} deep: write settings as names and values")
