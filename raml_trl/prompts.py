"""Prompt styles: how a model is asked a question, and which layout the completion must have.

A style has three parts: an instruction, the position of the instruction (a system turn, or after the question in the
user turn), and a pattern. A completion is formatted if the pattern matches all of it. To add a style, add an entry to
`STYLES`.
"""

import re
from dataclasses import dataclass
from typing import Literal

from raml_trl.runtime.errors import InputError

# Pattern of \boxed{...} without a line break inside. Whether the answer in the box is correct is up to the grader. The
# box ends at the last brace of its line. The group is atomic: no earlier brace can match if the last one does not.
_BOX = r"\\boxed\{(?>[^\n]+\})"


@dataclass(frozen=True)
class Style:
    """How a model is asked a question, and the layout that the completion must have.

    `instruction` and its `position` make the prompt. The regular expression `layout` must match the whole completion;
    white space around the completion is removed first. To match long texts fast, each repetition in `layout`, up to the
    boxed answer, must be followed by a fixed text that the repeated part cannot match, so that there is only one way to
    match.
    """

    instruction: str
    position: Literal["system", "after"]
    layout: re.Pattern[str]
    template: str
    """A completion in this layout, with the placeholders TRAJECTORY and ANSWER, which `lay_out` replaces."""

    @property
    def stub(self) -> str:
        """The text that introduces the answer: it stands between a trajectory, or a part of one, and the answer."""
        return self.template.partition("TRAJECTORY")[2].partition("ANSWER")[0]


STYLES: dict[str, Style] = {
    # The question alone: the vocabulary of the built-in arithmetic questions has no words for an instruction.
    "bare": Style(
        "",
        "after",
        re.compile(rf"<think>(?:(?!</think>).)*</think>\s*{_BOX}", re.DOTALL),
        "<think>TRAJECTORY</think>\\boxed{ANSWER}",
    ),
    # The paper's prompt for the teacher with short trajectories and for the paper's analyses (C.2). Any text with a box
    # counts as formatted.
    "boxed": Style(
        "\n\nReason step by step and write your final answer inside \\boxed{}.",
        "after",
        re.compile(rf"(?:(?!\\boxed).)*{_BOX}.*", re.DOTALL),
        "TRAJECTORY\n\nThe answer is \\boxed{ANSWER}",
    ),
    # The paper's GRPO prompt (C.3): thinking, then a conclusion that ends with the boxed answer.
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
    # The paper's evaluation prompt (C.3): the same conclusion, without any mention of a thinking block.
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
    # The paper's prompt for SFT on the teacher with long trajectories (C.2): thinking, then the answer, each in tags.
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
    # Two forms of an empty thinking block: the form that Qwen3 writes, and the form without white space inside.
    "empty": "<think>\n\n</think>\n\n",
    "closed": "<think></think>",
    # Thinking that goes straight to the answer. It suits models such as QwQ, which always open a thinking block.
    "phrase": "<think>\nI have thought about this long enough: the answer is",
}
"""Texts, by name, that make a model answer without thinking if its completion starts with them.

Which text works depends on the family of the model.
"""


SUMMARY = (
    "Above are a problem and the notes of somebody who worked on it. Write the notes anew and much shorter: keep, in "
    "their order, the steps and intermediate results without which the solution would not be found, and nothing else. "
    "Do not write down the final answer, in any form: stop before the step that yields it."
)
"""The instruction that asks for a summary of a trajectory. The summary must not reveal the answer."""


def summary_messages(question: str, thinking: str) -> list[dict[str, str]]:
    """Return the chat messages that ask for a summary of `thinking`, the reasoning about `question`."""
    return [{"role": "user", "content": f"Problem:\n{question}\n\nNotes:\n{thinking}\n\n{SUMMARY}"}]


def prompt_messages(question: str, style: str) -> list[dict[str, str]]:
    """Return the chat messages that ask the model `question`, ready for a chat template.

    Raises:
        InputError: if `style` is not a key of `STYLES`.
    """
    chosen = find_style(style)
    if chosen.position == "system":
        return [{"role": "system", "content": chosen.instruction}, {"role": "user", "content": question}]
    return [{"role": "user", "content": question + chosen.instruction}]


def lay_out(trajectory: str, answer: str, style: str) -> str:
    """Return a completion in the layout of `style`, with the reasoning `trajectory` and the final answer `answer`.

    Raises:
        InputError: if `style` is not a key of `STYLES`.
    """
    parts = {"TRAJECTORY": trajectory.strip(), "ANSWER": answer}
    return re.sub("|".join(parts), lambda match: parts[match.group()], find_style(style).template)


def with_opening(text: str) -> str:
    """Return the completion `text`, with `<think>` prepended if it closes a thinking block that it does not open.

    Some chat templates end the prompt with `<think>`, so the completion starts inside the block.
    """
    thinking, end, _ = text.partition("</think>")
    return f"<think>\n{text}" if end and "<think>" not in thinking else text


def find_style(style: str) -> Style:
    """Return the entry of `STYLES` named `style`.

    Raises:
        InputError: if there is no such entry.
    """
    if style not in STYLES:
        raise InputError(f"prompt_style {style!r} is unknown: choose one of {', '.join(STYLES)}")
    return STYLES[style]
