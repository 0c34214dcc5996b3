"""Does a question overlap with a benchmark? By n-grams of words, against the questions of the benchmarks.

The overlap of two questions is the share of n-grams that they have in common, of those of the one that has fewer
(the overlap coefficient of the two sets): 1 where one contains the other. A single common n-gram, the rule of GPT-3
(arXiv 2005.14165, appendix C), is no evidence among competition problems, whose set phrases ("m/n where m and n are
relatively prime positive integers, find m + n") are longer than any usual n.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """With which question of which benchmark, how much (0 to 1), and the first words they have in common."""

    benchmark: str
    question_id: str
    share: float
    words: str


class Benchmarks:
    """The n-grams of benchmarks, to look questions up in.

    Args:
        questions: benchmark, id and text of every question.
        ngram_size: n, in words; a question of fewer words is one n-gram, if it has `least_words`.
        least_words: shorter questions ("What is 1 + 1?") are evidence of nothing.
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
        """The greatest overlap of a question with any benchmark, if it is `min_share` or more."""
        words = split_words(text)
        own = self._ngrams(text)
        common = [ngram for ngram in own if ngram in self._holders]
        # Benchmark questions too short for an n-gram: does the whole of one stand in this text?
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
    """Lower-case words and numbers; TeX commands are words."""
    return _WORD.findall(text.casefold())


def _ngrams(words: list[str], size: int) -> dict[tuple[str, ...], None]:
    """The distinct ones, in the order of the text."""
    return {tuple(words[start : start + size]): None for start in range(len(words) - size + 1)}
