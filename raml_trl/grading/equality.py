r"""Whether two answers mean the same, as a mathematician would say, as far as it takes no symbolic algebra.

Numbers are compared exactly; lists, sets, tuples, intervals, matrices, equations, units and choices are taken apart,
and what is left is put to `leaf`.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from raml_trl.grading.notation import Group, compact, group, is_known_unit, measure, normalise, plain, split
from raml_trl.grading.numbers import MAX_CHARACTERS, MAX_DEPTH, MAX_FACTORIAL, exact, same_number

Leaf = Callable[[str, str], bool | None]
"""Whether two answers without structure are the same, predicted and reference; None if it cannot tell."""

_MAX_EXPONENT = 10_000
_MAX_UNORDERED = 32  # parts to try each with each; more are taken in the order they come in
_WORD = re.compile(r"[A-Z]{2,3}|(?i:no|yes|[a-z][a-z' -]{3,})")
_LETTER = re.compile(r"[A-Za-df-z]")  # e is a number
_LETTERS = re.compile(r"[A-Za-z]+")
_CHOICE = re.compile(r"\(([A-J])\)[.:]?\s*(.*)|([A-J])[.):]?", re.DOTALL)
_BASED = re.compile(r"([0-9A-Z]+)\s*_\{\s*(\d+)\s*\}")
_NAME = re.compile(
    r"(?:[A-Za-z]|\\(?!frac)[a-z]+|(?:\\(?:angle|triangle)\s*)?[A-Z]{2,3}|[A-Za-z]{4,})'*(?:_\{\w+\})?"
    r"(?:\s*\([a-z](?:\s*,\s*[a-z])*\))?|\\frac\{[A-Z]{1,2}\}\{[A-Z]{1,2}\}"
)
_MEMBERSHIP = re.compile(r"[^\\]{1,20}?\\in(?![A-Za-z])\s*(.+)", re.DOTALL)
_EQUALS = re.compile("=")
_RELATION = re.compile(r"<|>|\\le|\\ge")


def same(predicted: str, answer: str, leaf: Leaf) -> bool | None:
    """Whether two answers mean the same; None if it takes what `leaf` does not know."""
    return _same(normalise(predicted), normalise(answer), leaf)


def leaves(answer: str) -> list[str]:
    """The parts of an answer that only symbols could tell from others."""
    answer = measure(normalise(answer))[0]
    several = group(answer)
    if several is not None:
        return [one for part in several.parts for one in leaves(part)]
    if not answer or exact(answer) is not None or _is_text(plain(answer)):
        return []
    members = split(answer, _EQUALS)
    if len(members) > 1 and _NAME.fullmatch(plain(members[0])):
        return leaves(members[-1])
    return [plain(answer)]


def oversized(answer: str) -> bool:
    """Whether an answer is too long or too deep to be looked at."""
    depth = 0
    for character in answer[: MAX_CHARACTERS + 1]:
        depth += (character in "([{") - (character in ")]}")
        if depth > MAX_DEPTH:
            return True
    return len(answer) > MAX_CHARACTERS


def endless(answer: str) -> bool:
    """Whether an answer holds a number that nobody can write out, a tower of powers or a factorial."""
    answer = normalise(answer)
    if re.search(r"[0-9]{300}|!\s*!", answer):
        return True
    for match in re.finditer(r"([0-9]*|[)}])\s*!", answer):
        inside = match[1] if match[1].isdigit() else answer[_across(answer, match.start(), -1) : match.start()]
        if re.search(r"\^|!", inside) or any(int(digits) > MAX_FACTORIAL for digits in re.findall("[0-9]+", inside)):
            return True
    repeated = 1
    for match in re.finditer(r"([)}]?)\s*\^\s*(?=[{(])", answer):
        exponent = answer[match.end() + 1 : _across(answer, match.end(), 1)]
        value = exact(exponent)
        if value is None:
            if re.search(r"\^|!", exponent) and not re.search("[a-z]", exponent):
                return True
            continue
        if match[1]:
            repeated *= max(1, abs(int(value)))
        if abs(value) > _MAX_EXPONENT or repeated > _MAX_EXPONENT:
            return True
    return False


def _across(text: str, start: int, step: int) -> int:
    """Where the bracket at `start` has its other half, going by `step`; the last place if it has none."""
    depth, place = 0, start
    for place in range(start, len(text) if step > 0 else -1, step):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0:
            break
    return place


def _same(predicted: str, answer: str, leaf: Leaf) -> bool | None:
    predicted, answer = _outside(predicted), _outside(answer)
    if not predicted or not answer:
        return None
    if compact(predicted) == compact(answer):
        return True
    number = same_number(predicted, answer)
    if number is not None:
        return number
    (p_value, p_unit), (a_value, a_unit) = measure(predicted), measure(answer)
    if p_unit or a_unit:
        return _same_measures((p_value, p_unit), (a_value, a_unit), leaf)
    p_range, a_range = _interval(predicted), _interval(answer)
    p_group, a_group = group(predicted), group(answer)
    if p_range and a_group and a_group.is_interval:
        return _same_groups(p_range, a_group, leaf)
    if a_range and p_group and p_group.is_interval:
        return _same_groups(p_group, a_range, leaf)
    if p_group and a_group:
        if p_group.kind == a_group.kind == "union":
            return _matched(p_group.parts, a_group.parts, leaf) or leaf(plain(predicted), plain(answer))
        return _same_groups(p_group, a_group, leaf)
    if p_group or a_group:
        return _same_as_one(predicted, answer, p_group, a_group, leaf)
    p_members, a_members = split(predicted, _EQUALS), split(answer, _EQUALS)
    if len(p_members) > 1 or len(a_members) > 1:
        told = _same_equations(p_members, a_members, leaf)
        return leaf(plain(predicted), plain(answer)) if told is None else told
    if _is_text(plain(predicted)) or _is_text(plain(answer)):
        return _same_texts(plain(predicted), plain(answer), leaf)
    return leaf(plain(predicted), plain(answer))


def _outside(answer: str) -> str:
    r"""What `x` is said to lie in, and the element of a set that has one."""
    match = _MEMBERSHIP.fullmatch(answer)
    answer = normalise(match[1]) if match else answer
    several = group(answer)
    return normalise(several.parts[0]) if several and several.kind == "set" and len(several.parts) == 1 else answer


def _same_measures(predicted: tuple[str, str], answer: tuple[str, str], leaf: Leaf) -> bool | None:
    """A unit may be left out, but not be another. 50% is 0.5, and 50 where a percentage is asked for; 180° are pi."""
    (p_value, p_unit), (a_value, a_unit) = predicted, answer
    for (angle, unit), (arc, radians) in ((predicted, answer), (answer, predicted)):
        if unit == "degree" and radians in ("", "radian") and r"\pi" in arc and r"\pi" not in angle:
            return leaf(rf"\frac{{\pi}}{{180}}({plain(angle)})", plain(arc))
    if p_unit != a_unit and is_known_unit(p_unit) and is_known_unit(a_unit):
        return False
    p, a = exact(p_value), exact(a_value)
    if p is not None and a is not None and (p_unit == "%") != (a_unit == "%"):
        return p == a or (p == 100 * a if p_unit == "%" else a == 100 * p)
    return _same(normalise(p_value), normalise(a_value), leaf)


def _same_groups(predicted: Group, answer: Group, leaf: Leaf) -> bool | None:
    p, a = predicted, answer
    if len(p.parts) != len(a.parts):
        return False
    if p.kind != a.kind and "list" not in (p.kind, a.kind):
        return False
    if p.kind == "ratio" and a.kind == "ratio":
        ps, xs = [exact(part) for part in p.parts], [exact(part) for part in a.parts]
        if None not in ps and None not in xs:
            return all(one * xs[0] == other * ps[0] for one, other in zip(ps, xs, strict=True))  # type: ignore[operator]
    if p.ordered or a.ordered:
        return _all(_same(normalise(x), normalise(y), leaf) for x, y in zip(p.parts, a.parts, strict=True))
    return _matched(p.parts, a.parts, leaf)


def _same_as_one(predicted: str, answer: str, p: Group | None, a: Group | None, leaf: Leaf) -> bool | None:
    """Where only one of the two has structure."""
    several = p or a
    assert several is not None
    if several.kind == "ratio" and len(several.parts) == 2:
        over = "({})/({})".format(*several.parts)
        return _same(over, answer, leaf) if p else _same(predicted, over, leaf)
    one = plain(answer if p else predicted)
    # `x = (1, 2)`, a set or a matrix under another name; a number is never several.
    members = split(one, _EQUALS)
    if len(members) == 2 and _NAME.fullmatch(members[0]):
        return _same(predicted, normalise(members[1]), leaf) if p else _same(normalise(members[1]), answer, leaf)
    if exact(one) is not None or several.kind in ("list", "ratio"):
        return False
    return leaf(plain(predicted), plain(answer))


def _same_equations(predicted: Sequence[str], answer: Sequence[str], leaf: Leaf) -> bool | None:
    """Chains of `=`: what has a name is what it is said to be; None if it takes symbols to tell."""
    p_named, a_named = (_NAME.fullmatch(plain(members[0])) is not None for members in (predicted, answer))
    if len(predicted) > 1 and len(answer) > 1:
        if p_named and a_named and compact(predicted[0]) == compact(answer[0]):
            return _same(normalise(predicted[-1]), normalise(answer[-1]), leaf)
        return None
    several, one, named = (predicted, answer[0], p_named) if len(predicted) > 1 else (answer, predicted[0], a_named)
    values = _values(several) if named else several
    if len(predicted) > 1:
        return _all(_same(normalise(value), normalise(one), leaf) for value in values)
    return _all(_same(normalise(one), normalise(value), leaf) for value in values)


def _values(members: Sequence[str]) -> Sequence[str]:
    """What the names in a chain of `=` stand for: in `x = y = 1` it is 1, and in `a = b` it is b."""
    return [member for member in members if not _NAME.fullmatch(plain(member))] or members[-1:]


def _same_texts(predicted: str, answer: str, leaf: Leaf) -> bool | None:
    for pattern, like in ((_WORD, _LETTERS), (_LETTERS, _WORD), (_WORD, _WORD), (_BASED, _BASED)):
        if pattern.fullmatch(predicted) and like.fullmatch(answer):
            return compact(predicted).casefold() == compact(answer).casefold()
    if _BASED.fullmatch(predicted) or _BASED.fullmatch(answer):
        return False  # a base that is not said is ten
    p_choice, a_choice = _CHOICE.fullmatch(predicted), _CHOICE.fullmatch(answer)
    if p_choice and a_choice:
        letters = (p_choice[1] or p_choice[3]) == (a_choice[1] or a_choice[3])
        if not (p_choice[2] and a_choice[2]):
            return letters
        return _all([letters, _same(normalise(p_choice[2]), normalise(a_choice[2]), leaf)])
    if p_choice and p_choice[2]:
        return _same(normalise(p_choice[2]), answer, leaf)
    if a_choice and a_choice[2]:
        return _same(predicted, normalise(a_choice[2]), leaf)
    if all(_is_text(one) or exact(one) is not None for one in (predicted, answer)):
        return False
    return leaf(predicted, answer)


def _is_text(answer: str) -> bool:
    return any(pattern.fullmatch(answer) for pattern in (_WORD, _CHOICE, _BASED, _LETTER))


def _interval(answer: str) -> Group | None:
    r"""The interval that an inequality in one name describes: `3 < x \le 4` is `(3, 4]`."""
    pieces = split(answer, _RELATION)
    if len(pieces) not in (2, 3) or not all(pieces):
        return None
    relations = re.findall(r"<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z])", answer)
    if len(relations) != len(pieces) - 1 or len({one in (">", r"\ge") for one in relations}) != 1:
        return None
    if relations[0] in (">", r"\ge"):
        pieces.reverse()
        relations.reverse()
    relations = [{">": "<", r"\ge": r"\le"}.get(one, one) for one in relations]
    if len(pieces) == 3:
        low, name, high = pieces
        closed = [one == r"\le" for one in relations]
    elif _NAME.fullmatch(pieces[0]):
        low, name, high = r"-\infty", *pieces
        closed = [False, relations[0] == r"\le"]
    else:
        low, name, high = *pieces, r"\infty"
        closed = [relations[0] == r"\le", False]
    if not _NAME.fullmatch(name):
        return None
    return Group(("[" if closed[0] else "(") + ("]" if closed[1] else ")"), (low, high))


def _all(told: Iterable[bool | None]) -> bool | None:
    """Three-valued and."""
    known = True
    for one in told:
        if one is False:
            return False
        known &= one is not None
    return True if known else None


def _matched(predicted: Sequence[str], answer: Sequence[str], leaf: Leaf) -> bool | None:
    """Whether each of one can be paired with one of the other, in any order."""
    if len(predicted) != len(answer):
        return False
    if len(answer) > _MAX_UNORDERED:
        return _all(_same(normalise(x), normalise(y), leaf) for x, y in zip(predicted, answer, strict=True))
    left, unknown = [normalise(part) for part in predicted], False
    for wanted in map(normalise, answer):
        told = [_same(part, wanted, _silent) for part in left]
        if True not in told:
            told = [_same(part, wanted, leaf) if one is None else one for part, one in zip(left, told, strict=True)]
        if True in told:
            left.pop(told.index(True))
        elif None in told:
            unknown = True
        else:
            return False
    return None if unknown else True


def _silent(_predicted: str, _answer: str) -> None:
    return None
