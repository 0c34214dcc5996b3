"""Computes TRL's metrics of the loss (entropy, KL, clip ratios) for the micro-batches that TRL would have run.

TRL logs the mean over micro-batches of a mean over the tokens of a micro-batch, so the value depends on which rows
share a micro-batch, and our trainer moves and skips rows. Therefore the log-probabilities and entropies of every row
are kept. A window consists of consecutive micro-batches of a generation that always fall into the same optimizer step.
After its last micro-batch, TRL's own loss function runs again on TRL's micro-batches, with the kept values in place of
the model.

With m = G, the metrics equal those of TRL: rows that are skipped in training also run, without gradient. With m < G, or
if `skip_zero_advantage` is set to true, the metrics are those of the rows that are trained on.

Shapes: W processes; a generation has K micro-batches per process, and a micro-batch has N rows with C completion tokens
each. In a window, each process runs E rows and logs metrics for L rows. Rows are numbered as in `micro_batches`.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from raml_trl.grpo.batching import RowTable, deal_rows, take_micro_batches
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.exchange import exchange_rows
from raml_trl.grpo.images import image_inputs
from raml_trl.grpo.micro_batches import IDLE, deal_in_order
from raml_trl.grpo.row_rules import RowRules
from raml_trl.grpo.rows import Batch, loss_mask

Outputs = tuple[Tensor, Tensor]
"""Log-probabilities and entropies of completion tokens, both `(N, C)`."""
Metrics = MutableMapping[str, list[float]]
"""The values that TRL has gathered since the last log entry, by metric."""
_OF_THE_STEP = ("policy_loss", "entropy_coef", "aux_loss")  # metrics that are kept even if no token is in the loss


@dataclass
class Window:
    """The micro-batches from which one process computes the metrics of a window.

    A window consists of consecutive micro-batches of a generation that always fall into the same optimizer step.

    Attributes:
        logged: the micro-batches for which metrics are logged.
        skipped: micro-batches of rows that are skipped in training and run without gradient, for their metrics only.
        places: `(W, L)`: for each of the W processes, where the L rows of `logged` ran, as numbers from `find_places`.
    """

    logged: list[Batch]
    skipped: list[Batch]
    places: Tensor


class LossMetrics:
    """Keeps the outputs of the model in training, and computes from them the metrics of TRL's micro-batches.

    Attributes:
        rules: whether rows are moved to reduce padding, and whether rows with advantage 0 are skipped.
        windows: the windows of the current generation; empty if the metrics of the micro-batches that run are logged as
            they are.
        replayed: the kept outputs that replace a forward pass while metrics are computed; otherwise None.
    """

    rules: RowRules

    def __init__(self, args: SubsetGRPOConfig, accelerator: Accelerator) -> None:
        self.args = args
        self.accelerator = accelerator
        self.windows: list[Window] = []
        self.replayed: Outputs | None = None
        self._recorded: list[Outputs] | None = None  # None outside `recording`
        self._outputs: list[Outputs] = []  # of the current window
        self._values: dict[str, list[float]] = {}  # taken out of the metrics in the current window

    @property
    def runs_skipped_rows(self) -> bool:
        """Whether rows that are skipped in training run without gradient, so that the metrics equal those of TRL."""
        like_trl = self.args.fraction == 1 and self.args.token_selection == "all"
        return self.rules.skip_zero_advantage and self.args.skip_zero_advantage is None and like_trl

    def plan(
        self,
        batch: Batch,
        table: RowTable,
        ran: Sequence[NDArray[np.int64]],
        dealt: Sequence[Batch],
        trim: Callable[[Batch], Batch],
        *,
        replay: bool,
    ) -> None:
        """Set the windows of a generation: consecutive micro-batches that always fall into the same optimizer step.

        Args:
            batch: the rows of this process, with the column `SELECTED`, which is true for selected rows.
            table: the properties of the rows of all processes.
            ran: the K micro-batches that run in training, each `(W, N)`: the numbers of N rows for each of the W
                processes.
            dealt: the same micro-batches for this process only, with their tensors.
            trim: function that trims the padding of a micro-batch.
            replay: whether the loss can run again for its metrics. If not, there are no windows, and the metrics are
                those of the micro-batches in `dealt`.
        """
        logged = deal_in_order(table.selected, len(ran))
        skipped: list[NDArray[np.int64]] = []
        if self.runs_skipped_rows:
            skipped = deal_rows(table, ~table.live, self.args, self.rules, keep_unselected=False)
        elif self.rules.skip_zero_advantage:
            logged = np.where(table.live.ravel()[logged], logged, IDLE)
        if not replay or all(map(np.array_equal, ran, logged)):
            self.windows, batches = [], list(dealt)
        else:
            self.windows = list(self._windows(batch, ran, logged, skipped, trim))
            batches = [part for window in self.windows for part in window.logged]
        if self.args.fraction < 1 or (logged == IDLE).any():
            _mark_empty(batches, self.accelerator)

    def _windows(
        self,
        batch: Batch,
        ran: Sequence[NDArray[np.int64]],
        logged: NDArray[np.int64],
        skipped: Sequence[NDArray[np.int64]],
        trim: Callable[[Batch], Batch],
    ) -> Iterator[Window]:
        def take(batch: Batch, rows: Sequence[NDArray[np.int64]], trim: Callable[[Batch], Batch]) -> list[Batch]:
            return take_micro_batches(batch, rows, self.accelerator, mask_unselected=False, trim=trim)

        images = image_inputs(batch)  # only the model needs them, which does not run on the micro-batches in `logged`
        text = {name: value for name, value in batch.items() if name not in images}
        size = self.args.bucketing_window
        for start in range(0, len(ran), size):
            part = slice(start, start + size)
            extra = [rows for rows in skipped[part] if (rows != IDLE).any()]
            places = find_places(np.concatenate(logged[part], axis=1), np.concatenate([*ran[part], *extra], axis=1))
            yield Window(
                logged=take(text, list(logged[part]), lambda micro_batch: micro_batch),
                skipped=take(batch, extra, trim) if extra else [],
                places=torch.from_numpy(places),
            )

    @contextmanager
    def of_micro_batch(self, batch: Batch, metrics: Metrics) -> Iterator[None]:
        """Correct the values that TRL's loss adds to `metrics` in the `with` block.

        If the generation has windows (see `Window`), the outputs of the model are kept and the values are removed
        again, because `log` computes the metrics at the end of the window. If it has none, only the values of a
        micro-batch without a token in the loss are changed: they become NaN.
        """
        if not self.windows:
            with _discarded(metrics) if batch.get("empty") else nullcontext():
                yield
            return
        sizes = {name: len(values) for name, values in metrics.items()}
        self._recorded = []
        try:
            yield
            self._outputs += self._recorded
        finally:
            self._recorded = None
        for name, values in metrics.items():
            size = sizes.get(name, 0)
            self._values.setdefault(name, []).extend(values[size:])
            del values[size:]

    def record(self, logps: Tensor, entropies: Tensor | None) -> None:
        """Keep the outputs of a forward pass inside a `with` block of `of_micro_batch`; ignore any other."""
        if self._recorded is not None and entropies is not None:
            self._recorded.append((logps.detach(), entropies.detach()))

    def log(self, step: int, metrics: Metrics, compute_loss: Callable[[Batch], Tensor]) -> None:
        """Add the metrics of a window (see `Window`) to `metrics`, if micro-batch `step` is the last of the window.

        If `compute_loss` adds no value to a metric, the values that `of_micro_batch` removed from it are put back.

        Args:
            step: number of the micro-batch that the run has just completed, counted from 1.
            metrics: the metrics of the trainer.
            compute_loss: function that computes the loss of a micro-batch, and adds metrics.
        """
        size = self.args.bucketing_window
        if not self.windows or step % size:
            return
        window = self.windows[(step - 1) % self.args.steps_per_generation // size]
        for batch in window.skipped:
            with self.of_micro_batch(batch, metrics):
                compute_loss(batch)
        sizes = {name: len(values) for name, values in metrics.items()}
        # An overridden loss may compute log-probabilities in its own way; then there is nothing to replay.
        logged = window.logged if self._outputs else []
        logps, entropies = self._fetch(window) if logged else (torch.empty(0), torch.empty(0))
        start = 0
        for batch in logged:
            num_rows, width = batch["completion_mask"].shape
            rows = slice(start, start + num_rows)
            self.replayed = logps[rows, :width], entropies[rows, :width]
            try:
                with _discarded(metrics) if batch.get("empty") else nullcontext():
                    compute_loss(batch)
            finally:
                self.replayed = None
            start += num_rows
        for name, values in self._values.items():
            if len(metrics[name]) == sizes.get(name, 0):
                metrics[name].extend(values)
        self._outputs, self._values = [], {}

    def state(self) -> list[dict[str, Any]]:
        """Return the windows, to store them in a checkpoint."""
        return [vars(window) for window in self.windows]

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Set the windows from `state`, the result of the method `state` when a checkpoint was saved."""
        self.windows = [
            Window(
                send_to_device(window["logged"], self.accelerator.device),
                send_to_device(window["skipped"], self.accelerator.device),
                window["places"],
            )
            for window in state
        ]

    def _fetch(self, window: Window) -> Outputs:
        """Return the outputs `(L, C)` of the rows in `window.logged`, from the processes on which they ran."""
        here, size = self.accelerator.process_index, sum(len(logps) for logps, _ in self._outputs)
        wanted = [  # a row that did not run is masked, so any outputs will do
            np.where(places == IDLE, process * size, places) for process, places in enumerate(window.places.numpy())
        ]
        width = max(batch["completion_mask"].size(1) for batch in window.logged)
        width = max(width, *(logps.size(1) for logps, _ in self._outputs))
        moved = any((places // size != process).any() for process, places in enumerate(wanted))
        if moved:  # on every process alike
            width = int(self.accelerator.gather(torch.tensor([width], device=self.accelerator.device)).max())
        logps, entropies = (
            torch.cat([pad(part, (0, width - part.size(1))) for part in parts])
            for parts in zip(*self._outputs, strict=True)
        )
        if not moved:
            rows = torch.as_tensor(wanted[here] - here * size, device=logps.device)
            return logps[rows], entropies[rows]
        masks = {"prompt_mask": torch.zeros(size, 1), "completion_mask": torch.zeros(size, width, dtype=torch.bool)}
        batch = exchange_rows({**masks, "logps": logps, "entropies": entropies}, wanted, self.accelerator)
        return batch["logps"], batch["entropies"]


def find_places(rows: NDArray[np.int64], ran: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of `rows` ran, as place numbers `(W, L)`; `IDLE` for a row that did not run.

    W is the number of processes. Row e of process p has the place number p * E + e.

    Args:
        rows: `(W, L)`: the numbers of the L rows that are sought for each process.
        ran: `(W, E)`: the numbers of the E rows that each process runs, in order.
    """
    places = np.full(max(rows.max(), ran.max()) + 2, IDLE)  # the last entry is that of `IDLE`
    places[ran] = np.arange(ran.size).reshape(ran.shape)
    places[-1] = IDLE
    return places[rows]


def _mark_empty(batches: Sequence[Batch], accelerator: Accelerator) -> None:
    """Add to each micro-batch a 0-d tensor `empty`: true if no process has a token of it in the loss."""
    tokens = accelerator.reduce(torch.stack([loss_mask(batch).sum() for batch in batches]))
    for batch, number in zip(batches, tokens.cpu(), strict=True):
        batch["empty"] = number == 0


@contextmanager
def _discarded(metrics: Metrics) -> Iterator[None]:
    """Replace the values appended to `metrics` in the `with` block by NaN, which TRL leaves out of the logged means.

    The entropy and clip ratios that TRL computes for a micro-batch without a token in the loss are meaningless.
    """
    before = {name: len(values) for name, values in metrics.items()}
    yield
    for name, values in metrics.items():
        if name not in _OF_THE_STEP and len(values) > before.get(name, 0):
            values[-1] = float("nan")
