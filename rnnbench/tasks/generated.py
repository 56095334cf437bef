"""Tasks whose sequences are drawn, not loaded: training batches afresh, validation and test once for all."""

import functools
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from rnnbench.errors import check_whole
from rnnbench.seeding import stream
from rnnbench.tasks.base import SPLITS, Batch, Split, Task

EVALUATION_BATCH = 250
"""Sequences in a batch of an evaluation: about where it is fastest. Sums are taken in float64, so it moves no loss."""


class GeneratedTask(Task):
    """A task given by a rule: `draw` makes sequences, `pack` makes a batch of them.

    The validation and test sets come from ``data_seed`` and are the same for every seed of a run. The set
    called "train" is a sample drawn as the training batches are, of the size of the validation set.
    """

    least_length: ClassVar[int] = 1
    """The least ``length`` that makes sense."""

    def __init__(
        self,
        *,
        length: int,
        updates_per_epoch: int,
        valid_size: int,
        test_size: int,
        data_seed: int,
        margin: float,
        solved: float | None,
    ) -> None:
        """Check and keep what all generated tasks have.

        Args:
            length: T, in steps; each task says of what.
            updates_per_epoch: training batches between two evaluations.
            valid_size: sequences of the validation set.
            test_size: sequences of the test set.
            data_seed: of these two sets.
            margin: see `Task`.
            solved: see `Task`.

        Raises:
            UserError: for a value out of range.
        """
        super().__init__(margin, solved)
        check_whole("task.length", length, self.least_length)
        check_whole("task.updates_per_epoch", updates_per_epoch, 1)
        check_whole("task.valid_size", valid_size, 1)
        check_whole("task.test_size", test_size, 1)
        check_whole("task.data_seed", data_seed, 0)
        self.length = length
        self.updates_per_epoch = updates_per_epoch
        self.sizes: dict[Split, int] = {"train": valid_size, "valid": valid_size, "test": test_size}
        self.data_seed = data_seed
        self._sets: dict[Split, tuple[np.ndarray, np.ndarray]] = {}

    @abstractmethod
    def draw(self, generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """``size`` sequences and their targets, in the task's most compact form."""

    @abstractmethod
    def pack(self, sequences: torch.Tensor, targets: torch.Tensor) -> Batch:
        """The batch of what `draw` returned."""

    @property
    @abstractmethod
    def definition(self) -> dict[str, object]:
        """What the rule depends on."""

    def prepare(self, data_dir: Path | None) -> None:
        """Nothing to load: the sets are drawn when they are asked for."""

    def fixed_set(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """The sequences and targets of a split."""
        if split not in self._sets:
            generator = stream(self.data_seed, "data", SPLITS.index(split))
            self._sets[split] = self.draw(generator, self.sizes[split])
        return self._sets[split]

    @functools.cached_property
    def checksum(self) -> str:
        """sha256 of the task's definition and of its validation and test sets."""
        digest = hashlib.sha256(json.dumps(self.definition, sort_keys=True).encode())
        for split in SPLITS[1:]:
            for array in self.fixed_set(split):
                digest.update(array.tobytes())
        return digest.hexdigest()

    def updates_in_epoch(self, batch_size: int) -> int:
        """As the config says, whatever the batch size."""
        return self.updates_per_epoch

    def training_batch(self, seed: int, epoch: int, index: int, batch_size: int) -> Batch:
        """A batch drawn afresh from the stream ``task``."""
        update = epoch * self.updates_per_epoch + index
        sequences, targets = self.draw(stream(seed, "task", update), batch_size)
        return self.pack(torch.from_numpy(sequences), torch.from_numpy(targets))

    def evaluation_batches(self, split: Split) -> Iterator[Batch]:
        """See `Task.evaluation_batches`."""
        sequences, targets = (torch.from_numpy(array) for array in self.fixed_set(split))
        for part in zip(sequences.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True):
            yield self.pack(*part)


def pack_equal(x: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Sequences of one length, (B, T, ...) -> packed rows (T·B, ...) and the number of rows of each step."""
    B, T = x.shape[:2]
    return x.transpose(0, 1).reshape(T * B, *x.shape[2:]), [B] * T
