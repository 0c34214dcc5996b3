"""Evaluation of the model while it is trained: Pass@k of samples drawn as `evaluate` draws them, on every process.

    eval_strategy: steps
    eval_steps: 100
    eval_data: runs/demo/data_test
    metric_for_best_model: eval_pass@1
    load_best_model_at_end: true

A checkpoint evaluated afterwards has the same samples: `evaluate` with the same seed and batch size, and with
`Evaluation.questions_per_chunk` for its `questions_per_shard`.
"""

import inspect
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from numpy.typing import NDArray
from transformers import IntervalStrategy, Trainer, TrainingArguments
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
"""Tokens of a sample, where nothing is said of it."""


@dataclass(frozen=True)
class Evaluation:
    """What to draw samples of during training, and how; `batch_size` samples at once on each process."""

    questions: tuple[Question, ...]
    prompt_style: str
    settings: SamplingSettings
    k: tuple[int, ...]
    batch_size: int
    seed: int
    num_graders: int = 2

    @property
    def questions_per_chunk(self) -> int:
        """Questions whose samples are drawn from one seed: one batch, or one question where that takes several."""
        return max(1, self.batch_size // self.settings.num_samples)

    @property
    def names(self) -> list[str]:
        """What is measured."""
        return list(self._metrics(np.zeros((len(self.questions), 4), dtype=np.int64)))

    def measure(self, trainer: Any) -> dict[str, float]:
        """Sample from the model that `trainer`, one of TRL's, is training; the same numbers on every process.

        Which process draws the samples of a chunk of questions does not matter for what they are. The global
        generators, and whether the model is in training mode, are left as they were.
        """
        process, size = trainer.accelerator, self.questions_per_chunk
        chunks = [self.questions[start : start + size] for start in range(0, len(self.questions), size)]
        rounds = -(-len(chunks) // process.num_processes)
        counts = {}
        with (
            unwrap_model_for_generation(trainer.model_wrapped, process, **_unwrapping(trainer)) as model,
            GradingPool(self.num_graders) as pool,
        ):
            training = model.training
            model.eval()
            engine = TransformersEngine(model, trainer.processing_class, self.batch_size)
            # Where a model is sharded, generating is collective. So every process does so equally often: one that has
            # no chunk left draws samples that do not count.
            for number in range(process.process_index, rounds * process.num_processes, process.num_processes):
                chunk, seed = chunks[number % len(chunks)], shard_seed(self.seed, number % len(chunks))
                samples = draw_samples(engine, pool, chunk, self.settings, self.prompt_style, seed=seed)
                bits = [[one.correct, one.formatted, one.finished, one.num_tokens] for one in samples]
                if number < len(chunks):
                    counts[number] = np.array(bits).reshape(len(chunk), -1, 4).sum(axis=1).tolist()
            model.train(training)
        everywhere = dict(sorted(gather_object(list(counts.items()))))
        assert list(everywhere) == list(range(len(chunks))), "a chunk was left out"
        return self._metrics(np.concatenate(list(everywhere.values())))

    def _metrics(self, counts: NDArray[np.int64]) -> dict[str, float]:
        """From the correct, formatted and finished samples of each question, and their tokens: `(Q, 4)`."""
        n, rng = self.settings.num_samples, np.random.default_rng(self.seed)
        metrics = {}
        for name, value in summarise(counts[:, 0], n, self.k, rng).items():
            metrics[f"eval_{name}"] = value["mean"]
            metrics |= {f"eval_{name}_{end}": value[end] for end in ("low", "high")}
        means = counts[:, 1:].sum(axis=0) / (n * len(counts))
        return metrics | dict(zip(("eval_formatted", "eval_finished", "eval_mean_tokens"), means.tolist(), strict=True))


def _unwrapping(trainer: Any) -> dict[str, Any]:
    """As TRL does for rollouts: whether ZeRO-3 gathers the parameters, and gradient checkpointing on again after."""
    # SFT, which samples nothing else, has no such field: there they are gathered, as by default.
    gathered = trainer.args.ds3_gather_for_generation if isinstance(trainer.args, GRPOConfig) else True
    name = "gradient_checkpointing_kwargs"
    asked = name in inspect.signature(unwrap_model_for_generation).parameters  # since TRL 1.16
    checkpointing = {name: trainer.args.gradient_checkpointing_kwargs} if asked else {}
    return {"gather_deepspeed3_params": gathered, **checkpointing}


def read_evaluation(
    data: EvaluationArguments, config: TrainingArguments, max_completion_length: int | None = None
) -> Evaluation | None:
    """What the recipe says of evaluation, with the questions read; None if there is to be none.

    Args:
        data: which questions and samples.
        config: how often, the seed, and `per_device_eval_batch_size`: samples that a process draws at once.
        max_completion_length: where `data` says nothing of it.

    Raises:
        InputError: if there are no questions to evaluate on or nothing asks for it, they cannot be read, or
            `metric_for_best_model` is not what is measured.
    """
    strategy = IntervalStrategy(config.eval_strategy).value
    if (data.eval_data is None) != (strategy == "no"):
        raise InputError(f"eval_strategy is {strategy} and eval_data is {data.eval_data}: each needs the other")
    if data.eval_data is None:
        return None
    table = DatasetReference.parse(data.eval_data).open()
    length = data.eval_max_completion_length or max_completion_length or MAX_COMPLETION_LENGTH
    evaluation = Evaluation(
        questions=tuple(islice(stream_questions(table), data.eval_num_questions)),
        prompt_style=data.prompt_style,
        settings=SamplingSettings(
            data.eval_num_samples, length, data.eval_temperature, data.eval_top_p, data.eval_top_k
        ),
        k=tuple(data.eval_k),
        batch_size=config.per_device_eval_batch_size,
        seed=config.seed,
    )
    best = config.metric_for_best_model
    if best is not None and f"eval_{best.removeprefix('eval_')}" not in evaluation.names:
        raise InputError(f"metric_for_best_model {best} is none of what is measured: {', '.join(evaluation.names)}")
    return evaluation


class SampledEvaluation(Trainer):
    """For a trainer of TRL's: evaluates by `sampled_evaluation`, if it has one, instead of by the loss on a data set.

    transformers' own `eval_strategy`, `eval_steps`, `metric_for_best_model` and `load_best_model_at_end` say when, and
    what becomes of it.
    """

    def __init__(self, *args: Any, sampled_evaluation: Evaluation | None = None, **named: Any) -> None:
        self.sampled_evaluation = sampled_evaluation
        super().__init__(*args, **named)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **named: Any) -> dict[str, float]:
        if self.sampled_evaluation is None or eval_dataset is not None:
            return super().evaluate(eval_dataset, *args, **named)
        # RaML: samples, graded, instead of a loss.
        started = time.monotonic()
        metrics = self.sampled_evaluation.measure(self)
        metrics["eval_runtime"] = time.monotonic() - started
        # RaML: not TRL's `log`, which would add what it has gathered of training since it was last called.
        Trainer.log(self, metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
