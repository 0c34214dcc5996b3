"""Exchanges rows of buffered rollouts between processes.

Shapes: every process holds R rows, which are numbered over all processes: row r is on process r // R.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.padding import join_batches
from raml_trl.grpo.rows import Batch, is_column, take_rows


def exchange_rows(batch: Batch, wanted: Sequence[NDArray[np.int64]], accelerator: Accelerator) -> Batch:
    """Return the rows that this process wants, in the order it wants them, from the processes that hold them.

    A process receives only the rows that it wants, so no process ever holds the rows of all processes.

    Args:
        batch: the batch of this process, with pixels as `images.split_pixels` returns them.
        wanted: for each process the rows that it wants, numbered over all processes. Every process passes the same
            list.
        accelerator: the trainer's.

    Raises:
        InputError: if a column differs between processes so that its rows cannot be joined.
    """
    here, num_rows = accelerator.process_index, len(batch["prompt_mask"])
    columns = {name: value for name, value in batch.items() if is_column(value)}
    owners = [rows // num_rows for rows in wanted]
    parcels = [
        take_rows(columns, rows[owner == here] - here * num_rows) for rows, owner in zip(wanted, owners, strict=True)
    ]
    received = join_batches([parcel for parcel in _send(parcels, accelerator) if len(parcel["prompt_mask"])])
    order = np.argsort(np.argsort(owners[here], kind="stable"))  # rows arrive ordered by their sender
    return batch | take_rows(received, order)


def _send(parcels: list[Batch], accelerator: Accelerator) -> list[Batch]:
    """Send `parcels[i]` to process i, in one all-to-all operation; return the received parcels, ordered by sender."""
    here, device = accelerator.process_index, accelerator.device
    packed = [b"" if process == here else _pack(parcel) for process, parcel in enumerate(parcels)]
    outgoing = torch.from_numpy(np.frombuffer(b"".join(packed), dtype=np.uint8).copy()).to(device)
    sizes = torch.tensor([len(parcel) for parcel in packed], device=device)
    incoming_sizes = torch.empty_like(sizes)
    torch.distributed.all_to_all_single(incoming_sizes, sizes)
    incoming = outgoing.new_empty(int(incoming_sizes.sum()))
    torch.distributed.all_to_all_single(
        incoming, outgoing, output_split_sizes=incoming_sizes.tolist(), input_split_sizes=sizes.tolist()
    )
    pieces = incoming.cpu().split(incoming_sizes.tolist())
    return [parcels[here] if process == here else _unpack(piece, device) for process, piece in enumerate(pieces)]


def _pack(parcel: Batch) -> bytes:
    """Serialise a parcel.

    Tensors in lists may be views, which are saved with all the memory that they share. So they are copied first.
    """
    compact = {
        name: [entry.clone() if isinstance(entry, Tensor) else entry for entry in value]
        if isinstance(value, list)
        else value
        for name, value in parcel.items()
    }
    buffer = io.BytesIO()
    torch.save(compact, buffer)
    return buffer.getvalue()


def _unpack(piece: Tensor, device: torch.device) -> Batch:
    """Reverse `_pack`: tensors that were on an accelerator are placed on `device`, and others stay in main memory."""

    def place(storage: Any, location: str) -> Any:
        return storage if location == "cpu" else storage.to(device=device)

    parcel: Batch = torch.load(io.BytesIO(piece.numpy().tobytes()), map_location=place, weights_only=False)
    return parcel
