r"""Reads remainders: residue classes such as `x \equiv 3 \pmod{7}`, and divisions with remainder such as `12 R 3`."""

import re
from dataclasses import dataclass

_MODULUS = (
    r"(?:\\pmod ?(?:\{(?P<m1>[^{}]+)\}|(?P<m2>\w))|\(? ?(?:\\bmod|\\mod|mod(?:ulo)?) ?\{?(?P<m3>[^(){}]+)\}? ?\)?)"
)
_CLASS = re.compile(
    rf"(?:(?P<name>[A-Za-z](?:_\{{\w+\}})?) ?(?:\\equiv|=) ?)?(?P<residue>[^=<>()]+?|\([^()]*\)) ?,? ?{_MODULUS}"
)
_DIVISION = re.compile(
    r"(\d+)[ ,]*(?:R|r|remainder|with (?:a )?remainder(?: of)?|余|…+|\\ldots|\\cdots) ?:? ?(\d+)", re.ASCII
)


@dataclass(frozen=True)
class ResidueClass:
    r"""The numbers that have one of the residues for a modulus. Residues and modulus are stored as text.

    `name` is the letter before the sign `\equiv` or `=`, or "".
    """

    name: str
    residues: tuple[str, ...]
    modulus: str


@dataclass(frozen=True)
class Division:
    """The result of a division with remainder: the quotient 12 and the rest 3 for `12 R 3`."""

    quotient: int
    rest: int


def read_residue_class(text: str) -> ResidueClass | None:
    r"""Return the residue class that `text` gives, such as `x \equiv 3 \pmod{7}`, or None if it has another form."""
    if "mod" not in text:
        return None
    match = _CLASS.fullmatch(text)
    if match is None:
        return None
    modulus = next(filter(None, (match["m1"], match["m2"], match["m3"])))
    residues = re.split(r" ?(?:,|\band\b|\bor\b) ?", match["residue"].strip("() "))
    return ResidueClass(match["name"] or "", tuple(filter(None, residues)), modulus.strip())


def read_division(text: str) -> Division | None:
    """Return the quotient and the rest that `text` gives, such as `12 R 3`, or None if it has another form."""
    match = _DIVISION.fullmatch(text)
    return Division(int(match[1]), int(match[2])) if match else None
