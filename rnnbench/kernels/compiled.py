"""The compiled engine: what the loop of `rnnbench.train` asks for, computed by the kernels.

Legend: ``N`` packed rows, ``M`` scored rows, ``I`` inputs, ``H`` units, ``O`` outputs, ``P`` parameters.
"""

import ctypes
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rnnbench import optim
from rnnbench.cells import CuDNNGRUCell, GRUCell, LSTMCell, TanhCell
from rnnbench.kernels.library import Data, Flat, Library, Protocol, Shape, open_library
from rnnbench.model import Model, count_parameters
from rnnbench.seeding import noise_key
from rnnbench.tasks.base import BERNOULLI, CATEGORICAL, SQUARED_ERROR, Batch, Loss, Rolls, RollTask, Split, Task
from rnnbench.train import DivergedError, Member, Metrics, learning_rate

CELLS: dict[type[nn.Module], int] = {TanhCell: 0, LSTMCell: 1, GRUCell: 2, CuDNNGRUCell: 3}
LOSSES = (BERNOULLI, CATEGORICAL, SQUARED_ERROR)
OPTIMIZERS: dict[type[optim.Optimizer], int] = {optim.RMSProp: 0, optim.LibrnnRMSProp: 1, optim.Adam: 2}
"""In the order of the kinds in `native/`. Exactly these classes: one derived from them computes something else."""

MOST_INPUTS = 1 << 16

OPERATIONS_AT_ONCE = 2e10
"""Multiplications and additions after which a call returns: some tenths of a second, for Ctrl-C, checkpoints and other
members not to wait longer."""


def obstacle(cell: nn.Module, task: Task, device: torch.device) -> str | None:
    """Why the kernels cannot train ``cell`` on ``task``, or None."""
    if device.type != "cpu":
        return f"the kernels are for the CPU, not for {device.type}"
    if type(cell) not in CELLS:
        return f"{type(cell).__qualname__} is not one of the cells of rnnbench"
    if task.loss not in LOSSES or (task.loss is BERNOULLI) != isinstance(task, RollTask):
        return f"{type(task).__qualname__} has a loss or a form of data that they do not know"
    if task.input_size >= MOST_INPUTS:
        return f"{task.input_size} inputs are more than the {MOST_INPUTS - 1} that they can number"
    if any(not p.requires_grad for p in cell.parameters()):
        return f"{type(cell).__qualname__} has parameters that are not trained"
    return None


@dataclass(frozen=True)
class Encoded:
    """Sequences in the form that the kernels read."""

    data: Data
    order: Sequence[np.ndarray]
    """The sequences of each batch."""
    scored: np.ndarray
    """The number of scored rows of each sequence."""


