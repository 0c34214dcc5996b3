r"""The known units: their spellings, and the factors between units of the same dimension.

A unit has one canonical name, such as `m^{2}` or `km/h`.
"""

import re
from fractions import Fraction


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


SYMBOLS = {
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
    **{
        "kph": "km/h",
        "kmh": "km/h",
        r"\Omega": "ohm",
        "USD": "dollar",
        "GBP": "pound",
        "RMB": "yen",
        "CNY": "yen",
        "JPY": "yen",
        "INR": "rupee",
        "EUR": "euro",
        "%": "%",
        "ha": "ha",
    },
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
        "时": "h",
        "天": "day",
        "周": "week",
        "年": "year",
    },
    **{"元": "yen", "角": "jiao", "度": "degree", "牛": "N", "焦": "J"},
}
NAMES = {
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
SQUARES = {"square": "^{2}", "sq": "^{2}", "cubic": "^{3}", "cu": "^{3}", "平方": "^{2}", "立方": "^{3}"}
POWERS = {"squared": "^{2}", "cubed": "^{3}"}
TEMPERATURES = ("c", "f", "celsius", "fahrenheit")

# Each row lists units of one dimension, each with its multiple of the first one. Only exact factors are listed.
_METRIC = {"": "1", "k": "1000", "M": "1000000", "m": "1/1000"}
_FACTORS: tuple[dict[str, str], ...] = (
    {"m": "1", "km": "1000", "dm": "1/10", "cm": "1/100", "mm": "1/1000", "nm": "1/1000000000"},
    {"in": "1", "ft": "12", "yd": "36", "mi": "63360"},
    {"s": "1", "ms": "1/1000", "min": "60", "h": "3600", "day": "86400", "week": "604800"},
    {"year": "1", "month": "1/12", "decade": "10"},
    {"g": "1", "mg": "1/1000", "kg": "1000"},
    {"pound": "1", "oz": "1/16"},
    {"L": "1", "mL": "1/1000", "kL": "1000"},
    {"gallon": "1", "quart": "1/4", "pint": "1/8", "cup": "1/16"},
    {"dollar": "1", "cent": "1/100"},
    *({prefix + unit: factor for prefix, factor in _METRIC.items()} for unit in ("J", "W", "V", "N", "Pa", "Hz", "A")),
)
_CONVERSIONS = {unit: (next(iter(row)), Fraction(factor)) for row in _FACTORS for unit, factor in row.items()}
_FACTOR = re.compile(r"([^/^]+)(?:\^\{([23])\})?")


def find_unit(word: str) -> str | None:
    """Return the canonical name of the unit that `word` spells, or None."""
    return SYMBOLS.get(word) or NAMES.get(singular(word.lower()))


def singular(word: str) -> str:
    """Return an English noun without the ending of the plural."""
    if word.endswith(("xes", "ches", "shes", "sses")):
        return word.removesuffix("es")
    if word.endswith("ies"):
        return word.removesuffix("ies") + "y"
    return word.removesuffix("s") if len(word) > 2 and not word.endswith("ss") else word


def base_unit(unit: str) -> tuple[str, Fraction]:
    """Return the unit to which `unit` is converted for comparisons, and the factor of the conversion.

    The base of `cm^{2}` is `m^{2}` with the factor 1/10000. An unknown unit is its own base.
    """
    bases, factor = list[str](), Fraction(1)
    for number, part in enumerate(unit.split("/")):
        match = _FACTOR.fullmatch(part)
        if match is None or match[1] not in _CONVERSIONS:
            bases.append(part)
            continue
        base, multiple = _CONVERSIONS[match[1]]
        power = int(match[2] or 1)
        bases.append(base + part[len(match[1]) :])
        factor *= multiple**power if number == 0 else 1 / multiple**power
    return "/".join(bases), factor
