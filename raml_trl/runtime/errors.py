"""The exception for user errors, which a command reports in one line with exit code 2.

Messages repeat settings, data and answers of servers, so they are cleaned: control characters are escaped, and access
tokens are masked.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

USER_ERROR = 2
"""The exit code of a command that ends because of an `InputError`."""

_LONGEST_VALUE = 100
_LONGEST_MESSAGE = 4_000
# All control characters except line feeds and tabs, halves of surrogate pairs, and marks that reorder text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRET = re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|wandb_v1_)[A-Za-z0-9_-]{6,}|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")
_AUTHORIZATION = re.compile(r"(?i)\b(bearer|basic|token)\s+[A-Za-z0-9._~+/=-]{12,}")
_SECRET_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|API_?KEY)$", re.IGNORECASE)
_SHORTEST_SECRET = 8


class InputError(ValueError):
    """Raised if an input (a setting, a data file, a checkpoint or a directory) cannot be used.

    The message is one line that names first the value and then the remedy. Any other exception is a defect of the
    program and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

    @property
    def messages(self) -> list[str]:
        """The lines to report, one for each error."""
        return [str(self)]


class MissingDevice(InputError):
    """Raised if this machine lacks a device that the settings need, such as a GPU.

    A dry run reports this error too, but first checks everything else, as if the settings asked for the CPU.
    """


class InputErrors(InputError):
    """Several errors, each reported in a line of its own."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("; ".join(messages))
        self._messages = list(messages)

    @property
    def messages(self) -> list[str]:
        return self._messages


class Problems:
    """Collects the errors of several checks, so that the user sees all of them at once."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collect the `InputError` that ends the `with` block, if one does. The program goes on after the block."""
        try:
            yield
        except RepeatedError:
            raise
        except InputError as error:
            self.messages += error.messages

    def check(self) -> None:
        """Raise the errors that were collected.

        Raises:
            InputErrors: if there are any.
        """
        if self.messages:
            raise InputErrors(self.messages)


class RepeatedError(InputError):
    """Ends the other processes of a launch after an `InputError` of the first process, which alone reports it."""


def one_line(text: str) -> str:
    """Return text as one line for a terminal: control characters are escaped, and access tokens are masked.

    A line of more than 4,000 characters is cut off there, and an ellipsis marks the cut.
    """
    text = printable(mask_secrets(" ".join(text.split("\n"))))
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} …"


def printable(text: str) -> str:
    r"""Return text with control characters and halves of surrogate pairs as escape sequences, such as `\x1b`.

    A terminal would obey control characters, and a file cannot hold half a surrogate pair. Line feeds and tabs remain.
    """
    return _CONTROL.sub(lambda match: _escape(match[0]), text)


def mask_secrets(text: str) -> str:
    """Replace access tokens by `***`.

    A text counts as an access token if it has the form of one, or if it is the value of an environment variable such as
    HF_TOKEN or OPENAI_API_KEY.
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return _AUTHORIZATION.sub(r"\1 ***", _SECRET.sub("***", text))


def shown(value: object) -> str:
    """Return a value as Python code would write it, cut after 100 characters, for a message."""
    if isinstance(value, int) and not -(10**50) < value < 10**50:  # Python refuses to write integers of 4,300 digits
        return f"a number of about 10^{int((abs(value).bit_length() - 1) * 0.30103)}"
    text = value[: 2 * _LONGEST_VALUE] if isinstance(value, str) else value
    try:
        written = repr(text)
    except (ValueError, RecursionError):  # a list of such integers, or a list that contains itself
        return f"a {type(value).__name__}"
    return written if len(written) <= _LONGEST_VALUE else f"{written[:_LONGEST_VALUE]}…"


def count_of(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, such as "1 step" or "2,000 steps". `plural` is needed if it is not `noun` + s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the known name closest to `name`, or an empty text if none is close."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
