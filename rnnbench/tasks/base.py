"""What a task is: batches, a loss, its trivial baselines.

Legend: ``B`` sequences in a batch, ``N`` packed rows (see `rnnbench.model`), ``M`` scored rows, ``I`` inputs,
``O`` outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rnnbench.errors import UserError, check_number

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Batch:
    """Some sequences, packed time-major with the longest first."""

    inputs: Tensor
    """(N, I)"""
    batch_sizes: Sequence[int]
    """The number of rows of each step."""
    targets: Tensor
    """(M, O), or (M,) classes."""
    sequence: Tensor
    """(M,): the sequence, 0 … B-1, that each scored row belongs to."""
    scored: Tensor | None = None
    """(M,): the rows that have a target; None for all of them."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """The same batch elsewhere, its numbers (not its classes) as ``dtype``."""
        targets = self.targets.to(device, dtype if self.targets.is_floating_point() else None)
        return replace(
            self,
            inputs=self.inputs.to(device, dtype),
            targets=targets,
            sequence=self.sequence.to(device),
            scored=None if self.scored is None else self.scored.to(device),
        )


@dataclass(frozen=True)
class Loss:
    """A loss of one scored row, the link function that goes with it, and the names of its averages."""

    row: Callable[[Tensor, Tensor], Tensor]
    """(outputs (M, O), targets) -> (M,): nats, or the squared error."""
    link: Callable[[Tensor], Tensor]
    """(M, O) outputs -> predictions."""
    per_step: str
    """The metric that is the mean over all scored rows of a set."""
    per_sequence: str | None = None
    """The metric that is the mean over sequences of each one's own mean, where that is in use."""
    unit: str = "nats per step"


def _bernoulli(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(dim=1)


def _categorical(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(dim=1)


BERNOULLI = Loss(_bernoulli, torch.sigmoid, per_step="nll_step", per_sequence="nll_seq")
CATEGORICAL = Loss(_categorical, lambda outputs: outputs.softmax(dim=-1), per_step="xent")
SQUARED_ERROR = Loss(_squared_error, lambda outputs: outputs, per_step="mse", unit="mean squared error")


class Rolls(Protocol):
    """Sequences of 0/1 frames, one after another: frame t in, frame t + 1 the target."""

    frames: Tensor
    """(frames, I), of 0 and 1."""
    starts: np.ndarray
    """Of each sequence, its first frame."""
    predicted: np.ndarray
    """Of each sequence, the number of its frames that are predicted: all but the first."""


class Task(ABC):
    """Data and a loss. The keyword arguments of the constructor are the keys of its config.

    ``prepare`` is called once, before anything else but the sizes is asked for.
    """

    loss: ClassVar[Loss]
    input_size: int
    output_size: int
    margin: float
    """A run succeeds whose score is at most (1 - margin) times the trivial baseline."""
    solved: float | None
    """The validation loss at which training may end; None for never."""

    def __init__(self, margin: float, solved: float | None) -> None:
        """Check and keep what all tasks have.

        Raises:
            UserError: for a margin outside (0, 1) or a ``solved`` that is not positive.
        """
        check_number("task.margin", margin, above=0)
        if margin >= 1.0:
            raise UserError(f"task.margin={margin}: must be below 1.")
        if solved is not None:
            check_number("task.solved (null for never)", solved, above=0)
        self.margin = margin
        self.solved = solved

    @property
    def metric(self) -> str:
        """The metric that selects: lower is better."""
        return self.loss.per_step

    @abstractmethod
    def prepare(self, data_dir: Path | None) -> None:
        """Load or draw the data."""

    @property
    @abstractmethod
    def checksum(self) -> str:
        """sha256 of the data, and of whatever else defines the task."""

    @abstractmethod
    def updates_in_epoch(self, batch_size: int) -> int:
        """The number of training batches of an epoch."""

    @abstractmethod
    def training_batch(self, seed: int, epoch: int, index: int, batch_size: int) -> Batch:
        """Training batch ``index`` of ``epoch``, the same for every cell of a seed."""

    @abstractmethod
    def evaluation_batches(self, split: Split) -> Iterator[Batch]:
        """All sequences of a split, in batches that suit evaluation."""

    @abstractmethod
    def baselines(self, split: Split) -> dict[str, dict[str, float]]:
        """What needs no network: name -> metric -> value. The first is *the* trivial baseline."""

    @abstractmethod
    def output_prior(self) -> Tensor:
        """The read-out's bias (O,) whose constant prediction is that of the training frequencies."""

    def training_batches(self, seed: int, epoch: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """The training batches of ``epoch`` from number ``start`` on."""
        for index in range(start, self.updates_in_epoch(batch_size)):
            yield self.training_batch(seed, epoch, index, batch_size)

    def succeeds(self, metrics: dict[str, float], split: Split) -> bool:
        """Whether the trivial baseline is beaten by the margin."""
        baseline = next(iter(self.baselines(split).values()))
        return metrics[self.metric] <= (1.0 - self.margin) * baseline[self.metric]


class RollTask(Task):
    """A task whose sequences are 0/1 frames, which the compiled step reads as they are."""

    @abstractmethod
    def rolls_of(self, split: Split) -> Rolls:
        """The sequences of a split."""

    @abstractmethod
    def training_order(self, seed: int, epoch: int, batch_size: int) -> list[np.ndarray]:
        """The sequences of each training batch of ``epoch``."""

    @abstractmethod
    def evaluation_order(self, split: Split) -> list[np.ndarray]:
        """The sequences of each evaluation batch."""
