"""Finds repeated questions, and questions that overlap with a question of a benchmark.

An n-gram is a sequence of n consecutive words. The overlap of two questions is the number of n-grams that they share,
divided by the smaller of their numbers of n-grams (the overlap coefficient of the two sets). The overlap is 1 if one
question contains the other.

GPT-3's criterion, a single shared n-gram (arXiv 2005.14165, appendix C), would leave out too many competition problems,
because these share set phrases ("m/n where m and n are relatively prime positive integers, find m + n") with more words
than any usual n.
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
    """Remembers the questions of one pass over a dataset and recognises repeated ones.

    It stores two 16-byte digests per question instead of the text, and takes about 200 bytes of memory per question.
    """

    def __init__(self) -> None:
        self._exact: set[bytes] = set()
        self._normalised: set[bytes] = set()

    def add(self, text: str) -> Literal["duplicate", "near duplicate"] | None:
        """Add a question; return "duplicate" or "near duplicate" if it repeats an earlier question, otherwise None.

        A duplicate has the same text as an earlier question. A near duplicate has the same text only after `normalise`.
        """
        exact, normalised = _digest(text), _digest(normalise(text))
        repeats: Literal["duplicate", "near duplicate"] | None = None
        if normalised in self._normalised:
            repeats = "duplicate" if exact in self._exact else "near duplicate"
        self._exact.add(exact)
        self._normalised.add(normalised)
        return repeats


def normalise(text: str) -> str:
    r"""Return a form of the text that is the same for near duplicates.

    The form has no upper case, white space, dollar signs, TeX spacing or final punctuation, and has `\frac` in place of
    `\dfrac`. Digits and mathematical signs remain, because a question with another digit or sign is another question.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _SPACING.sub("", text).rstrip(".?!")


@dataclass(frozen=True)
class Overlap:
    """An overlap of a question with a benchmark question.

    Args:
        benchmark: name of the benchmark.
        question_id: id of the benchmark question.
        share: the overlap, from 0 to 1.
        words: the first n-gram that the two questions share.
    """

    benchmark: str
    question_id: str
    share: float
    words: str


class Benchmarks:
    """An index of the n-grams of benchmark questions.

    Args:
        questions: name of the benchmark, id and text of every benchmark question.
        ngram_size: n, in words.
        least_words: a question with fewer than n words, but at least this number, counts as a single n-gram. A question
            with fewer words than both is ignored.
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
        """Return the largest overlap of `text` with a benchmark question, or None if it is less than `min_share`."""
        words = split_words(text)
        own = self._ngrams(text)
        common = [ngram for ngram in own if ngram in self._holders]
        # A benchmark question with fewer than n words is indexed as a whole, so look for sequences of that length.
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
    """Return the distinct n-grams of `size` words, in the order of the text."""
    return {tuple(words[start : start + size]): None for start in range(len(words) - size + 1)}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
