"""Evaluates the model during training: all processes sample answers to questions, and the grades give Pass@k.

A recipe asks for this evaluation with settings such as:

    eval_strategy: steps
    eval_steps: 100
    eval_data: runs/demo/data_test
    metric_for_best_model: eval_pass@1
    load_best_model_at_end: true

The command `evaluate` draws the same samples from a saved checkpoint if its seed and batch size are the same, and its
`questions_per_shard` equals `Evaluation.questions_per_chunk`.
"""

import inspect
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from datasets import Dataset
from numpy.typing import NDArray
from transformers import IntervalStrategy, PreTrainedTokenizerBase, Trainer, TrainingArguments
from trl import GRPOConfig
from trl.models import unwrap_model_for_generation

from raml_trl.data.reading import stream_questions
from raml_trl.data.records import Question
from raml_trl.data.tables import DatasetReference
from raml_trl.evaluation.metrics import summarise
from raml_trl.grading.pool import GradingPool
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import SamplingSettings
from raml_trl.sampling.sharded import draw_samples, shard_seed
from raml_trl.sampling.transformers_engine import TransformersEngine
from raml_trl.training.config import EvaluationArguments

MAX_COMPLETION_LENGTH = 1024
"""The maximum number of tokens of a sample, if no setting gives a limit."""


