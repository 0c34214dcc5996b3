r"""Changes right answers so that their value changes, and reports the changed answers that the grader accepts.

    python -m benchmarks.grading.mutations --mutations 20000 --seed 0

A changed answer differs from the right one in a digit, a sign, an operator, a factor, a unit, a further or missing
element, the order of a tuple, the case of a letter, a relation or a denial. It counts only if its value differs by the
rules of `values.py`, which shares no code with the grader, or by construction (`5 \text{ N}` for `5 \text{ J}`). The
right answers are references of the real data beside the checkout, if there are any, generated arithmetic questions, and
the right answers of the test cases. The command ends with exit code 1 if the grader accepts a changed answer.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.grading.pairs import references, right_answers
from benchmarks.grading.values import differ
from raml_trl.data.arithmetic import generate_questions
from raml_trl.grading.grader import SECONDS
from raml_trl.grading.pool import GradingPool

BATCH = 500
_TRIES = 200

_UNITS = (
    *("cm", "kg", "N", "J", "W", "V", "hours", "minutes", "seconds", "dollars", "euros", "cents", "miles", "feet"),
    *("inches", "pounds", "ounces", "liters", "gallons", "km/h", "m/s", "degrees", "cm^2", "cm^3", "apples", "people"),
)
_NUMBER_WORDS = ("million", "thousand", "dozen", "hundred", "halves", "thirds", "plus one", "minus two", "times three")
_DENIALS = (
    r"\text{not } {}",
    r"{} \text{ is wrong}",
    r"{} \text{ is not the answer}",
    r"\neq {}",
    r"\not= {}",
    r"\text{anything but } {}",
    r"\text{less than } {}",
    r"{} \text{ or more}",
    r"{} \text{ plus or minus one}",
    r"\lnot {}",
)
_CHOICE = re.compile(r"\(?([A-E])\)?|\\text\{\(?([A-E])\)?\}")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?|-?\\frac\{\d+\}\{\d+\}")
_WITH_UNIT = re.compile(r"(.*\d[^a-z]*?)\s*\\(?:text|mathrm|mbox)\s*\{\s*([A-Za-z ]+)\}(?:\^\{?\d\}?)?\s*", re.DOTALL)
_BASED = re.compile(r"\d+_\{?\d\}?")
_LETTER = re.compile(r"\\[A-Za-z]+\s*(?:\{[A-Za-z ]+\})?|([A-Za-z])")
_QUALIFIER = re.compile(r"\\in(?![A-Za-z])|integer|constant|real")
_INTEGRAL = re.compile(r"\+ *C *$")
_WORD = re.compile("[A-Za-z]{4,}")
_FUNCTION = re.compile(r"[A-Za-z]\([a-z]\) *=")
_DIGIT = re.compile(r"\\text\{[^}]*\}|(\d)")
_SIGNED = re.compile(r"(?<=[({,=])\s*(?=[\w\\])|(?<=[<>])\s*(?=[\w\\])")
_OPERATORS = {
    "+": ("-", r" \cdot ", "/"),
    "-": ("+", r" \cdot "),
    "/": (r" \cdot ", "+", "-"),
    r"\cdot": ("+", "-", "/"),
    r"\times": ("+", "-", "/"),
    "^": (r" \cdot ", "+", "_"),
    r"\frac": (r"\binom",),
    r"\sqrt": ("", r"\sqrt[3]"),
    r"\pi": ("", "e", r"\theta", r"\pi^{2}"),
    "!": ("", "^{2}"),
    "<": (">", r" \le ", "="),
    ">": ("<", r" \ge ", "="),
    r"\le": ("<", r" \ge ", "="),
    r"\leq": ("<", r" \geq "),
    r"\ge": (">", r" \le ", "="),
    r"\geq": (">", r" \leq "),
    r"\infty": ("0", r"-\infty", "1000"),
    "[": ("(",),
    "]": (")",),
    r"\sin": (r"\cos", r"\tan"),
    r"\cos": (r"\sin",),
    r"\ln": (r"\log", r"\sin"),
}
_OPERATOR = re.compile(r"\\(?:text|mathrm)\{[^}]*\}|\\[A-Za-z]+|[-+/^!<>\[\]]")
_FACTORS = (
    *("2{}", "{}!", "({})^{{2}}", r"\sqrt{{{}}}", r"{}\pi", "{}x", "{}i", "{}e", r"\frac{{1}}{{{}}}", "{}+1", "{}-1"),
    *("-({})", "{}0", "1{}", r"\frac{{{}}}{{2}}", "({})({})", "|{}|", "{}^{{-1}}", "{}_{{1}}", "{}'", "{}.5"),
    *(r"{}\cdot 10^{{2}}", r"\ln {}", r"{}\mathrm{{x}}", r"{}\mathrm{{i}}", r"{}\text{{k}}", r"\{{{}, {}+1\}}"),
    *(r"\pm {}", r"{}\sqrt{{2}}"),
)
_EVIDENCE = ((r"\\mathrm\{([a-z])\}", r" \1"), (r"\\text\{([a-z])\}", r" \1"))

Change = tuple[str, bool]
"""A changed answer, and whether its value differs by construction."""


@dataclass(frozen=True)
class Mutation:
    """A wrong answer, made from the right answer `right` to a question with the reference `reference`."""

    kind: str
    reference: str
    right: str
    answer: str


def change_digit(drawn: random.Random, answer: str) -> Change | None:
    r"""Replaces, doubles, removes or separates a digit."""
    places = [match.start() for match in _DIGIT.finditer(answer) if match[1]]
    if not places:
        return None
    place = drawn.choice(places)
    other = drawn.choice([digit for digit in "0123456789" if digit != answer[place]])
    put = drawn.choice(
        [other, other, other, answer[place] * 2, "", answer[place] + ".", "." + answer[place], other + answer[place]]
    )
    return answer[:place] + put + answer[place + 1 :], bool(_BASED.fullmatch(answer)) and put == other


def separate_digits(drawn: random.Random, answer: str) -> Change | None:
    """Puts a space or a comma between two digits that a number does not have there."""
    places = [match.start() + 1 for match in re.finditer(r"(?<!frac)(?<![\d,. ])\d{2}(?!\d)", answer)]
    if not places:
        return None
    place = drawn.choice(places)
    return answer[:place] + drawn.choice([" ", ", ", "; "]) + answer[place:], True


def change_sign(drawn: random.Random, answer: str) -> Change | None:
    """Inserts or removes a minus sign."""
    minus = [match.start() for match in re.finditer("-", answer)]
    starts = [0, *(match.end() for match in _SIGNED.finditer(answer))]
    if minus and drawn.random() < 0.5:
        place = drawn.choice(minus)
        return answer[:place] + answer[place + 1 :], False
    place = drawn.choice(starts)
    return answer[:place] + "-" + answer[place:], False


def change_operator(drawn: random.Random, answer: str) -> Change | None:
    """Replaces an operator, a function, a relation, a constant or the bracket of an interval."""
    places = [match for match in _OPERATOR.finditer(answer) if match.group() in _OPERATORS]
    if not places:
        return None
    match = drawn.choice(places)
    return answer[: match.start()] + drawn.choice(_OPERATORS[match.group()]) + answer[match.end() :], False


def exchange_fraction(drawn: random.Random, answer: str) -> Change | None:
    """Exchanges numerator and denominator of a fraction."""
    places = list(re.finditer(r"(\\[dt]?frac)\{([^{}]*)\}\{([^{}]*)\}", answer))
    if not places:
        return None
    match = drawn.choice(places)
    return f"{answer[: match.start()]}{match[1]}{{{match[3]}}}{{{match[2]}}}{answer[match.end() :]}", False


def add_factor(drawn: random.Random, answer: str) -> Change | None:
    """Puts a factor, a power, a function or an index on the whole answer."""
    form = drawn.choice(_FACTORS)
    inner = answer if re.fullmatch(r"\w+|\\\w+|\\frac\{[^{}]*\}\{[^{}]*\}", answer) else f"({answer})"
    return form.format(*[inner] * 2), False


def change_unit(drawn: random.Random, answer: str) -> Change | None:
    """Replaces the unit of a quantity by another unit."""
    match = _WITH_UNIT.fullmatch(answer)
    if match is None or match[2].strip() not in _UNITS:
        return None
    old = match[2].strip().rstrip("s")
    unit = drawn.choice([unit for unit in _UNITS if unit.partition("^")[0].rstrip("s") != old])
    return rf"{match[1]} \text{{ {unit}}}", True


def change_number_by_word(drawn: random.Random, answer: str) -> Change | None:
    """Adds a word that changes the value of a number, such as `million` or `halves`."""
    if not _NUMBER.fullmatch(answer) or differ(answer, "0") is not True:
        return None
    return rf"{answer} \text{{ {drawn.choice(_NUMBER_WORDS)}}}", True


def add_element(drawn: random.Random, answer: str) -> Change | None:
    """Adds a further answer, or a further element of a set. The text of an option is left alone: its letter counts."""
    other = str(drawn.randint(10_007, 99_989))  # no value of an answer, such as the 135 minutes of 2 hours 15 minutes
    if (
        other in answer
        or "or" in answer
        or re.search(r"[<>]|\\(?:in|[lg]e)", answer)
        or "infty" in answer
        or "mathbb" in answer
        or re.match(r"\([A-J]\).", answer)
    ):
        return None
    if answer.endswith(r"\}") and answer.startswith(r"\{"):
        return rf"{answer[:-2]}, {other}\}}", True
    form = drawn.choice(
        [r"{}, {}", r"{} \text{{ or }} {}", r"{} \text{{ and }} {}", "{}; {}", r"{} \cup \{{{}\}}", "{} = {}"]
    )
    pair = (answer, other) if drawn.random() < 0.7 else (other, answer)
    return form.format(*pair), True


def remove_element(drawn: random.Random, answer: str) -> Change | None:
    """Removes an element of a list, a set or a tuple. The qualifier of a letter is none."""
    start, parts, end = _parts(answer)
    if len(parts) < 2 or len(set(parts)) < len(parts) or _QUALIFIER.search(answer):
        return None
    parts.pop(drawn.randrange(len(parts)))
    return start + ", ".join(parts) + end, True


def exchange_elements(drawn: random.Random, answer: str) -> Change | None:
    """Exchanges two elements of a tuple, an interval or a matrix, or the values of two names."""
    start, parts, end = _parts(answer)
    cells = re.split(r"(&|\\\\|(?<=matrix\})|(?=\\end))", answer)
    if r"\begin" in answer and len(cells) > 1:
        places = [place for place, cell in enumerate(cells) if re.search(r"\d|[a-z]", cell) and "matrix" not in cell]
    elif start[:1] in ("(", "[") and len(parts) > 1:
        cells = [start]
        for part in parts:
            cells += [part, ", "]
        cells[-1] = end
        places = list(range(1, len(cells), 2))
    else:
        named = [part.partition("=") for part in parts]
        if len(parts) < 2 or not all(sign for _, sign, _ in named) or len({name.strip() for name, _, _ in named}) < 2:
            return None
        values = [value for _, _, value in named]
        drawn.shuffle(values)
        return ", ".join(f"{name}={value}" for (name, _, _), value in zip(named, values, strict=True)), False
    if len(places) < 2:
        return None
    a, b = drawn.sample(places, 2)
    cells[a], cells[b] = cells[b], cells[a]
    return "".join(cells), False


def deny(drawn: random.Random, answer: str) -> Change | None:
    """Denies the answer, or leaves it open."""
    if "text{" in answer:
        return None
    return drawn.choice(_DENIALS).replace("{}", answer, 1), True


def change_letter(drawn: random.Random, answer: str) -> Change | None:
    """Changes the case of a letter, or replaces it by another letter.

    Words and constants of integration have no case. A function and its argument may have any name.
    """
    function = _FUNCTION.match(answer)
    constant = _INTEGRAL.search(answer)
    places = [
        match.start(1)
        for match in _LETTER.finditer(
            answer, function.end() if function else 0, constant.start() if constant else len(answer)
        )
        if match[1]
    ]
    if not places:
        return None
    place = drawn.choice(places)
    letter = answer[place]
    put = (
        letter.swapcase()
        if drawn.random() < 0.7 and not _WORD.fullmatch(answer)
        else drawn.choice([other for other in "abcknpqrstuvxyz" if other != letter.lower()])
    )
    return answer[:place] + put + answer[place + 1 :], False


def change_choice(drawn: random.Random, answer: str) -> Change | None:
    """Replaces the option of a multiple-choice question, adds a further one, or denies it."""
    match = _CHOICE.fullmatch(answer)
    if match is None:
        return None
    letter = match[1] or match[2]
    other = drawn.choice([option for option in "ABCDE" if option != letter])
    forms = [
        "({1})",
        "{1}",
        "({0})({1})",
        "{0}, {1}",
        "({0}) or ({1})",
        "({0}) not ({1})",
        "({1}) not ({0})",
        "not {0}",
    ]
    forms += [
        "({0}) x",
        r"\text{{{0} or {1}}}",
        r"\text{{{0} and {1}}}",
        "{0}{1}",
        r"\text{{({0}) is wrong}}",
        "ABCDE",
        "{0}/{1}",
    ]
    forms += [
        r"\text{{Option }} {1}",
        "({1}), ({0})",
        r"\text{{neither ({0}) nor ({1})}}",
        "({0}) and ({1})",
        "{1} \\ne {0}",
    ]
    return drawn.choice(forms).format(letter, other), True


def change_words(drawn: random.Random, answer: str) -> Change | None:
    """Replaces the words of an answer by other words, or denies them."""
    match = re.fullmatch(r"\\text\{([A-Za-z]{2,})\}", answer)
    if match is None:
        return None
    others = ["yes", "no", "east", "west", "even", "odd", "ellipse", "circle", "Navin", "Evelyn", "always", "never"]
    other = drawn.choice([word for word in others if word.lower() != match[1].lower()])
    forms = [
        r"\text{{{1}}}",
        r"\text{{not {0}}}",
        r"\text{{{0} or {1}}}",
        r"\text{{{0} and {1}}}",
        r"\text{{{0} is wrong}}",
    ]
    return drawn.choice([*forms, r"\text{{{1} {0}}}", r"\text{{un{0}}}"]).format(match[1], other), True


CHANGES: dict[str, Callable[[random.Random, str], Change | None]] = {
    "digit": change_digit,
    "separated digits": separate_digits,
    "sign": change_sign,
    "operator": change_operator,
    "exchanged fraction": exchange_fraction,
    "factor": add_factor,
    "unit": change_unit,
    "number word": change_number_by_word,
    "added element": add_element,
    "removed element": remove_element,
    "exchanged order": exchange_elements,
    "denial": deny,
    "letter": change_letter,
    "choice": change_choice,
    "words": change_words,
}


def mutate(drawn: random.Random, kind: str, right: str, reference: str) -> Mutation | None:
    """Returns a wrong answer made from a right one, or None if the drawn change does not change its value for sure."""
    right, reference = right.strip(), reference.strip()
    if kind == "factor" and r"\pm" in reference:  # 3 \pm 2\sqrt{2} and its reciprocal are the same two numbers
        return None
    if kind in ("number word", "factor") and "%" in reference:  # 50% equals 0.5 and 50, hence half a hundred
        return None
    if kind == "unit" and _NUMBER.fullmatch(right) and right == reference and differ(right, "0"):  # 0 feet is 0 inches
        right = reference = rf"{right} \text{{ {drawn.choice(_UNITS)}}}"
    change = CHANGES[kind](drawn, right)
    if change is None:
        return None
    answer, certain = change
    if answer == right or (answer == f"{right}." and kind == "digit"):  # a full stop at the end changes nothing
        return None
    if not certain:
        evidence = answer
        for pattern, replacement in _EVIDENCE:
            evidence = re.sub(pattern, replacement, evidence)
        if differ(right, evidence) is not True or (right != reference and differ(right, reference) is not False):
            return None
    return Mutation(kind, reference, right, answer)


def mutations(drawn: random.Random, pairs: Sequence[tuple[str, str]]) -> Iterator[Mutation]:
    """Yields distinct wrong answers without end, of all kinds in turn. `pairs` are right answers with references.

    A kind that applies to few answers is left out of a turn if no new wrong answer is found soon.
    """
    seen = set[Mutation]()
    while True:
        for kind in CHANGES:
            for _ in range(_TRIES):
                mutation = mutate(drawn, kind, *drawn.choice(pairs))
                if mutation is not None and mutation not in seen:
                    seen.add(mutation)
                    yield mutation
                    break


def right_pairs(seed: int) -> list[tuple[str, str]]:
    """Returns right answers with their references: of the real data, of the test cases, and generated ones."""
    generated = [question.answer for question in generate_questions("test", 100, np.random.default_rng(seed))]
    return [*((answer, answer) for answer in (*references(), *generated)), *right_answers()]


def accepted(pool: GradingPool, made: Sequence[Mutation]) -> list[Mutation]:
    """Returns the wrong answers that the grader accepts."""
    outcomes = pool.compare([(mutation.answer, mutation.reference) for mutation in made])
    return [mutation for mutation, outcome in zip(made, outcomes, strict=True) if outcome == "correct"]


def _parts(answer: str) -> tuple[str, list[str], str]:
    """Returns the opening bracket of a group, its parts and its closing bracket. Brackets may be missing."""
    match = re.fullmatch(r"(\\\{|\(|\[)(.*)(\\\}|\)|\])", answer, re.DOTALL)
    start, inside, end = (match[1], match[2], match[3]) if match else ("", answer, "")
    parts, depth = [""], 0
    for token in re.findall(r"\\.|.", inside, re.DOTALL):
        depth += (token in ("(", "[", "{", r"\{")) - (token in (")", "]", "}", r"\}"))
        if depth < 0:
            return "", [answer], ""
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+", inside):
        return "", [answer], ""
    return start, [part.strip() for part in parts], end


def attack(number: int, seed: int, workers: int, seconds: float) -> tuple[Counter[str], list[Mutation]]:
    """Grades `number` mutations in batches. Returns how many of each kind were made, and those accepted."""
    made, passed = Counter[str](), list[Mutation]()
    source = islice(mutations(random.Random(seed), right_pairs(seed)), number)
    with GradingPool(workers, seconds=seconds) as pool:
        while batch := list(islice(source, BATCH)):
            made.update(mutation.kind for mutation in batch)
            passed += accepted(pool, batch)
            print(f"{made.total():,} made, {len(passed)} accepted", file=sys.stderr)
    return made, passed


def main() -> None:
    """Grades the mutations in batches, and prints how many of each kind were made and accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="child processes that run algebra")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of one comparison by algebra")
    parser.add_argument("--output", type=Path, help="file for the accepted mutations, as JSON Lines")
    given = parser.parse_args()
    started = time.perf_counter()
    made, passed = attack(given.mutations, given.seed, given.workers, given.seconds)
    if given.output:
        given.output.write_text("".join(json.dumps(asdict(mutation)) + "\n" for mutation in passed), encoding="utf-8")
    by_kind = Counter(mutation.kind for mutation in passed)
    print("| change | wrong answers made | accepted |\n|---|---|---|")
    for kind in CHANGES:
        print(f"| {kind} | {made[kind]:,} | {by_kind[kind]} |")
    print(f"| all | {made.total():,} | {len(passed)} |")
    print(f"seed {given.seed}, {time.perf_counter() - started:.0f} s")
    for mutation in passed:
        print(f"{mutation.kind}: accepted {mutation.answer!r} for {mutation.reference!r}")
    sys.exit(1 if passed else 0)


if __name__ == "__main__":
    main()
