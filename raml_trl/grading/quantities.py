r"""Reads quantities: a value with a unit, such as `5 \text{ m/s}`, or with the noun of the counted things.

Only the units of the module `units` count as units. Other words behind a value are a noun if none of them changes the
value: `3 \text{ dozen}` is 36, and `5 \text{ plus two}` is no quantity.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from raml_trl.grading.notation import plain
from raml_trl.grading.numbers import exact
from raml_trl.grading.tokens import TEXT
from raml_trl.grading.units import POWERS, SQUARES, SYMBOLS, TEMPERATURES, base_unit, find_unit, singular


@dataclass(frozen=True)
class Quantity:
    """A value, spelled as `notation.normalise` returns it, with its unit and with the noun of the counted things."""

    value: str
    unit: str = ""  # the canonical name, such as "m^{2}" or "km/h"; "" if there is none
    noun: tuple[str, ...] = ()  # the words that are not a unit, in lower case


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Outside \text{...}, only words that cannot be a product of variables are units.
_BARE_UNITS = {
    "cm",
    "mm",
    "km",
    "kg",
    "mL",
    "ml",
    "kW",
    "kJ",
    "Hz",
    "min",
    "sec",
    "deg",
    "rad",
    "mph",
    "hrs",
    "lbs",
    "sq",
}
_CURRENCIES = {"$": "dollar", "£": "pound", "€": "euro", "¥": "yen", "￥": "yen", "₹": "rupee"}
_CURRENCY_SIGN = re.compile(r"\\?\$|[£€¥￥₹]")
_SCALES = {"dozen": "12", "hundred": "100", "thousand": "10^{3}", "million": "10^{6}", "billion": "10^{9}"}
_SCALES |= {"trillion": "10^{12}", "万": "10^{4}", "亿": "10^{8}"}

# Words that change the value or the claim of an answer. Behind them, nothing is a noun.
_COUNTS = "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy"
_PARTS = "half halve quarter third fourth fifth sixth seventh eighth ninth tenth hundredth thousandth pair couple gross"
_OPERATORS = "plus minus time over divided multiplied factorial mod modulo base root power squared cubed log versus vs"
_LOGIC = "and or nor not no never none is are isn't if for where when but except without otherwise either maybe perhaps"
_DOUBTS = "possibly probably wrong incorrect false impossible more less than least most to about between only unless"
_DENYING_WORDS = _set(f"nor not never none isn't except without unless but {_DOUBTS}")
CHANGING_WORDS = _set(" ".join((_COUNTS, _PARTS, _OPERATORS, _LOGIC, _DOUBTS, *_SCALES, "score")))

# Words that a noun may have beside it, and words that add nothing.
_ADJECTIVES = _set(
    "different distinct possible real integer positive total unique whole prime red blue green white black "
    "yellow new small large old young such ordered valid complete equal extra"
)
_ADDITIONS = _set("old long tall wide high deep away each altogether total in per of 个 人 只 本 张 次 种 条 名")
_PLURALS = _set("people children men women mice geese sheep fish")
_PLURAL = re.compile(r"[a-z]{2,}[a-z](?<!th)(?<!s)s")

_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z']{3,}")
_PART = re.compile(
    r"([0-9.]+|[0-9]* ?\\frac\{[0-9]+\}\{[0-9]+\}) *([A-Za-z]+|[\u4e00-\u9fff]+)(?: and |[ ,])*", re.ASCII
)
_RATE = r"[A-Za-z]+(?:/[A-Za-z]+(?:\^\{[23]\})?)+"
_BARE = rf"(?<![A-Za-z\\])(?:{_RATE}|[A-Za-z]{{2,}}|[\u4e00-\u9fff]+)|(?<=degrees\}} )[CF](?![A-Za-z])"
_AMOUNT = re.compile(r"[\d)}]|\\pi")
_PIECE = re.compile(
    rf"(?P<words>{TEXT})|(?P<bare>{_BARE}|%|\\Omega(?![A-Za-z]))|(?P<more>\^\{{-?[123]\}}|/)|(?P<space> )"
    r"|\\?[A-Za-z]+|.",
    re.DOTALL,
)
_IN_TEXT = re.compile(r"\\[A-Za-z]+|\^\{?-?[123]\}?|[A-Za-z'’-]+|平方|立方|[\u4e00-\u9fff]+|[%/]|\S")  # noqa: RUF001


def read_quantity(answer: str) -> Quantity:
    r"""Return the value, unit and noun of an answer. The value is the whole answer if no quantity can be read.

    `answer` must be spelled as `notation.normalise` returns it. Words such as `million` become factors.
    """
    end, words = _trailing_words(answer)
    value = answer[:end].strip()
    if not words or not _AMOUNT.search(value) or value[-1] == "/" or r"\text" in value.replace(r"\text{ and }", ""):
        return Quantity(answer)
    scale = _SCALES.get(words[0].lower().removesuffix("s")) or _SCALES.get(words[0])
    if scale:
        value, words = rf"({value}) \cdot {scale}", words[1:]
    unit, words = _unit(words)
    noun = tuple(word.lower() for word in words)
    if any(not _may_be_noun(word) for word in noun):
        return Quantity(answer)
    return Quantity(value, unit, noun)


def read_compound(answer: str) -> Quantity | None:
    r"""Return the sum of an answer in several units of one dimension, such as 3 hours and 30 minutes, or None.

    The sum is in the last unit, which must be the smallest.
    """
    total, base, factor, words, end = Fraction(0), "", Fraction(0), plain(answer), 0
    parts = list(_PART.finditer(words))
    if len(parts) < 2:
        return None
    for part in parts:
        unit, number = find_unit(part[2]), exact(part[1])
        dimension, multiple = base_unit(unit or "")
        if (
            unit is None
            or number is None
            or part.start() != end
            or (base and (dimension != base or multiple >= factor))
        ):
            return None
        total, base, factor, end = total + number * multiple, dimension, multiple, part.end()
    return Quantity(str(total / factor), unit or "") if end == len(words) else None


def currency(answer: str) -> str:
    """Return the unit of the currency sign in `answer`, or "" if there is none. Pass `answer` before normalising it."""
    match = _CURRENCY_SIGN.search(answer)
    if match is None or (match.group() == "$" and answer.count("$") > 1):  # a pair of dollars encloses mathematics
        return ""
    return _CURRENCIES[match.group().removeprefix("\\")]


def changing_words(answer: str) -> frozenset[str]:
    """Return the words of an answer that change its value or its claim, such as `plus` and `wrong`, in lower case."""
    return CHANGING_WORDS & {word.lower() for word in _WORD.findall(plain(answer))}


def denying_words(expression: str) -> frozenset[str]:
    """Return the words of an expression that deny it or leave it open, such as `not` and `more`, in lower case."""
    return _DENYING_WORDS & {word.lower() for word in _WORD.findall(expression)}


def units_differ(first: Quantity, second: Quantity) -> bool:
    """Return whether the units or the nouns of two quantities contradict each other.

    A missing unit or noun contradicts nothing, unless one quantity has a unit and the other only a noun: dollars and
    chickens. Units of the same dimension, such as km and m, do not contradict each other: see `in_base_unit`.
    """
    if first.unit and second.unit:
        short, long = sorted((base_unit(first.unit)[0], base_unit(second.unit)[0]), key=len)
        if long != short and not long.startswith(short + " "):  # degrees may be degrees Celsius
            return True
    elif (first.unit and second.noun) or (second.unit and first.noun):
        return True  # dollars and chickens
    if not first.noun or not second.noun:
        return False
    a, b = ({singular(word) for word in quantity.noun} - _ADDITIONS for quantity in (first, second))
    return not ((a <= b or b <= a) and a ^ b <= _ADJECTIVES)


def in_base_unit(quantity: Quantity) -> str:
    r"""Return the value of a quantity in the base unit of its dimension, such as `\frac{1}{100} (5)` for 5 cm."""
    factor = base_unit(quantity.unit)[1]
    return quantity.value if factor == 1 else rf"\frac{{{factor.numerator}}}{{{factor.denominator}}} ({quantity.value})"


def counts_only(quantity: Quantity) -> bool:
    """Return whether a quantity has no noun, or a plural noun that names the counted things, such as `red balls`."""
    if not quantity.noun:
        return True
    pairs = zip(("", *quantity.noun), quantity.noun, strict=False)
    rest = [word for before, word in pairs if before not in ("per", "of") and word not in _ADDITIONS]
    things = [word for word in rest if word not in _ADJECTIVES]
    plural = len(things) == 1 and (things[0] in _PLURALS or _PLURAL.fullmatch(things[0]) is not None)
    return (plural or not rest) and quantity.noun[-1] not in ("per", "of", "in")


def _may_be_noun(word: str) -> bool:
    if word in _ADDITIONS:
        return True
    return len(word) > 2 and word.isalpha() and not {word, word.removesuffix("s")} & CHANGING_WORDS


def _unit(words: list[str]) -> tuple[str, list[str]]:
    """Return the canonical name of the unit at the start of `words`, or "", and the other words.

    A product of units comes before the units that divide it: `kg·m/s^{2}`.
    """
    above, below, divided = list[str](), list[str](), False
    while words:
        prefix = SQUARES.get(words[0].lower(), "")
        rest = words[1:] if prefix else words
        unit = find_unit(rest[0]) if rest else None
        if unit is None:
            break
        rest = rest[1:]
        if unit == "degree" and rest and rest[0].lower() in TEMPERATURES:
            unit, rest = f"degree {rest[0][0].upper()}", rest[1:]
        power = prefix
        if rest and not prefix:
            power = POWERS.get(rest[0].lower(), "") or ("^{" + rest[0].strip("^{}") + "}" if rest[0][0] == "^" else "")
            rest = rest[1:] if power else rest
        inverse = power.startswith("^{-")
        (below if divided or inverse else above).append(unit + power.replace("-", "").replace("^{1}", ""))
        words, divided = rest, False
        if len(words) > 1 and find_unit(words[1]) and words[0] in ("/", "per", r"\cdot"):
            words, divided = words[1:], words[0] != r"\cdot"
        elif not (len(words) > 1 and find_unit(words[0]) and words[1].startswith(("^-", "^{-"))):
            break
    return "/".join(("·".join(above), *below)), words


def _trailing_words(answer: str) -> tuple[int, list[str]]:
    r"""Return where the words at the end of `answer` start, and these words, with powers and slashes.

    Words outside `\text` that may be a product of variables do not count.
    """
    start, words = 0, list[str]()
    if not (answer[-1:].isalpha() or answer[-1:] in ("}", "%")):
        return start, words
    for match in _PIECE.finditer(answer):
        kind, piece = match.lastgroup, match.group()
        if match["words"] or (match["bare"] and _may_be_bare(piece)):
            start = start if words else match.start()
            words += [word for word in _IN_TEXT.findall(match[2] or piece) if word not in "(),."]
        elif kind == "more" and words:
            words.append(piece)
        elif kind != "space":
            words = []
    return start, words


def _may_be_bare(word: str) -> bool:
    if "/" in word:
        return all(re.sub(r"\^.*", "", piece) in SYMBOLS for piece in word.split("/"))
    return word in _BARE_UNITS or word in ("C", "F") or len(word) > 3 or not word.isascii() or not word.isalpha()