class Compiled:
    """The engine of members with one kind of cell, one size and one task, and their own protocols."""

    name = "compiled"

    def __init__(self, member: Member, task: Task, threads: int = 1, one_by_one: bool = False) -> None:
        """Open the library, or have it compiled, for the dtype of ``member``, which stands for all.

        Args:
            member: one of those to train.
            task: what they train on.
            threads: how many share the tiles (of 8 sequences) of one batch. No result depends on it.
            one_by_one: return after every update.

        Raises:
            NoCompilerError: if there is no library to be had.
        """
        self.threads = threads
        self.dtype = member.theta.dtype
        self.library: Library = open_library(str(self.dtype).removeprefix("torch."))
        self.shape = shape_of(member.model, task)
        self.place = places(member, self.library, self.shape)
        operations = 6.0 * count_parameters(member.model)  # of a row: 2 forward, 4 back
        self.rows_at_once = 1 if one_by_one else int(OPERATIONS_AT_ONCE / operations)
        self._training: Data | None = None
        self._evaluation: tuple[Split, Encoded] | None = None
        self._lock = threading.Lock()

    def advance(self, member: Member, task: Task, most: int) -> Iterator[tuple[float, float]]:
        """See `train.Engine.advance`."""
        progress = member.progress
        if isinstance(task, RollTask):
            data, order, scored = self._rolls_of_epoch(member, task, most)
        else:
            data, order, scored = self._drawn(member, task, most)
        done, losses, norms = self.library.train(
            self.shape,
            protocol_of(member),
            data,
            self._flat(member),
            learning_rate(member),
            progress.update,
            order,
            scored,
            self.threads,
        )
        yield from zip(losses[:done].tolist(), norms[:done].tolist(), strict=True)
        if done < len(order):
            raise DivergedError

    def _rolls_of_epoch(
        self, member: Member, task: RollTask, most: int
    ) -> tuple[Data, Sequence[np.ndarray], np.ndarray]:
        progress = member.progress
        with self._lock:
            if self._training is None:
                self._training = encode_rolls(task.rolls_of("train"))
        batches = task.training_order(member.seed, progress.epoch, member.protocol.batch_size)
        rest = batches[progress.update_in_epoch : progress.update_in_epoch + most]
        lengths = self._training.arrays["length"]
        single = member.protocol.batch_size == 1
        scored = lengths[np.concatenate(rest)] if single else np.array([lengths[batch].sum() for batch in rest])
        count = max(1, int(np.searchsorted(np.cumsum(scored), self.rows_at_once)))
        return self._training, rest[:count], scored[:count]

    def _drawn(self, member: Member, task: Task, most: int) -> tuple[Data, Sequence[np.ndarray], np.ndarray]:
        progress = member.progress
        batches: list[Batch] = []
        rows = 0
        while len(batches) < most and rows < self.rows_at_once:
            index = progress.update_in_epoch + len(batches)
            batches.append(task.training_batch(member.seed, progress.epoch, index, member.protocol.batch_size))
            rows += len(batches[-1].inputs)
        encoded = encode_batches(batches, task.loss, self.dtype)
        return encoded.data, encoded.order, np.array([len(batch.sequence) for batch in batches])

    def evaluate(self, member: Member, task: Task, split: Split) -> Metrics:
        """See `train.Engine.evaluate`."""
        with self._lock:
            if self._evaluation is None or self._evaluation[0] != split:
                self._evaluation = split, self._encode(task, split)
            encoded = self._evaluation[1]
        losses = self.library.evaluate(self.shape, encoded.data, self._flat(member), encoded.order, len(encoded.scored))
        metrics = {task.loss.per_step: float(losses.sum() / encoded.scored.sum())}
        if task.loss.per_sequence is not None:
            metrics[task.loss.per_sequence] = float((losses / encoded.scored).mean())
        return metrics

    def _encode(self, task: Task, split: Split) -> Encoded:
        if not isinstance(task, RollTask):
            return encode_batches(list(task.evaluation_batches(split)), task.loss, self.dtype)
        data = encode_rolls(task.rolls_of(split))
        return Encoded(data, task.evaluation_order(split), data.arrays["length"])

    def _flat(self, member: Member) -> Flat:
        slots = list(member.optimizer.state.values())
        pointers = [tensor.data_ptr() for tensor in (member.theta, *slots)]
        return Flat(member.theta.numel(), self.place.ctypes.data, *pointers)


def shape_of(model: Model, task: Task) -> Shape:
    """The network as the kernels are told of it."""
    cell = model.cell
    assert isinstance(cell, TanhCell | LSTMCell | GRUCell)
    return Shape(
        cell=CELLS[type(cell)],
        loss=LOSSES.index(task.loss),
        inputs=cell.input_size,
        hidden=cell.hidden_size,
        outputs=task.output_size,
        peepholes=isinstance(cell, LSTMCell) and cell.peephole is not None,
    )


def protocol_of(member: Member) -> Protocol:
    """The protocol as the kernels are told of it."""
    protocol, optimizer = member.protocol, member.optimizer
    if isinstance(optimizer, optim.RMSProp):
        constants = [optimizer.decay, optimizer.epsilon]
    elif isinstance(optimizer, optim.LibrnnRMSProp):
        constants = [optimizer.decay, optimizer.momentum, optimizer.floor, optimizer.update_norm]
    else:
        assert isinstance(optimizer, optim.Adam)
        constants = [optimizer.beta1, optimizer.beta2, optimizer.epsilon]
    return Protocol(
        optimizer=OPTIMIZERS[type(optimizer)],
        mean=protocol.reduction == "mean",
        clip=float("inf") if protocol.clip_norm is None else protocol.clip_norm,
        noise=protocol.weight_noise,
        constants=(ctypes.c_double * 4)(*constants),
        key=noise_key(member.seed, "noise"),
    )


