"""All text a model reads, and the shape its answer must have: one entry per prompt style.

A style is data: the instruction, where it stands (a system turn, or after the question in the user turn),
and the pattern that a formatted completion matches as a whole. Adding a style is adding an entry to `STYLES`.
"""

import re
from dataclasses import dataclass
from typing import Literal

from raml_trl.runtime.errors import InputError

# A box with no line break in it; what the answer inside is worth is the grader's business.
_BOX = r"\\boxed\{[^\n]+\}"


@dataclass(frozen=True)
class Style:
    """How a question is put to the model and what a formatted completion looks like.

    `layout` is matched against the whole completion, surrounding white space removed. It is linear in the length of
    the text: every repetition is bounded by a literal that it cannot match itself.
    """

    instruction: str
    position: Literal["system", "after"]
    layout: re.Pattern[str]
    template: str
    """The layout for `lay_out` to fill: TRAJECTORY and ANSWER stand for what they say."""

    @property
    def stub(self) -> str:
        """What leads from a trajectory, or a part of one, to its answer."""
        return self.template.partition("TRAJECTORY")[2].partition("ANSWER")[0]


STYLES: dict[str, Style] = {
    # The question alone: what the embedded world reads, whose vocabulary has no words for an instruction.
    "bare": Style(
        "",
        "after",
        re.compile(rf"<think>(?:(?!</think>).)*</think>\s*{_BOX}", re.DOTALL),
        "<think>TRAJECTORY</think>\\boxed{ANSWER}",
    ),
    # The paper's prompt for the short teacher and for its analyses (C.2): any text with a box in it is formatted.
    "boxed": Style(
        "\n\nReason step by step and write your final answer inside \\boxed{}.",
        "after",
        re.compile(rf"(?:(?!\\boxed).)*{_BOX}.*", re.DOTALL),
        "TRAJECTORY\n\nThe answer is \\boxed{ANSWER}",
    ),
    # The paper's GRPO prompt (C.3): thinking, then a conclusion that ends in the boxed answer.
    "conclusion": Style(
        "You solve mathematical problems. First think inside <think> and </think>; then write a conclusion inside "
        "<conclusion> and </conclusion> that ends with your answer in \\boxed{}. Use exactly this layout:\n"
        "<think>\nyour reasoning\n</think>\n<conclusion>\nyour conclusion\nThe answer is \\boxed{your answer}\n"
        "</conclusion>",
        "system",
        re.compile(
            rf"<think>(?:(?!</think>).)*</think>\s*<conclusion>(?:(?!</conclusion>|\\boxed).)*"
            rf"{_BOX}(?:(?!</conclusion>|\\boxed).)*</conclusion>",
            re.DOTALL,
        ),
        "<think>\nTRAJECTORY\n</think>\n<conclusion>\nThe answer is \\boxed{ANSWER}\n</conclusion>",
    ),
    # The paper's evaluation prompt (C.3): a conclusion as above, and nothing said of a thinking block.
    "conclusion_only": Style(
        "You solve mathematical problems. Reason step by step; then write a conclusion inside <conclusion> and "
        "</conclusion> that ends with your answer in \\boxed{}.",
        "system",
        re.compile(
            rf"(?:(?!<conclusion>).)*<conclusion>(?:(?!</conclusion>|\\boxed).)*{_BOX}"
            r"(?:(?!</conclusion>|\\boxed).)*</conclusion>",
            re.DOTALL,
        ),
        "TRAJECTORY\n<conclusion>\nThe answer is \\boxed{ANSWER}\n</conclusion>",
    ),
    # The paper's prompt for SFT on the long teacher (C.2): thinking, then the answer, each in tags.
    "answer": Style(
        "You solve mathematical problems. First think inside <think> and </think>; then give your answer inside "
        "<answer> and </answer>, in \\boxed{}.",
        "system",
        re.compile(
            rf"<think>(?:(?!</think>).)*</think>\s*<answer>(?:(?!</answer>|\\boxed).)*{_BOX}"
            r"(?:(?!</answer>|\\boxed).)*</answer>",
            re.DOTALL,
        ),
        "<think>\nTRAJECTORY\n</think>\n<answer>\n\\boxed{ANSWER}\n</answer>",
    ),
}


NO_THINKING: dict[str, str] = {
    # Thinking that is over as it begins: Qwen3 without thinking, and what knows no space in between.
    "empty": "<think>\n\n</think>\n\n",
    "closed": "<think></think>",
    # Thinking that goes straight to the answer, for models that open a block of it whatever they are told, as QwQ does.
    "phrase": "<think>\nI have thought about this long enough: the answer is",
}
"""What a completion begins with so that the model answers without thinking first, by family of models."""


SUMMARY = (
    "Above are a problem and the notes of somebody who worked on it. Write the notes anew and much shorter: keep, in "
    "their order, the steps and intermediate results without which the solution would not be found, and nothing else. "
    "Do not write down the final answer, in any form: stop before the step that yields it."
)
"""How a summary of a trajectory is asked for: one that helps to find the answer and does not give it away."""


def summary_messages(question: str, thinking: str) -> list[dict[str, str]]:
    """The chat messages that ask for a summary of the thinking on a question."""
    return [{"role": "user", "content": f"Problem:\n{question}\n\nNotes:\n{thinking}\n\n{SUMMARY}"}]


def prompt_messages(question: str, style: str) -> list[dict[str, str]]:
    """The chat messages that put `question` to the model, ready for a chat template.

    Raises:
        InputError: if `style` is not a key of `STYLES`.
    """
    chosen = find_style(style)
    if chosen.position == "system":
        return [{"role": "system", "content": chosen.instruction}, {"role": "user", "content": question}]
    return [{"role": "user", "content": question + chosen.instruction}]


def lay_out(trajectory: str, answer: str, style: str) -> str:
    """`trajectory` written into the layout of `style`, with `answer` in its box.

    Raises:
        InputError: if `style` is not a key of `STYLES`.
    """
    parts = {"TRAJECTORY": trajectory.strip(), "ANSWER": answer}
    return re.sub("|".join(parts), lambda match: parts[match.group()], find_style(style).template)


def with_opening(text: str) -> str:
    """`text` with the `<think>` that a chat template wrote for the model, where only the end of the block shows it."""
    thinking, end, _ = text.partition("</think>")
    return f"<think>\n{text}" if end and "<think>" not in thinking else text


def find_style(style: str) -> Style:
    """The entry of `STYLES` named `style`.

    Raises:
        InputError: if there is none.
    """
    if style not in STYLES:
        raise InputError(f"prompt_style {style!r} is unknown: choose one of {', '.join(STYLES)}")
    return STYLES[style]
