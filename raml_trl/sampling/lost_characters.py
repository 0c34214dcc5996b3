"""Finds the characters of prompts that a tokenizer cannot represent, such as letters if its vocabulary has only digits.

The model then reads prompts without them, and nothing else shows it.
"""

import logging
from collections.abc import Iterable
from itertools import islice

from transformers import PreTrainedTokenizerBase

from raml_trl.prompts import prompt_messages
from raml_trl.runtime.runs import is_first_process

logger = logging.getLogger(__name__)

_MOST_SHOWN = 20
_MOST_QUESTIONS = 100


def lost_characters(tokenizer: PreTrainedTokenizerBase, question: str, style: str) -> list[str]:
    """Return the characters of the prompt for a question that the tokenizer cannot represent, white space left out.

    `style` is the style of the prompt, a key of `prompts.STYLES`.
    """
    text = "\n".join(message["content"] for message in prompt_messages(question, style))
    known = str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True))
    return [character for character in dict.fromkeys(text) if not (character.isspace() or character in known)]


def shown(characters: Iterable[str]) -> str:
    """Return some of the characters in quotes, for a message."""
    return repr("".join(islice(characters, _MOST_SHOWN)))


def warn_of_lost_characters(
    tokenizer: PreTrainedTokenizerBase, questions: Iterable[str], style: str, *, model: str
) -> None:
    """Log a warning if prompts for some of the first 100 questions have characters that the tokenizer cannot represent.

    Only the first process of a launch logs it. `model` is the name of the model whose tokenizer it is.
    """
    if not is_first_process():
        return
    lost = [lost_characters(tokenizer, question, style) for question in islice(questions, _MOST_QUESTIONS)]
    losing = sum(map(bool, lost))
    if losing:
        characters = shown(dict.fromkeys(character for of_prompt in lost for character in of_prompt))
        logger.warning(
            "%d of the first %d prompts lose characters, because the tokenizer of %s cannot represent %s",
            losing,
            len(lost),
            model,
            characters,
        )
