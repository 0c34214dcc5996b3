r"""Decides whether two answers mean the same to a mathematician, as far as possible without symbolic algebra.

Numbers are compared exactly. Lists, sets, tuples, intervals, matrices, equations, quantities with units, and choices
(the letters of multiple-choice questions) are compared part by part. A part without such a structure is a leaf. Leaves
that are neither numbers nor words are compared by the function `leaf`, which the caller passes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf

from raml_trl.grading.choices import read_choice, read_run
from raml_trl.grading.clock import may_be_ratio, read_time, same_time
from raml_trl.grading.notation import Group, compact, find_group, normalise, plain, split
from raml_trl.grading.numbers import exact, same_number
from raml_trl.grading.quantities import Quantity, counts_only, currencies_differ, read_quantity, units_differ
from raml_trl.grading.rule import Leaf, Rule, undecided

_MAX_UNORDERED = 32  # longest list or set whose parts may match in any order; longer ones must have the same order
_WORD = re.compile(r"[A-Z]{2,3}|(?i:no|yes|[a-z][a-z' -]{3,})")
_LETTER = re.compile(r"[A-Za-df-z]")  # all letters except e, which is a number
_LETTERS = re.compile(r"[A-Za-z]+")
_SINGLE = re.compile(r"[A-Za-z]")
_CONTRARY = {
    "yes": {"no", "not", "never", "false", "wrong", "impossible", "cannot", "isn't", "can't", "but", "or"},
    "no": {"yes", "true", "correct", "right", "but", "or"},
}
_AFFIRMATION = re.compile(r"(yes|no)\b[,.:;!]?\s*(.*)", re.DOTALL | re.IGNORECASE)
_BASED = re.compile(r"([0-9A-Z]+)\s*_\{\s*(\d+)\s*\}")
_NAME = re.compile(
    r"(?:[A-Za-z]|\\(?!frac)[a-z]+|(?:\\(?:angle|triangle)\s*)?[A-Z]{2,3}|[A-Za-z]{4,})'*(?:_\{\w+\})?"
    r"(?:\s*\([a-z](?:\s*,\s*[a-z])*\))?|\\frac\{[A-Z]{1,2}\}\{[A-Z]{1,2}\}"
)
_MEMBERSHIP = re.compile(
    r"(?:\(?[A-Za-z](?:_\{\w+\})?(?: ?, ?[A-Za-z])*\)?|\\(?!in)[a-z]+) ?\\in(?![A-Za-z])\s*(.+)", re.DOTALL
)
_SET_BUILDER = re.compile(
    r"\\\{ ?(?:[A-Za-z]|\\[a-z]+) ?(?:\\in ?\\mathbb\{R\} ?)?(?:\\mid|\||:) ?([^|]*(?:<|>|\\le|\\ge)[^|]*)\\\}"
)
_EQUALS = re.compile("=")
_RELATION = re.compile(r"<|>|\\le|\\ge")


def same(predicted: str, answer: str, leaf: Leaf, *, max_steps: float = inf) -> bool | None:
    """Return whether a predicted answer and a reference mean the same.

    Return None if that depends on two leaves for which `leaf` returns None.

    Raises:
        TooManyStepsError: if more than `max_steps` parts have to be compared, as in sets nested in sets.
    """
    if currencies_differ(predicted, answer):
        return False
    return _same(normalise(predicted), normalise(answer), Rule(leaf, max_steps))


def leaves(answer: str) -> list[str]:
    """Return the parts of `answer` that only algebra can compare, because they are neither numbers nor words."""
    answer = _unwrap(read_quantity(normalise(answer)).value)
    group = find_group(answer)
    if group is not None:
        return [leaf for part in group.parts for leaf in leaves(part)]
    if not answer or exact(answer) is not None or _is_text(plain(answer)):
        return []
    members = split(answer, _EQUALS)
    if len(members) > 1 and _NAME.fullmatch(plain(members[0])):
        return leaves(members[-1])
    return [plain(answer)]


def _same(predicted: str, answer: str, leaf: Rule) -> bool | None:
    leaf.count_step()
    predicted, answer = _unwrap(predicted), _unwrap(answer)
    if not predicted or not answer:
        return None
    if compact(predicted) == compact(answer):
        return True
    number = same_number(predicted, answer)
    if number is not None:
        return number
    verdict = _same_times(plain(predicted), plain(answer))
    if verdict is None:
        verdict = _same_several_choices(plain(predicted), plain(answer))
    if verdict is not None:
        return verdict
    p_quantity, a_quantity = read_quantity(predicted), read_quantity(answer)
    if p_quantity.value != predicted or a_quantity.value != answer:
        return _same_quantities(p_quantity, a_quantity, (predicted, answer), leaf)
    p_range, a_range = _interval(predicted), _interval(answer)
    p_group, a_group = find_group(predicted), find_group(answer)
    if p_range and a_group and a_group.is_interval:
        return _same_groups(p_range, a_group, leaf)
    if a_range and p_group and p_group.is_interval:
        return _same_groups(p_group, a_range, leaf)
    if p_group and a_group:
        if p_group.kind == a_group.kind == "union":
            return _matched(p_group.parts, a_group.parts, leaf) or leaf(plain(predicted), plain(answer))
        return _same_groups(p_group, a_group, leaf)
    if p_group or a_group:
        return _same_as_group(predicted, answer, p_group, a_group, leaf)
    p_members, a_members = split(predicted, _EQUALS), split(answer, _EQUALS)
    if len(p_members) > 1 or len(a_members) > 1:
        verdict = _same_equations(p_members, a_members, leaf)
        return leaf(plain(predicted), plain(answer)) if verdict is None else verdict
    predicted, answer = plain(predicted), plain(answer)
    if len(predicted) > 2 and _LETTERS.fullmatch(predicted) and predicted.casefold() == answer.casefold():
        return _same_words(predicted, answer)
    if _is_text(predicted) or _is_text(answer):
        return _same_texts(predicted, answer, leaf)
    return leaf(predicted, answer)


def _unwrap(answer: str) -> str:
    r"""Remove `x \in` from the front of an answer, and the braces of a set with one element or a condition."""
    match = _MEMBERSHIP.fullmatch(answer)
    answer = normalise(match[1]) if match else answer
    match = _SET_BUILDER.fullmatch(answer)
    if match:
        return normalise(match[1])
    group = find_group(answer)
    return normalise(group.parts[0]) if group and group.kind == "set" and len(group.parts) == 1 else answer


def _same_times(predicted: str, answer: str) -> bool | None:
    """Compare two answers of which one is a time of day. Return None if both may be something else, such as ratios."""
    p, a = read_time(predicted), read_time(answer)
    if p and a:
        return None if may_be_ratio(a) and not p.half else same_time(p, a)
    return False if (p and p.half) or (a and a.half) else None


def _same_several_choices(predicted: str, answer: str) -> bool | None:
    """Compare two choices of which one has several letters. Return None if one answer is something else."""
    p, a = read_choice(predicted), read_choice(answer)
    if (p and len(p.letters) > 1) or (a and len(a.letters) > 1):
        p, a = p or read_run(predicted), a or read_run(answer)
        return p.letters == a.letters if p and a else None
    return None


def _same_quantities(p: Quantity, a: Quantity, whole: tuple[str, str], leaf: Rule) -> bool | None:
    """Compare two quantities. The unit may be missing on one side. `whole` holds both answers as they were read.

    50% equals 0.5, and also 50, because the question may ask for a percentage. 180° equals pi.
    """
    for angle, arc in ((p, a), (a, p)):
        if angle.unit == "degree" and arc.unit in ("", "radian") and r"\pi" in arc.value and r"\pi" not in angle.value:
            return leaf(rf"\frac{{\pi}}{{180}}({plain(angle.value)})", plain(arc.value))
    if units_differ(p, a):
        return False
    if not a.noun and not counts_only(p):
        return leaf(plain(whole[0]), plain(whole[1]))
    p_number, a_number = exact(p.value), exact(a.value)
    if p_number is not None and a_number is not None and (p.unit == "%") != (a.unit == "%"):
        return p_number == a_number or (p_number == 100 * a_number if p.unit == "%" else a_number == 100 * p_number)
    return _same(normalise(p.value), normalise(a.value), leaf)


def _same_groups(predicted: Group, answer: Group, leaf: Rule) -> bool | None:
    p, a = predicted, answer
    if len(p.parts) != len(a.parts):
        return False
    if p.kind != a.kind and "list" not in (p.kind, a.kind):
        return False
    if p.kind == a.kind == "ratio" and len(p.parts) == len(a.parts) == 2:
        return _same("({})/({})".format(*p.parts), "({})/({})".format(*a.parts), leaf)
    if p.kind == "ratio" and a.kind == "ratio":
        p_values, a_values = ([value for part in group.parts if (value := exact(part)) is not None] for group in (p, a))
        if len(p_values) == len(a_values) == len(p.parts):
            return all(x * a_values[0] == y * p_values[0] for x, y in zip(p_values, a_values, strict=True))
    if p.ordered or a.ordered:
        return _all(_same(normalise(x), normalise(y), leaf) for x, y in zip(p.parts, a.parts, strict=True))
    return _matched(p.parts, a.parts, leaf)


def _same_as_group(predicted: str, answer: str, p: Group | None, a: Group | None, leaf: Rule) -> bool | None:
    """Compare two answers of which exactly one is a group.

    `p` and `a` are the groups of `predicted` and `answer`; exactly one of them is None.
    """
    group = p or a
    assert group is not None
    if group.kind == "ratio" and len(group.parts) == 2:
        quotient = "({})/({})".format(*group.parts)
        return _same(quotient, answer, leaf) if p else _same(predicted, quotient, leaf)
    single = plain(answer if p else predicted)
    # The single answer may name a group, as in `x = (1, 2)`. A number never equals a group.
    members = split(single, _EQUALS)
    if len(members) == 2 and _NAME.fullmatch(members[0]):
        return _same(predicted, normalise(members[1]), leaf) if p else _same(normalise(members[1]), answer, leaf)
    if exact(single) is not None or group.kind in ("list", "ratio"):
        return False
    return leaf(plain(predicted), plain(answer))


def _same_equations(predicted: Sequence[str], answer: Sequence[str], leaf: Rule) -> bool | None:
    """Compare two answers of which at least one is a chain of equations. Return None if only algebra can decide.

    The arguments are the members of each chain, `["x", "y", "1"]` for `x = y = 1`. A name such as `x` stands for the
    value on the other side of its `=`.
    """
    p_named, a_named = (_NAME.fullmatch(plain(members[0])) is not None for members in (predicted, answer))
    if len(predicted) > 1 and len(answer) > 1:
        if p_named and a_named and compact(predicted[0]) == compact(answer[0]):
            return _same(normalise(predicted[-1]), normalise(answer[-1]), leaf)
        return None
    chain, single, named = (predicted, answer[0], p_named) if len(predicted) > 1 else (answer, predicted[0], a_named)
    values = _values(chain) if named else chain
    if len(predicted) > 1:
        return _all(_same(normalise(value), normalise(single), leaf) for value in values)
    return _all(_same(normalise(single), normalise(value), leaf) for value in values)


def _values(members: Sequence[str]) -> Sequence[str]:
    """Return the values in a chain of equations: 1 in `x = y = 1`, and the last member, b, in `a = b`."""
    return [member for member in members if not _NAME.fullmatch(plain(member))] or members[-1:]


def _same_texts(predicted: str, answer: str, leaf: Rule) -> bool | None:
    if _SINGLE.fullmatch(predicted) and _SINGLE.fullmatch(answer):
        return predicted == answer
    p_yes, a_yes = _affirmation(predicted), _affirmation(answer)
    if p_yes and a_yes:
        return p_yes == a_yes
    p_choice, a_choice = read_choice(predicted), read_choice(answer)
    if p_choice and a_choice:
        letters = p_choice.letters == a_choice.letters
        if not (p_choice.content and a_choice.content):
            return letters
        return _all([letters, _same(normalise(p_choice.content), normalise(a_choice.content), leaf)])
    for pattern, like in ((_WORD, _LETTERS), (_LETTERS, _WORD), (_WORD, _WORD), (_BASED, _BASED)):
        if pattern.fullmatch(predicted) and like.fullmatch(answer):
            return _same_words(predicted, answer)
    if _BASED.fullmatch(predicted) or _BASED.fullmatch(answer):
        return False  # the other answer shows no base, so its base is ten
    if p_choice and p_choice.content:
        return _same(normalise(p_choice.content), answer, leaf)
    if a_choice and a_choice.content:
        return _same(predicted, normalise(a_choice.content), leaf)
    if all(_is_text(text) or exact(text) is not None for text in (predicted, answer)):
        return False
    return leaf(predicted, answer)


def _same_words(first: str, second: str) -> bool:
    """Return whether two texts have the same words. Case counts in names such as AB, and a plural in single words."""
    if compact(first) == compact(second):
        return True
    if not all(word.istitle() or word.islower() or len(word) > 3 for text in (first, second) for word in text.split()):
        return False
    first, second = first.casefold(), second.casefold()
    if " " in first and " " in second:
        first, second = first.removesuffix("s"), second.removesuffix("s")
    return compact(first) == compact(second)


def _affirmation(text: str) -> str:
    """Return "yes" or "no" if `text` says so and does not contradict itself, otherwise ""."""
    match = _AFFIRMATION.fullmatch(text)
    if match is None:
        return ""
    said, words = match[1].lower(), set(re.findall("[a-z']+", match[2].lower()))
    explained = not match[2] or match[0][len(said)] in ",.:;!"
    return said if explained and not words & _CONTRARY[said] else ""


def _is_text(answer: str) -> bool:
    return (
        any(pattern.fullmatch(answer) for pattern in (_WORD, _BASED, _LETTER))
        or read_choice(answer) is not None
        or _affirmation(answer) != ""
    )


def _interval(answer: str) -> Group | None:
    r"""Return the interval that an inequality describes, such as `(3, 4]` for `3 < x \le 4`.

    Return None if `answer` is not an inequality in a single variable.
    """
    pieces = split(answer, _RELATION)
    if len(pieces) not in (2, 3) or not all(pieces):
        return None
    relations = re.findall(r"<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z])", answer)
    if len(relations) != len(pieces) - 1 or len({sign in (">", r"\ge") for sign in relations}) != 1:
        return None
    if relations[0] in (">", r"\ge"):
        pieces.reverse()
        relations.reverse()
    relations = [{">": "<", r"\ge": r"\le"}.get(sign, sign) for sign in relations]
    if len(pieces) == 3:
        low, name, high = pieces
        closed = [sign == r"\le" for sign in relations]
    elif _NAME.fullmatch(pieces[0]):
        low, name, high = r"-\infty", *pieces
        closed = [False, relations[0] == r"\le"]
    else:
        low, name, high = *pieces, r"\infty"
        closed = [relations[0] == r"\le", False]
    if not _NAME.fullmatch(name):
        return None
    return Group(("[" if closed[0] else "(") + ("]" if closed[1] else ")"), (low, high))


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    """Return False if any verdict is False, otherwise None if any verdict is None, otherwise True."""
    known = True
    for verdict in verdicts:
        if verdict is False:
            return False
        known &= verdict is not None
    return True if known else None


def _matched(predicted: Sequence[str], answer: Sequence[str], leaf: Rule) -> bool | None:
    """Return whether the parts of two groups are equal in pairs, in any order; None if undecided."""
    if len(predicted) != len(answer):
        return False
    if len(answer) > _MAX_UNORDERED:
        p_numbers, a_numbers = ([exact(normalise(part)) for part in parts] for parts in (predicted, answer))
        if None not in p_numbers and None not in a_numbers:
            return Counter(p_numbers) == Counter(a_numbers)
        return _all(_same(normalise(x), normalise(y), leaf) for x, y in zip(predicted, answer, strict=True))
    unpaired, unknown = [normalise(part) for part in predicted], False
    for target in map(normalise, answer):
        verdicts = [_same(part, target, leaf.without_algebra()) for part in unpaired]
        if True not in verdicts and leaf.leaf is not undecided:
            verdicts = [
                _same(part, target, leaf) if verdict is None else verdict
                for part, verdict in zip(unpaired, verdicts, strict=True)
            ]
        if True in verdicts:
            unpaired.pop(verdicts.index(True))
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True
