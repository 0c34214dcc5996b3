"""Reads words: yes and no with an explanation, and other words, which are compared ignoring case and articles."""

import re

from raml_trl.grading.answers import Affirmation, Words

# In `p - q` and `a b c`, letters are no words: one word has at least three letters, and hyphens have no spaces around.
_WORD = r"[a-z][a-z']*(?:-[a-z][a-z']*)*"
_WORDS = re.compile(rf"[A-Z]{{2,3}}|\\ldots|(?i:(?=.{{4}})(?=.*[a-z]{{3}}){_WORD}(?: +{_WORD})*)")
_ARTICLES = {"a", "an", "the"}
_AFFIRMATION = re.compile(r"(yes|no)\b[,.:;!]?\s*(.*)", re.DOTALL | re.IGNORECASE)
# Words, without another value: no union, no word before an equals sign, and no number behind a comma at the end.
_EXPLANATION = re.compile(
    r"(?!.*\\c[ua]p(?![a-z]))(?!.*[A-Za-z]{3} *=)(?!.*(?:[,;]|\band) *[-+]?[\d.]+ *$).*[A-Za-z]{2}", re.DOTALL
)
_CONTRARY = {
    "yes": {"no", "not", "never", "false", "wrong", "impossible", "cannot", "isn't", "can't", "but", "or"},
    "no": {"yes", "true", "correct", "right", "but", "or"},
}
_SPELLINGS = (
    (re.compile(r"^there (?:is|are|exists?) ", re.IGNORECASE), ""),
    (re.compile(r"^dne$|\bdoesn't exist$", re.IGNORECASE), "does not exist"),
)
_NO_SOLUTION = {
    ("no", "solution"),
    ("no", "real", "solution"),
    ("empty", "set"),
    ("no", "root"),
    ("no", "real", "root"),
}


def read_words(text: str) -> Words | None:
    """Return the words that `text` consists of, or None if it has anything else.

    Two or three capital letters count as a word, because they may name a segment, such as AB.
    """
    return as_words(text) if _WORDS.fullmatch(text) else None


def as_words(text: str) -> Words:
    """Return the words of `text` for a comparison: without articles and the ending of a plural.

    Short words in capitals, such as AB, keep their case; all others are in lower case.
    """
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    words = [word.casefold() if word.istitle() or word.islower() or len(word) > 3 else word for word in text.split()]
    words = [word for word in words if word not in _ARTICLES] or words
    if len(words) > 1:
        words[-1] = words[-1].removesuffix("s")
        words = words[:-1] if words[-1] == "number" else words
    return Words(tuple(words))


def read_affirmation(text: str) -> Affirmation | None:
    """Return the yes or no that `text` says, or None if it says neither or contradicts itself.

    An explanation in words may follow. `Yes, x = 3` and `No, it is impossible, 3` are read as neither, because they
    also give a value.
    """
    match = _AFFIRMATION.fullmatch(text)
    if match is None:
        return None
    said, words = match[1].lower(), set(re.findall("[a-z']+", match[2].lower()))
    explained = not match[2] or (match[0][len(said)] in ",.:;!" and _EXPLANATION.match(match[2]) is not None)
    return Affirmation(said == "yes") if explained and not words & _CONTRARY[said] else None


def says_no_solution(words: Words) -> bool:
    """Return whether words say that there is no solution."""
    return words.words in _NO_SOLUTION