def places(member: Member, library: Library, shape: Shape) -> np.ndarray:
    """(P,), int32: where each number of ``member.theta`` lies in the layout of the kernels."""
    o = library.layout(shape)
    H, I, O = shape.hidden, shape.inputs, shape.outputs  # noqa: E741 - the legend's letters
    unit, gates = np.arange(H), np.arange(o.gates)[:, None]
    of_U = np.array(o.u_order[: o.gates])[:, None] * o.gate + unit
    maps = {
        "cell.weight_ih": o.W + (gates * o.gate + unit).reshape(-1, 1) + np.arange(I) * o.J,
        "cell.weight_hh": o.U + of_U.reshape(-1, 1) + unit * o.J,
        "cell.bias": o.b + gates * o.gate + unit,
        "cell.peephole": o.peephole + np.arange(3)[:, None] * o.Hp + unit,
        "readout.weight": o.V + np.arange(O)[:, None] + unit * o.Op,
        "readout.bias": o.c + np.arange(O),
    }
    return np.concatenate([maps[name].reshape(-1) for name in member.parameters]).astype(np.int32)


def encode_rolls(rolls: Rolls) -> Data:
    """0/1 frames as lists of what is on, filled up to multiples of 4 with the number I, and as bit maps."""
    frames = rolls.frames.numpy()
    count, inputs = frames.shape
    frame, note = np.nonzero(frames)
    on = np.bincount(frame, minlength=count)
    room = -(-on // 4) * 4
    first = np.concatenate([[0], np.cumsum(room)]).astype(np.int32)
    notes = np.full(max(1, first[-1]), inputs, dtype=np.uint16)
    notes[first[frame] + np.arange(len(frame)) - np.repeat(np.cumsum(on) - on, on)] = note
    bits = np.zeros((count, inputs // 8 + 9), dtype=np.uint8)  # a vector may read beyond the last input
    packed = np.packbits(frames, axis=1, bitorder="little")
    bits[:, : packed.shape[1]] = packed
    return Data(
        first=first,
        notes=notes,
        bits=bits,
        bit_bytes=bits.shape[1],
        start=np.ascontiguousarray(rolls.starts, dtype=np.int64),
        length=np.ascontiguousarray(rolls.predicted, dtype=np.int32),
    )


def encode_batches(batches: Sequence[Batch], loss: Loss, dtype: torch.dtype) -> Encoded:
    """Packed batches, one after another."""
    lengths, scored, target_rows, order = [], [], [], []
    sequences, targets = 0, 0
    for batch in batches:
        sizes = np.asarray(batch.batch_sizes)
        B, rows = int(sizes[0]), np.full(len(batch.inputs), -1, dtype=np.int32)
        lengths.append((sizes[:, None] > np.arange(B)).sum(axis=0) if sizes[-1] < B else np.full(B, len(sizes)))
        rows[slice(None) if batch.scored is None else batch.scored.numpy()] = targets + np.arange(len(batch.sequence))
        target_rows.append(rows)
        scored.append(np.bincount(batch.sequence.numpy(), minlength=B))
        order.append(np.arange(sequences, sequences + B, dtype=np.int32))
        sequences, targets = sequences + B, targets + len(batch.sequence)
    inputs = torch.cat([batch.inputs for batch in batches]).to(dtype)
    answers = torch.cat([batch.targets for batch in batches])
    data = Data(
        inputs=inputs.numpy(),
        target_row=np.concatenate(target_rows),
        length=np.concatenate(lengths).astype(np.int32),
        **({"classes": answers.numpy()} if loss is CATEGORICAL else {"targets": answers.to(dtype).numpy()}),
    )
    return Encoded(data, order, np.concatenate(scored))
