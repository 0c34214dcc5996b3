"""Describes the model and the data of a command for a dry run, from the tokenizer and the first row."""

from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from raml_trl.data.reading import open_data, stream_questions, stream_tasks
from raml_trl.data.records import describe_task
from raml_trl.data.tables import DataTable
from raml_trl.prompts import prompt_messages
from raml_trl.runtime.errors import Problems
from raml_trl.runtime.trackers import Tracker, check_tracker
from raml_trl.sampling.config import SamplingArguments
from raml_trl.sampling.loading import check_chat, load_tokenizer, open_engine
from raml_trl.sampling.lost_characters import lost_characters, shown
from raml_trl.sampling.vllm_engine import check_vllm


def describe_inputs(
    name: str, tokenizer: PreTrainedTokenizerBase | None, table: DataTable, style: str, *, graded: bool = True
) -> dict[str, str]:
    """Return the texts that a dry run prints about the model `name`, the data and their first row, by label.

    Args:
        name: the model.
        tokenizer: its tokenizer; None if a server has it.
        table: the data.
        style: the style of the prompt, a key of `prompts.STYLES`.
        graded: whether the command grades answers to the questions.

    Raises:
        InputError: if the first row cannot be read, or `graded` is true and the grader cannot read its answer.
    """
    model = name if tokenizer is None else f"{name}, tokenizer of {len(tokenizer):,} tokens"
    if graded:
        next(stream_questions(table))  # checks the answer
    task = next(stream_tasks(table))
    row = describe_task(task)
    if tokenizer is not None:
        messages = prompt_messages(task.question.question, style)
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        row += f"; prompt of {len(ids)} tokens"
        if lost := lost_characters(tokenizer, task.question.question, style):
            row += f", without {shown(lost)}, which the tokenizer cannot represent"
    return {"model": model, "data": f"{table.name}, prompt_style {style}", "first row": row}


def preview_sampling(config: SamplingArguments, samples: int, *, tracker: Tracker = "none") -> Iterator[dict[str, str]]:
    """Check the model and the first row of a command that samples, and yield texts that describe its work, by label.

    The command draws `samples` samples per question and reports to the dashboard `tracker`.

    Raises:
        InputErrors: if the model, its server, vLLM, the data or the dashboard cannot be used.
    """
    name, tokenizer = config.model_name_or_path, None
    questions = "every question" if config.num_questions is None else f"each of {config.num_questions:,} questions"
    limit = f"of at most {config.max_completion_length:,} tokens"
    yield {"samples": f"{samples} for {questions}, {limit}, engine {config.engine}, temperature {config.temperature}"}
    problems = Problems()
    with problems.collected():
        check_tracker(tracker)
    with problems.collected():
        if config.engine == "vllm":
            check_vllm()
    with problems.collected():
        table = open_data(config)
    with problems.collected():
        if config.engine == "server":
            open_engine(config, max_attempts=1)
        else:
            pads = config.engine == "transformers"
            tokenizer = check_chat(load_tokenizer(name), config.prompt_style, name, pads=pads)
    problems.check()
    yield describe_inputs(name, tokenizer, table, config.prompt_style)