@dataclass(frozen=True)
class Evaluation:
    """The questions of an evaluation during training, and how to sample and grade answers to them."""

    questions: tuple[Question, ...]
    prompt_style: str
    settings: SamplingSettings
    k: tuple[int, ...]
    batch_size: int
    """Number of samples that a process draws at once."""
    seed: int
    num_graders: int = 2

    @property
    def questions_per_chunk(self) -> int:
        """Number of questions in a chunk, whose samples are drawn with one seed.

        A chunk has as many questions as fill a batch, or one if the samples of one question need several batches.
        """
        return max(1, self.batch_size // self.settings.num_samples)

    @property
    def names(self) -> list[str]:
        """The names of the metrics that `measure` returns."""
        return list(self._metrics(np.zeros((len(self.questions), 4), dtype=np.int64)))

    def measure(self, trainer: Trainer) -> dict[str, float]:
        """Sample from the model that a TRL trainer is training, and return the metrics.

        The metrics are the same on every process, and do not depend on which process samples which questions. The
        state of the global random generators and the training mode of the model do not change.
        """
        accelerator, tokenizer, size = trainer.accelerator, trainer.processing_class, self.questions_per_chunk
        assert isinstance(tokenizer, PreTrainedTokenizerBase)
        chunks = [self.questions[start : start + size] for start in range(0, len(self.questions), size)]
        rounds = -(-len(chunks) // accelerator.num_processes)
        counts = {}
        with (
            unwrap_model_for_generation(trainer.model_wrapped, accelerator, **_unwrapping(trainer)) as model,
            GradingPool(self.num_graders) as pool,
        ):
            training = model.training
            model.eval()
            engine = TransformersEngine(model, tokenizer, self.batch_size)
            # All processes must generate together with a sharded model, so each one must generate equally often. A
            # process without a chunk in the last round samples an earlier chunk again and discards the result.
            for number in range(
                accelerator.process_index, rounds * accelerator.num_processes, accelerator.num_processes
            ):
                chunk, seed = chunks[number % len(chunks)], shard_seed(self.seed, number % len(chunks))
                samples = draw_samples(engine, pool, chunk, self.settings, self.prompt_style, seed=seed)
                rows = [[sample.correct, sample.formatted, sample.finished, sample.num_tokens] for sample in samples]
                if number < len(chunks):
                    counts[number] = np.array(rows).reshape(len(chunk), -1, 4).sum(axis=1).tolist()
            model.train(training)
        all_counts = dict(sorted(gather_object(list(counts.items()))))
        assert list(all_counts) == list(range(len(chunks))), "a chunk is missing"
        return self._metrics(np.concatenate(list(all_counts.values())))

    def _metrics(self, counts: NDArray[np.int64]) -> dict[str, float]:
        """Compute the metrics from `(Q, 4)` counts.

        Each of the Q questions has the numbers of its correct, formatted and finished samples, and of all their tokens.
        """
        n, rng = self.settings.num_samples, np.random.default_rng(self.seed)
        metrics = {}
        for name, value in summarise(counts[:, 0], n, self.k, rng).items():
            metrics[f"eval_{name}"] = value["mean"]
            metrics |= {f"eval_{name}_{end}": value[end] for end in ("low", "high")}
        means = counts[:, 1:].sum(axis=0) / (n * len(counts))
        return metrics | dict(zip(("eval_formatted", "eval_finished", "eval_mean_tokens"), means.tolist(), strict=True))


def _unwrapping(trainer: Trainer) -> dict[str, Any]:
    """Return the options with which TRL unwraps the model for rollouts: ZeRO-3 gathering, gradient checkpointing."""
    # SFTConfig has no `ds3_gather_for_generation`. TRL's default for GRPO is to gather.
    gathered = trainer.args.ds3_gather_for_generation if isinstance(trainer.args, GRPOConfig) else True
    name = "gradient_checkpointing_kwargs"
    supported = name in inspect.signature(unwrap_model_for_generation).parameters  # since TRL 1.16
    checkpointing = {name: trainer.args.gradient_checkpointing_kwargs} if supported else {}
    return {"gather_deepspeed3_params": gathered, **checkpointing}


def read_evaluation(
    options: EvaluationArguments, config: TrainingArguments, max_completion_length: int | None = None
) -> Evaluation | None:
    """Read the questions for evaluation during training. Return None if the recipe asks for no evaluation.

    Args:
        options: the options for the questions and samples.
        config: the settings of the trainer. They decide when to evaluate and give the seed; a process draws
            `per_device_eval_batch_size` samples at once.
        max_completion_length: the token limit of a sample if `options` has no limit.

    Raises:
        InputError: if only one of `eval_data` and `eval_strategy` is set, the questions cannot be read, or
            `metric_for_best_model` is not one of the metrics.
    """
    strategy = IntervalStrategy(config.eval_strategy).value
    if (options.eval_data is None) != (strategy == "no"):
        raise InputError(
            f"eval_strategy is {strategy} and eval_data is {options.eval_data}: set both (for example, eval_strategy: "
            "steps and eval_steps: 50) or neither"
        )
    if options.eval_data is None:
        return None
    try:
        table = DatasetReference.parse(options.eval_data).open()
    except InputError as error:  # it names the setting of the data for training
        raise InputError(f"eval_data {str(error).removeprefix('dataset_name ')}") from error
    length = options.eval_max_completion_length or max_completion_length or MAX_COMPLETION_LENGTH
    evaluation = Evaluation(
        questions=tuple(islice(stream_questions(table), options.eval_num_questions)),
        prompt_style=options.prompt_style,
        settings=SamplingSettings(
            options.eval_num_samples, length, options.eval_temperature, options.eval_top_p, options.eval_top_k
        ),
        k=tuple(options.eval_k),
        batch_size=config.per_device_eval_batch_size,
        seed=config.seed,
    )
    best = config.metric_for_best_model
    if best is not None and f"eval_{best.removeprefix('eval_')}" not in evaluation.names:
        raise InputError(f"metric_for_best_model {best} is not measured: choose one of {', '.join(evaluation.names)}")
    return evaluation


class SampledEvaluation(Trainer):
    """Mixin for TRL trainers: evaluation grades sampled answers instead of computing the loss on a dataset.

    transformers' own settings still decide when to evaluate (`eval_strategy`, `eval_steps`) and how the result is used
    (`metric_for_best_model`, `load_best_model_at_end`).
    """

    def __init__(self, *args: Any, sampled_evaluation: Evaluation | None = None, **kwargs: Any) -> None:
        self.sampled_evaluation = sampled_evaluation
        super().__init__(*args, **kwargs)

    def evaluate(
        self,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        if self.sampled_evaluation is None or eval_dataset is not None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        # RaML: graded samples instead of a loss.
        started = time.monotonic()
        metrics = self.sampled_evaluation.measure(self)
        metrics["eval_runtime"] = time.monotonic() - started
        # RaML: call transformers' `log`; TRL's would add the training metrics gathered since the last log entry.
        Trainer.log(self, metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
