"""Ends training on SIGTERM or SIGUSR1 after the optimizer step in progress, with a checkpoint of that step."""

import signal
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy

from raml_trl.runtime.locks import DirectoryLock
from raml_trl.runtime.stopping import EXIT_CODES, StopRequest, Terminated

_SIGNALS = sorted(EXIT_CODES)


class StopAfterStep(TrainerCallback):
    """Saves a checkpoint at the end of the optimizer step in which a process was told to stop, and raises `Terminated`.

    The processes of a launch tell each other at the end of every step, so all of them stop after the same step, even if
    only one of them got the signal. With `save_strategy: no`, no checkpoint is saved. This must be the last callback of
    the trainer, because callbacks after it would not see the step that ends training.

    It also ends training, with an InputError, if the output directory was deleted or another process has taken its
    lock. Otherwise, the next checkpoint would create a deleted directory again.

    Args:
        request: the signal that this process has received.
        accelerator: connects the processes.
        lock: the lock on the output directory.
    """

    def __init__(self, request: StopRequest, accelerator: Accelerator, lock: DirectoryLock | None) -> None:
        self.request = request
        self.accelerator = accelerator
        self.lock = lock
        self._agreed: signal.Signals | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self.lock is not None:
            self.lock.check()
        self._agreed = self._agree()
        if self._agreed is None:
            return
        if args.save_strategy == SaveStrategy.NO:
            raise Terminated(self._agreed)
        control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._agreed is not None:
            # The launcher ends the other processes as soon as one has ended, so all must have finished their files.
            self.accelerator.wait_for_everyone()
            checkpoint = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            raise Terminated(self._agreed, saved=str(checkpoint))

    def _agree(self) -> signal.Signals | None:
        """Return the signal that any process has received, the same on all processes, or None."""
        if self.accelerator.num_processes == 1:
            return self.request.number
        received = [float(self.request.number == number) for number in _SIGNALS]
        total: torch.Tensor = self.accelerator.reduce(torch.tensor(received, device=self.accelerator.device))
        return next((number for number, count in zip(_SIGNALS, total.tolist(), strict=True) if count), None)
