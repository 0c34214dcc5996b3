"""Finds repeated questions, and questions that overlap with those of a benchmark.

The overlap of two questions is the number of word n-grams that they share, divided by the number of n-grams of the
question that has fewer (the overlap coefficient of the two sets). It is 1 if one question contains the other. A single
shared n-gram, the criterion of GPT-3 (arXiv 2005.14165, appendix C), proves nothing for competition problems: their set
phrases ("m/n where m and n are relatively prime positive integers, find m + n") are longer than any usual n.
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_WORD = re.compile(r"\w+")
_SPACING = re.compile(r"\\(?:left|right|displaystyle|quad|qquad|[,;:! ])(?![a-zA-Z])|[\s$~]")


class SeenQuestions:
    """The questions of one pass over a dataset, as 16-byte digests: about 200 bytes of memory per question."""

    def __init__(self) -> None:
        self._exact: set[bytes] = set()
        self._normalised: set[bytes] = set()

    def add(self, text: str) -> Literal["duplicate", "near duplicate"] | None:
        """Add a question, and return how it repeats an earlier one, or None if it is new."""
        exact, normalised = _digest(text), _digest(normalise(text))
        repeats: Literal["duplicate", "near duplicate"] | None = None
        if normalised in self._normalised:
            repeats = "duplicate" if exact in self._exact else "near duplicate"
        self._exact.add(exact)
        self._normalised.add(normalised)
        return repeats


def normalise(text: str) -> str:
    """Return the text without case, white space, dollar signs and TeX spacing.

    Signs and digits remain, since they make a different question.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _SPACING.sub("", text).rstrip(".?!")


@dataclass(frozen=True)
class Overlap:
    """The benchmark question that a question overlaps with, the overlap (0 to 1), and the first shared words."""

    benchmark: str
    question_id: str
    share: float
    words: str


class Benchmarks:
    """An index of the n-grams of benchmark questions.

    Args:
        questions: benchmark, id and text of every question.
        ngram_size: n, in words. A question of fewer words counts as one n-gram if it has `least_words`.
        least_words: shorter questions ("What is 1 + 1?") are ignored.
    """

    def __init__(self, questions: Iterable[tuple[str, str, str]], *, ngram_size: int, least_words: int = 5) -> None:
        self._ngram_size, self._least_words = ngram_size, least_words
        self._names: list[tuple[str, str]] = []
        self._sizes: list[int] = []
        self._holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for benchmark, question_id, text in questions:
            for ngram in (ngrams := self._ngrams(text)):
                self._holders[ngram].append(len(self._names))
            self._names.append((benchmark, question_id))
            self._sizes.append(len(ngrams))
        self._short = sorted({len(ngram) for ngram in self._holders} - {ngram_size})

    def find(self, text: str, *, min_share: float) -> Overlap | None:
        """Return the largest overlap with a benchmark question, or None if it is below `min_share`."""
        words = split_words(text)
        own = self._ngrams(text)
        common = [ngram for ngram in own if ngram in self._holders]
        # Benchmark questions shorter than an n-gram must occur as a whole.
        for size in self._short:
            common += [ngram for ngram in _ngrams(words, size) if ngram not in own and ngram in self._holders]
        if not common:
            return None
        counts = Counter(holder for ngram in common for holder in self._holders[ngram])
        shares = {holder: count / min(len(own), self._sizes[holder]) for holder, count in counts.items()}
        best = max(shares, key=lambda holder: shares[holder])
        if shares[best] < min_share:
            return None
        shared = next(ngram for ngram in common if best in self._holders[ngram])
        return Overlap(*self._names[best], share=min(shares[best], 1.0), words=" ".join(shared))

    def _ngrams(self, text: str) -> dict[tuple[str, ...], None]:
        words = split_words(text)
        if len(words) >= self._ngram_size:
            return _ngrams(words, self._ngram_size)
        return {tuple(words): None} if len(words) >= self._least_words else {}


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words, numbers and TeX commands."""
    return _WORD.findall(text.casefold())


def _ngrams(words: list[str], size: int) -> dict[tuple[str, ...], None]:
    """The distinct n-grams, in the order of the text."""
    return {tuple(words[start : start + size]): None for start in range(len(words) - size + 1)}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
