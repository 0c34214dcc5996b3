r"""Finds out the type and the meaning of an answer from its spelling, by a list of rules.

The rules are tried in order: an answer has the type of the first rule that reads it. An answer that no rule reads is an
expression, which algebra compares. Parts of an answer are answers themselves, and are read by the same rules.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from raml_trl.grading.answers import (
    Answer,
    Approximation,
    Cases,
    EmptySet,
    Equation,
    Expression,
    Family,
    Function,
    Inequality,
    Interval,
    Items,
    Matrix,
    Number,
    Ratio,
    SetBuilder,
    SetOf,
    Tuple,
    Union,
    Value,
)
from raml_trl.grading.bases import read_based
from raml_trl.grading.choices import read_choice
from raml_trl.grading.clock import read_time
from raml_trl.grading.dates import read_date
from raml_trl.grading.estimates import sign_of_difference
from raml_trl.grading.names import is_name, is_variable
from raml_trl.grading.notation import normalise, plain
from raml_trl.grading.numbers import exact
from raml_trl.grading.plus_minus import PLUS_MINUS, both_signs
from raml_trl.grading.qualifiers import read_qualified
from raml_trl.grading.quantities import read_compound, read_quantity
from raml_trl.grading.remainders import read_division, read_residue_class
from raml_trl.grading.tokens import SEPARATORS, TEXT, cut, is_enclosed, letters, rename, split
from raml_trl.grading.words import as_words, read_affirmation, read_words

_LETTER = r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega))"
_FUNCTION = re.compile(
    rf"((?:{_LETTER}|[a-z]{{2,4}})'*(?:_\{{\w+\}})?(?:\^\{{[^{{}}]*\}})?) ?\(([a-z](?: ?, ?[a-z])*|\\[a-z]+)\)"
)
_MEMBERSHIP = re.compile(
    r"(?:\(?[A-Za-z](?:_\{\w+\})?(?: ?, ?[A-Za-z])*\)?|\\(?!in)[a-z]+) ?\\in(?![A-Za-z])\s*(.+)", re.DOTALL
)
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|approx|equiv|in|notin|to|mapsto|sim)")
_TEXT = re.compile(TEXT)
_CUP, _ROW, _CELL, _COLON, _COMMA = (re.compile(pattern) for pattern in (r"\\cup", r"\\\\", "&", ":", "[,;]"))
_SUCH_THAT = re.compile(r"\\mid|:|\|")
_ELEMENT = re.compile(rf"({_LETTER}) ?(?:\\in ?\\mathbb\{{([A-Z])\}} ?(\^ ?\{{?[+*]\}}?)?)?")
_POINT = re.compile(r"^(\([^()]*\)) ?\\in ?\\mathbb\{R\} ?\^ ?\{[2-9n]\}$")
_REALS_SUCH_THAT = re.compile(rf"({_LETTER}) ?(?:\\in ?\\mathbb\{{R\}} ?)?(?:\\mid|:|\|) ?(.+)", re.DOTALL)
_MATRIX = re.compile(
    r"\\begin\{([pbB]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}(?: ?\^ ?\{? ?(\\top|T|\\mathrm\{T\}) ?\}?)?",
    re.DOTALL,
)
_CASES = re.compile(r"\\begin\{cases\}(.*)\\end\{cases\}", re.DOTALL)
_CONDITION = re.compile(r"(?:if|when|for|where|若|当)\b ?|[,.]$")
_TRANSPOSED = re.compile(r"(\(.*\)) ?\^ ?\{? ?(?:\\top|T) ?\}?", re.DOTALL)
_TURNED = re.compile(r"([\[\]])([^\[\]]*)([\[\]])")
_UNIT_VECTOR = re.compile(r"\\(?:mathbf|hat|vec|bar|overrightarrow) ?\{ ?\\?([ijk])(?:math)? ?\}")


@lru_cache(maxsize=4096)
def read(text: str) -> Answer:
    """Read an answer in any spelling. Return its normalised spelling and its meaning."""
    text = _unwrap(normalise(text))
    return Answer(text, _value(text))


def _value(text: str) -> Value:
    number = exact(text)
    if number is not None:
        return read_date(text) or Number(number)  # 2021-03-05 is no difference
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return EmptySet()
    words = plain(text)
    if _TEXT.fullmatch(text) and words.isalpha():
        return read_affirmation(words) or read_choice(words) or as_words(words)
    for read_words_as in _WORDED:
        value = read_words_as(words)
        if value is not None:
            return value
    for read_as in _STRUCTURED:
        value = read_as(text)
        if value is not None:
            return value
    return Expression()


def _unwrap(text: str) -> str:
    r"""Remove `x \in` from the front of an answer, and the braces of a set with one element.

    Of a set of real numbers with a condition, return the condition, with the letter x: `x > 1` for `\{t \mid t > 1\}`.
    """
    match = _MEMBERSHIP.fullmatch(text)
    if match and not text.startswith(r"\{"):
        text = normalise(match[1])
    if text.startswith(r"\{") and is_enclosed(text):
        inside = text[2:-2].strip()
        match = _REALS_SUCH_THAT.fullmatch(inside)
        if match and not ({"x"} & set(letters(match[2])) - {match[1]}):
            return normalise(rename(match[2], {match[1]: "x"}))
        if inside and not _SUCH_THAT.search(inside) and inside != r"\emptyset" and len(split(inside, SEPARATORS)) == 1:
            text = text if PLUS_MINUS.search(inside) else normalise(inside)
    return text


def _parts(texts: Sequence[str]) -> tuple[Answer, ...]:
    return tuple(read(text) for text in texts)


def _qualified(text: str) -> Value | None:
    qualified = read_qualified(plain(text))
    if qualified is None:
        return None
    value = read(qualified.value)
    if isinstance(value.value, Family) and value.value.domain == qualified.domain:
        return Family(value.value.value, value.value.names | qualified.names, qualified.domain)
    return Family(value, qualified.names, qualified.domain)


def _items(text: str) -> Value | None:
    pieces, signs = cut(text, SEPARATORS)
    pieces = [piece for piece in pieces if piece]
    if len(pieces) < 2:
        return None
    parts = _parts([part for piece in pieces for part in both_signs(piece)])
    if not any("or" in sign or "或" in sign for sign in signs):
        return _intersection(parts, strict=any("and" in sign for sign in signs)) or Items(parts)
    return Items(parts)


def _intersection(parts: Sequence[Answer], *, strict: bool) -> Inequality | Equation | EmptySet | None:
    """Return the chain `low < x < high` for `x > low` and `x < high`, or None if the parts are no such pair.

    The bounds must be in order, unless `strict`, which means that both inequalities hold. Then the result for bounds in
    the other order is the empty set, and for `x >= 3` and `x <= 3` it is `x = 3`.
    """
    bounds = [part.value for part in parts]
    if len(bounds) != 2 or not all(isinstance(bound, Inequality) and len(bound.signs) == 1 for bound in bounds):
        return None
    for low, high in (bounds, bounds[::-1]):
        assert isinstance(low, Inequality)
        assert isinstance(high, Inequality)
        middle = low.members[1]
        if middle.text != high.members[0].text or isinstance(middle.value, Number):
            continue
        order, signs = _order(low.members[0], high.members[1]), low.signs + high.signs
        if order == -1 or (order is None and strict):
            return Inequality((*low.members, high.members[1]), signs)
        if order == 0 and strict and signs == (r"\le", r"\le"):
            return Equation(plain(middle.text), low.members[::-1])
        return EmptySet() if strict else None
    return None


def _order(first: Answer, second: Answer) -> int | None:
    """Return -1, 0 or 1 if a number is smaller than another one, equal or larger; None if this is undecided."""
    a, b = first.value, second.value
    if isinstance(a, Number) and isinstance(b, Number):
        return (a.value > b.value) - (a.value < b.value)
    return sign_of_difference(plain(first.text), plain(second.text))


def _signs(text: str) -> Value | None:
    if text.startswith(r"\{"):
        return None
    values = list(both_signs(text))
    return Items(_parts(values)) if len(values) > 1 else None


def _relation(text: str) -> Value | None:
    members, signs = cut(text, _RELATION)
    if not signs:
        return None
    kinds = set(signs)
    if kinds <= {r"\approx", "=", r"\sim"} and r"\approx" in kinds and members[-1]:
        return _approximation(members)
    if not all(members):
        return None
    if kinds == {"="}:
        return _equation(members)
    if kinds <= {"<", r"\le"}:
        return Inequality(_parts(members), tuple(signs))
    if kinds <= {">", r"\ge"}:
        turned = tuple({">": "<", r"\ge": r"\le"}[sign] for sign in reversed(signs))
        return Inequality(_parts(members[::-1]), turned)
    if signs == [r"\mapsto"]:
        return Function("", (members[0].rpartition(":")[2].strip(),), read(members[1]))
    return None


def _approximation(members: Sequence[str]) -> Approximation:
    values = [member for member in members[:-1] if member and not is_variable(plain(member))]
    return Approximation(read(values[-1]) if values else None, read(members[-1]), _parts(values[:-1]))


def _equation(members: Sequence[str]) -> Value:
    first, last = plain(members[0]), plain(members[-1])
    match = _FUNCTION.fullmatch(first)
    if match and len(members) == 2:
        return Function(match[1], tuple(re.split(" ?, ?", match[2])), read(members[1]))
    if is_variable(last) and not is_name(first):
        return _equation(members[::-1])
    return Equation(first if is_name(first) else "", _parts(members))


def _union(text: str) -> Value | None:
    pieces = split(text, _CUP)
    return Union(_parts(pieces)) if len(pieces) > 1 and all(pieces) else None


def _ratio(text: str) -> Value | None:
    pieces = split(text, _COLON)
    return Ratio(_parts(pieces)) if len(pieces) > 1 and all(pieces) else None


def _set(text: str) -> Value | None:
    if not text.startswith(r"\{") or not is_enclosed(text):
        return None
    inside = text[2:-2].strip()
    pieces, signs = cut(inside, _SUCH_THAT)
    if signs and len(pieces) > 1 and pieces[0]:
        return _set_builder(pieces[0], inside[inside.index(signs[0], len(pieces[0])) + len(signs[0]) :].strip())
    parts = [part for piece in split(inside, SEPARATORS) if piece for part in both_signs(piece)]
    return SetOf(_parts(parts))


def _set_builder(element: str, condition: str) -> Value:
    r"""Return the meaning of `\{element \mid condition\}`: a family such as `k\pi` for all integers k, or a set."""
    element = _POINT.sub(r"\1", element)
    match = _ELEMENT.fullmatch(element)
    value = read(condition)
    if match is None:
        qualified = read_qualified(plain(f"{element}, {condition}"))
        if qualified is not None and qualified.value == plain(element):
            return Family(read(element), qualified.names, qualified.domain)
        return SetBuilder(read(element), "", value)
    domain = (match[2] or "") + (match[3] or "").strip("^ {}")
    return SetBuilder(read(match[1]), domain, value)


def _brackets(text: str) -> Value | None:
    match = _TRANSPOSED.fullmatch(text)
    text = match[1] if match else text
    text = _turned(text)
    if text[:1] not in ("(", "[") or text[-1:] not in (")", "]") or not is_enclosed(text):
        return None
    pieces = split(text[1:-1], _COMMA)
    if len(pieces) < 2:
        return None
    rows = [piece[1:-1].split(",") for piece in pieces if piece[:1] == "[" and piece[-1:] == "]"]
    if len(rows) == len(pieces) and text[0] + text[-1] == "[]":
        return Matrix(tuple(_parts(row) for row in rows))
    if len(pieces) == 2 and (text[0] + text[-1] != "()" or any(r"\infty" in piece for piece in pieces)):
        return Interval(read(pieces[0]), read(pieces[1]), text[0] == "[", text[-1] == "]")
    return Tuple(_parts(pieces)) if text[0] + text[-1] in ("()", "[]") else None


def _turned(text: str) -> str:
    """Return an interval with round brackets for the turned square brackets of its open ends, as in `]0, 1[`."""
    match = _TURNED.fullmatch(text)
    if match is None or match[1] + match[3] == "[]":
        return text
    return f"{'(' if match[1] == ']' else '['}{match[2]}{')' if match[3] == '[' else ']'}"


def _environment(text: str) -> Value | None:
    match = _CASES.fullmatch(text)
    if match:
        rows = [split(row, _CELL) for row in split(match[1], _ROW) if row]
        if all(len(row) == 1 for row in rows):
            parts = _parts([row[0].strip(" ,;") for row in rows])
            return (_intersection(parts, strict=True) or Items(parts)) if len(parts) > 1 else None
        if all(len(row) == 2 for row in rows):
            return Cases(tuple((read(row[0].rstrip(" ,;")), read(_condition(row[1]))) for row in rows))
        return None
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [split(row, _CELL) for row in split(match[2], _ROW)]
    rows = [row for row in rows if row != [""]]
    if match[3] and len({len(row) for row in rows}) == 1:
        rows = [list(column) for column in zip(*rows, strict=True)]
    if len(rows) > 1 and all(len(row) == 1 for row in rows):
        return Tuple(_parts([row[0] for row in rows]))
    return Matrix(tuple(_parts(row) for row in rows))


def _condition(text: str) -> str:
    return _CONDITION.sub("", plain(text)).strip()


def _unit_vectors(text: str) -> Value | None:
    r"""Return the vector that a sum such as `2\mathbf{i} - \mathbf{k}` spells."""
    if not _UNIT_VECTOR.search(text):
        return None
    parts, start = {"i": "0", "j": "0", "k": "0"}, 0
    for match in _UNIT_VECTOR.finditer(text):
        factor = text[start : match.start()].strip()
        sign = "-" if factor[:1] == "-" else ""
        factor = factor.lstrip("+- ").strip() or "1"
        if parts[match[1]] != "0" or len(split(factor, re.compile("[-+]"))) > 1:
            return None
        parts[match[1]], start = sign + factor, match.end()
    if text[start:].strip():
        return None
    return Tuple(_parts([parts["i"], parts["j"], *([parts["k"]] if parts["k"] != "0" else [])]))


def _quantity(text: str) -> Value | None:
    quantity = read_quantity(text)
    return quantity if quantity.value != text else None


_WORDED: tuple[Callable[[str], Value | None], ...] = (
    *(read_time, read_date, read_division, read_residue_class, read_based),
    *(read_choice, read_affirmation, read_words),
)
_STRUCTURED: tuple[Callable[[str], Value | None], ...] = (
    *(read_compound, _qualified, _items, _signs, _relation),
    *(_union, _ratio, _set, _brackets, _environment, _unit_vectors, _quantity),
)
