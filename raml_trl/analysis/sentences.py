r"""A text taken apart into sentences, without losing a character: what can be dropped from it as a whole."""

import re

# A line, what a semicolon ends (the steps of the embedded world; `\;` is a space), or a full stop with space after it.
_END = re.compile(r"(?:\n|(?<!\\);|[.!?][)\]}\"'*$]*(?=\s))\s*")
_LABEL = re.compile(r"\s*(?:[0-9]{1,3}[.)]|[-*+])\s*")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, each with the space that follows it; together they are `text`.

    The label of a list, such as `2. `, belongs to the sentence after it.
    """
    sentences, start = [], 0
    for end in [*(match.end() for match in _END.finditer(text)), len(text)]:
        piece = text[start:end]
        if piece and (end == len(text) or (piece.strip() and not _LABEL.fullmatch(piece))):
            sentences.append(piece)
            start = end
    return sentences
