"""Walks over the tokens of a mathematical text. The parsers in `numbers` and `estimates` derive from `Cursor`."""

import re
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

CLOSING = {"(": ")", "{": "}", "[": "]"}
"""The closing bracket of each opening bracket."""


class UnreadError(Exception):
    """Raised if a parser cannot read a text, or if the meaning of the text is not certain."""


class Cursor:
    """A position in the list of the tokens of a text. The last token is "", which marks the end.

    The pattern `token` matches one token at a time: its first group is the token, and the rest of the match, such as
    white space, is skipped. Brackets may be nested up to `max_depth` deep.

    Raises:
        UnreadError: if the text has tokens that `token` does not match.
    """

    def __init__(self, text: str, token: re.Pattern[str], *, max_depth: int) -> None:
        self.tokens: list[str] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            match = token.match(text, position)
            if match is None:
                raise UnreadError
            self.tokens.append(match[1])
            position = match.end()
        self.tokens.append("")
        self.max_depth = max_depth
        self.place = self.depth = 0

    @property
    def next(self) -> str:
        return self.tokens[self.place]

    @property
    def last(self) -> str:
        return self.tokens[self.place - 1]

    def take(self) -> str:
        """Return the next token, and move to the one after it."""
        self.place += 1
        return self.last

    def expect(self, token: str) -> None:
        """Take the next token, which must be `token`.

        Raises:
            UnreadError: if the next token is not `token`.
        """
        if self.take() != token:
            raise UnreadError

    def bracket(self, opening: str, read: Callable[[], Value]) -> Value:
        """Take `opening`, call `read`, take the closing bracket, and return the result of `read`.

        Raises:
            UnreadError: if the opening or the closing bracket is missing, or more than `max_depth` brackets are open.
        """
        self.depth += 1
        if self.depth > self.max_depth:
            raise UnreadError
        self.expect(opening)
        value = read()
        self.expect(CLOSING[opening])
        self.depth -= 1
        return value
