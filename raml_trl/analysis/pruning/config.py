"""The names under which recipes ask for ways to shorten a trajectory, such as `budget:0.5`."""

from dataclasses import dataclass
from fractions import Fraction

from raml_trl.prompts import NO_THINKING
from raml_trl.runtime.errors import InputError

WHOLE = "none"
_FORMS = "none, no_thinking, no_thinking:KIND, budget:SHARE, budget:TOKENS, curve:NATS, drop_sentence:NATS, summary"


@dataclass(frozen=True)
class Method:
    """A way to shorten a trajectory, `kind`, and what it is told, as it is written in a recipe."""

    kind: str
    setting: str | None = None

    @property
    def name(self) -> str:
        """As it is written in a recipe."""
        return self.kind if self.setting is None else f"{self.kind}:{self.setting}"

    @property
    def number(self) -> float:
        """The setting, where it is a number."""
        assert self.setting is not None, self.kind
        return float(self.setting)

    def budget(self, tokens: int) -> int:
        """How many of `tokens` a budget keeps: a share, as 0.5 and 1.0 are, rounded down, or a number of them."""
        assert self.setting is not None, self.kind
        return int(Fraction(self.setting) * tokens) if "." in self.setting else min(int(self.setting), tokens)


def parse_method(name: str) -> Method:
    """The method that `name` stands for.

    Raises:
        InputError: if there is none.
    """
    kind, colon, setting = name.strip().partition(":")
    method = Method(kind, setting if colon else None)
    if kind in (WHOLE, "summary") and not colon:
        return method
    if kind == "no_thinking":
        if colon and setting not in NO_THINKING:
            raise InputError(f"methods: {name!r} is unknown, no_thinking may be followed by {', '.join(NO_THINKING)}")
        return method
    if kind == "budget" and _is_number(setting) and (setting.isdecimal() or 0 <= float(setting) <= 1):
        return method
    if kind in ("curve", "drop_sentence") and _is_number(setting):
        return method
    if kind in ("budget", "curve", "drop_sentence"):
        wanted = {
            "budget": "a share of the tokens, such as 0.5, or a number of them, such as 512",
            "curve": "nats that the answer's loss stays below, such as 0.1",
            "drop_sentence": "nats by which the answer's loss may rise, such as 0.1",
        }[kind]
        raise InputError(f"methods: {name!r} must be {kind}: and {wanted}")
    raise InputError(f"methods: {name!r} is unknown: choose from {_FORMS}")


def _is_number(setting: str) -> bool:
    """Whether it is a plain decimal, as no infinity and no sign is."""
    return setting.replace(".", "", 1).isdecimal()
