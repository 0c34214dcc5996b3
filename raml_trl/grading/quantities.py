r"""Reads quantities: a value with a unit, such as `5 \text{ m/s}`, or with the noun of the counted things.

Only known units are units. Other words behind a value are a noun if none of them changes the value: `3 \text{ dozen}`
is 36, and `5 \text{ plus two}` is no quantity.
"""

import re
from dataclasses import dataclass

from raml_trl.grading.notation import TEXT, normalise


@dataclass(frozen=True)
class Quantity:
    """A value, spelled as `notation.normalise` returns it, with its unit and with the noun of the counted things."""

    value: str
    unit: str = ""  # the canonical name, such as "m^{2}" or "km/h"; "" if there is none
    noun: tuple[str, ...] = ()  # the words that are not a unit, in lower case


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SYMBOLS = {
    **{symbol: symbol for symbol in _set("m g s h N J W V A K L T C F")},
    **{symbol: symbol for symbol in _set("cm mm km nm dm kg mg mL kL ms kN kJ MJ kW MW kV mV mA kPa Pa Hz kHz MHz")},
    **{"ml": "mL", "l": "L", "ft": "ft", "in": "in", "yd": "yd", "mi": "mi", "min": "min", "hr": "h", "hrs": "h"},
    **{
        "lb": "pound",
        "lbs": "pound",
        "oz": "oz",
        "mol": "mol",
        "eV": "eV",
        "cal": "cal",
        "kcal": "kcal",
        "mph": "mi/h",
    },
    **{"kph": "km/h", "kmh": "km/h", r"\Omega": "ohm", "USD": "dollar", "EUR": "euro", "%": "%", "ha": "ha"},
    **{
        "米": "m",
        "厘米": "cm",
        "毫米": "mm",
        "分米": "dm",
        "千米": "km",
        "公里": "km",
        "克": "g",
        "千克": "kg",
        "公斤": "kg",
    },
    **{
        "吨": "ton",
        "升": "L",
        "毫升": "mL",
        "秒": "s",
        "分钟": "min",
        "小时": "h",
        "天": "day",
        "周": "week",
        "年": "year",
    },
    **{"元": "yen", "度": "degree", "牛": "N", "焦": "J"},
}
_NAMES = {
    **{"centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "kilometer": "km"},
    **{"kilometre": "km", "meter": "m", "metre": "m", "inch": "in", "inche": "in", "foot": "ft", "feet": "ft"},
    **{"yard": "yd", "mile": "mi", "sec": "s", "second": "s", "minute": "min", "hour": "h", "day": "day"},
    **{"week": "week", "month": "month", "year": "year", "yr": "year", "decade": "decade"},
    **{"dollar": "dollar", "usd": "dollar", "cent": "cent", "euro": "euro", "yen": "yen", "yuan": "yen"},
    **{"rupee": "rupee", "peso": "peso", "ruble": "ruble", "franc": "franc", "shilling": "shilling", "pence": "pence"},
    **{"gram": "g", "kilogram": "kg", "milligram": "mg", "ton": "ton", "tonne": "ton", "pound": "pound", "ounce": "oz"},
    **{"liter": "L", "litre": "L", "milliliter": "mL", "millilitre": "mL", "gallon": "gallon", "quart": "quart"},
    **{"pint": "pint", "cup": "cup", "acre": "acre", "hectare": "ha", "newton": "N", "joule": "J", "watt": "W"},
    **{"kilowatt": "kW", "volt": "V", "ampere": "A", "amp": "A", "ohm": "ohm", "hertz": "Hz", "pascal": "Pa"},
    **{"kelvin": "K", "coulomb": "C", "farad": "F", "tesla": "T", "calorie": "cal", "mole": "mol", "bit": "bit"},
    **{"byte": "byte", "unit": "unit", "degree": "degree", "deg": "degree", "radian": "radian", "rad": "radian"},
    **{"percent": "%", "celsius": "degree C", "fahrenheit": "degree F"},
}
# Outside \text{...}, only words that cannot be a product of variables are units.
_BARE_UNITS = {"cm", "mm", "km", "kg", "mL", "ml", "kW", "kJ", "Hz", "min", "sec", "deg", "rad", "mph", "hrs", "lbs"}
_TEMPERATURES = ("c", "f", "celsius", "fahrenheit")
_CURRENCIES = {"$": "dollar", "£": "pound", "€": "euro", "¥": "yen", "₹": "rupee"}
_CURRENCY_SIGN = re.compile(r"\\?\$|[£€¥₹]")
_SQUARES = {"square": "^{2}", "sq": "^{2}", "cubic": "^{3}", "cu": "^{3}", "平方": "^{2}", "立方": "^{3}"}
_POWERS = {"squared": "^{2}", "cubed": "^{3}"}
_SCALES = {"dozen": "12", "hundred": "100", "thousand": "10^{3}", "million": "10^{6}", "billion": "10^{9}"}
_SCALES |= {"trillion": "10^{12}", "万": "10^{4}", "亿": "10^{8}"}

# Words that change the value or the claim of an answer. Behind them, nothing is a noun.
_COUNTS = "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy"
_PARTS = "half halve quarter third fourth fifth sixth seventh eighth ninth tenth hundredth thousandth pair couple gross"
_OPERATORS = "plus minus time over divided multiplied factorial mod modulo base root power squared cubed log versus vs"
_LOGIC = "and or nor not no never none is are isn't if for where when but except without otherwise either maybe perhaps"
_DOUBTS = "possibly probably wrong incorrect false impossible more less than least most to about between only unless"
CHANGING_WORDS = _set(" ".join((_COUNTS, _PARTS, _OPERATORS, _LOGIC, _DOUBTS, *_SCALES, "score")))

# Words that a noun may have beside it, and words that add nothing.
_ADJECTIVES = _set(
    "different distinct possible real integer positive total unique whole prime red blue green white black "
    "yellow new small large old young such ordered valid complete equal extra"
)
_ADDITIONS = _set("old long tall wide high deep away each altogether total in per of 个 人 只 本 张 次 种 条 名")
_PLURALS = _set("people children men women mice geese sheep fish")
_PLURAL = re.compile(r"[a-z]{2,}[a-z](?<!th)(?<!s)s")

_RATE = r"[A-Za-z]+(?:/[A-Za-z]+(?:\^\{[23]\})?)+"
_BARE = rf"(?<![A-Za-z\\])(?:{_RATE}|[A-Za-z]{{2,}}|[\u4e00-\u9fff]+)|(?<=degrees\}} )[CF](?![A-Za-z])"
_AMOUNT = re.compile(r"[\d)}]|\\pi")
_PIECE = re.compile(
    rf"(?P<words>{TEXT})|(?P<bare>{_BARE}|%|\\Omega(?![A-Za-z]))|(?P<more>\^\{{[23]\}}|/)|(?P<space> )|\\?[A-Za-z]+|.",
    re.DOTALL,
)
_IN_TEXT = re.compile(r"\\[A-Za-z]+|\^\{?[23]\}?|[A-Za-z'’-]+|平方|立方|[\u4e00-\u9fff]+|[%/]|\S")  # noqa: RUF001


def read_quantity(answer: str) -> Quantity:
    r"""Return the value, unit and noun of an answer. The value is the whole answer if no quantity can be read.

    `answer` must be spelled as `notation.normalise` returns it. Words for large numbers become a factor.
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


def currencies_differ(first: str, second: str) -> bool:
    r"""Return whether two answers, as they were written, are amounts of different currencies.

    Such answers are `\$5` and `5 \text{ cents}`. Two amounts without a currency sign are left to `units_differ`.
    """
    if not _CURRENCY_SIGN.search(first) and not _CURRENCY_SIGN.search(second):
        return False
    a, b = _currency(first), _currency(second)
    return bool(a and b and a != b)


def _currency(answer: str) -> str:
    match = _CURRENCY_SIGN.search(answer)
    if match and not (match.group() == "$" and answer.count("$") > 1):  # a pair of dollars encloses mathematics
        return _CURRENCIES[match.group().removeprefix("\\")]
    return read_quantity(normalise(answer)).unit.partition("/")[0]


def units_differ(first: Quantity, second: Quantity) -> bool:
    """Return whether units or nouns of two quantities contradict each other. A missing one contradicts nothing."""
    if first.unit and second.unit:
        short, long = sorted((first.unit, second.unit), key=len)
        if long != short and not long.startswith(short + " "):  # degrees may be degrees Celsius
            return True
    elif (first.unit and second.noun) or (second.unit and first.noun):
        return True  # dollars and chickens
    if not first.noun or not second.noun:
        return False
    a, b = ({_singular(word) for word in quantity.noun} - _ADDITIONS for quantity in (first, second))
    return not ((a <= b or b <= a) and a ^ b <= _ADJECTIVES)


def counts_only(quantity: Quantity) -> bool:
    """Return whether the noun of a quantity only names the counted things: nothing, or a plural such as `red balls`."""
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
    """Return the canonical name of the unit at the start of `words`, or "", and the other words."""
    name, joint = "", ""
    while words:
        prefix = _SQUARES.get(words[0].lower(), "")
        rest = words[1:] if prefix else words
        unit = (_SYMBOLS.get(rest[0]) or _NAMES.get(_singular(rest[0].lower()))) if rest else None
        if unit is None or (name and not joint):
            break
        rest = rest[1:]
        if unit == "degree" and rest and rest[0].lower() in _TEMPERATURES:
            unit, rest = f"degree {rest[0][0].upper()}", rest[1:]
        power = prefix
        if rest and not prefix:
            power = _POWERS.get(rest[0].lower(), "") or ("^{" + rest[0].strip("^{}") + "}" if rest[0][0] == "^" else "")
            rest = rest[1:] if power else rest
        name, words, joint = name + joint + unit + power, rest, ""
        if len(words) > 1 and words[0] in ("/", "per"):
            after = words[1:]
            if _SYMBOLS.get(after[0]) or _NAMES.get(_singular(after[0].lower())):
                joint, words = "/", after
    return name, words


def _singular(word: str) -> str:
    if word.endswith(("xes", "ches", "shes", "sses")):
        return word.removesuffix("es")
    if word.endswith("ies"):
        return word.removesuffix("ies") + "y"
    return word.removesuffix("s") if len(word) > 2 and not word.endswith("ss") else word


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
        return all(re.sub(r"\^.*", "", piece) in _SYMBOLS for piece in word.split("/"))
    return word in _BARE_UNITS or word in ("C", "F") or len(word) > 3 or not word.isascii() or not word.isalpha()
