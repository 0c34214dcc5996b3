"""Parses the names of pruning methods in recipes, such as `budget:0.5`."""

from dataclasses import dataclass
from fractions import Fraction

from raml_trl.prompts import NO_THINKING
from raml_trl.runtime.errors import InputError

WHOLE = "none"
_FORMS = "none, no_thinking, no_thinking:KIND, budget:SHARE, budget:TOKENS, curve:NATS, drop_sentence:NATS, summary"


@dataclass(frozen=True)
class Method:
    """A way to shorten a trajectory: its `kind`, such as `budget`, and its `setting` as written in the recipe."""

    kind: str
    setting: str | None = None

    @property
    def name(self) -> str:
        """The name of the pruning method as written in a recipe, such as `budget:0.5`."""
        return self.kind if self.setting is None else f"{self.kind}:{self.setting}"

    @property
    def number(self) -> float:
        """The number after the colon, such as 0.5 in `budget:0.5`. Only methods that have a number may be asked."""
        assert self.setting is not None, self.kind
        return float(self.setting)

    def budget(self, tokens: int) -> int:
        """Return how many tokens a budget keeps if the thinking has `tokens` tokens.

        A setting with a decimal point (0.5, 1.0) is a share of the tokens, and the result is rounded down. Any other
        setting is a number of tokens; shorter thinking is kept whole.
        """
        assert self.setting is not None, self.kind
        return int(Fraction(self.setting) * tokens) if "." in self.setting else min(int(self.setting), tokens)


def parse_method(name: str) -> Method:
    """Parse the name of a method.

    Raises:
        InputError: if there is no method of this name, or the setting after the colon is missing or invalid.
    """
    kind, colon, setting = name.strip().partition(":")
    method = Method(kind, setting if colon else None)
    if kind in (WHOLE, "summary") and not colon:
        return method
    if kind == "no_thinking":
        if colon and setting not in NO_THINKING:
            raise InputError(
                f"methods: {name!r} is unknown: use no_thinking or no_thinking:X, X in {list(NO_THINKING)}"
            )
        return method
    if kind == "budget" and _is_number(setting) and (setting.isdecimal() or 0 <= float(setting) <= 1):
        return method
    if kind in ("curve", "drop_sentence") and _is_number(setting):
        return method
    if kind in ("budget", "curve", "drop_sentence"):
        value = {
            "budget": "a share of the tokens, such as 0.5, or a number of tokens, such as 512",
            "curve": "the nats below which the answer's loss must stay, such as 0.1",
            "drop_sentence": "the nats by which the answer's loss may rise, such as 0.1",
        }[kind]
        raise InputError(f"methods: {name!r} must be {kind}: followed by {value}")
    raise InputError(f"methods: {name!r} is unknown: choose from {_FORMS}")


def _is_number(setting: str) -> bool:
    """Whether `setting` is a plain decimal number without a sign or an exponent."""
    return setting.replace(".", "", 1).isdecimal()
