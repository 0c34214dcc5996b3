"""Checks questions and trajectories, and writes the valid ones in the format that all other commands read.

    raml-trl prepare_data recipes/tiny/demo/data_sft.yaml

Writes three things to `output_dir`: Parquet shards of questions, with their trajectories if there are any;
`rejects.jsonl`, with each row that was left out and the reason; and `report.md`, with counts and explanations.
"""

import logging
import time
from collections.abc import Callable, Iterator

from raml_trl.data.config import PrepareDataConfig
from raml_trl.data.preparation import first_task, prepare
from raml_trl.data.records import Reject, Task, describe_task
from raml_trl.runtime.cli import run
from raml_trl.runtime.runs import Run

logger = logging.getLogger(__name__)


def main(config: PrepareDataConfig, record: Run) -> None:
    """Prepare the dataset and record how many rows were read, kept and left out.

    `record` is the run in `output_dir`. It gets the numbers as its results.
    """
    started = time.monotonic()
    count_tokens = len if config.tokenizer is None else token_counter(config.tokenizer)
    counts = prepare(config, record.directory, count_tokens)
    record.finish(time.monotonic() - started, counts.to_json())
    logger.info("%s: %s", record.directory, counts.summary())


def preview(config: PrepareDataConfig) -> Iterator[dict[str, str]]:
    """Yield what a dry run prints, as texts by label: the settings, and the outcome for the first row of the input."""
    number = "all questions" if config.num_questions is None else f"at most {config.num_questions:,} questions"
    checks = ("strip_markup", "drop_figures", "drop_duplicates")
    yield {
        "data": f"{config.dataset_name}, split {config.dataset_split}",
        "keep": number,
        "checks": ", ".join(name for name in checks if getattr(config, name)) or "none",
    }
    first = first_task(config)
    row = f"left out: {first.reason}" if isinstance(first, Reject) else describe_task(first)
    if config.tokenizer is not None and isinstance(first, Task):
        row += f"; {token_counter(config.tokenizer)(first.question.question)} tokens"
    yield {"first row": row}


def token_counter(name: str) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text with the tokenizer of the model `name`."""
    from raml_trl.sampling.loading import load_tokenizer  # imports torch, which the command otherwise does not need

    tokenizer = load_tokenizer(name)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


if __name__ == "__main__":
    run(main, PrepareDataConfig, preview=preview)
