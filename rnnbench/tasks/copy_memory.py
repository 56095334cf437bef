"""Copy memory (Hochreiter & Schmidhuber 1997; in the form of Arjovsky et al. 2016, arXiv:1511.06464, 4.1)."""

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rnnbench.tasks.base import CATEGORICAL, Batch, Loss, Split
from rnnbench.tasks.generated import GeneratedTask, pack_equal

SYMBOLS = 8
TO_COPY = 10
BLANK = SYMBOLS
DELIMITER = SYMBOLS + 1


class CopyMemory(GeneratedTask):
    """Repeat ten symbols after a delay.

    One example of delay T = 5, ``_`` the blank, ``:`` the delimiter::

        input   3 1 4 1 5 2 6 5 3 5 _ _ _ _ : _ _ _ _ _ _ _ _ _ _
        target  _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ 3 1 4 1 5 2 6 5 3 5

    The input is one of 10 classes (8 symbols, blank, delimiter), one-hot; the target one of 9, the delimiter
    never being asked for. A sequence has T + 20 steps, and the loss is the mean cross-entropy over all of
    them. Without memory the best is to know when to guess: 10 ln 8 / (T + 20). ``length`` is the delay T.
    """

    loss: ClassVar[Loss] = CATEGORICAL
    input_size = SYMBOLS + 2
    output_size = SYMBOLS + 1

    @property
    def definition(self) -> dict[str, object]:
        """See `GeneratedTask.definition`."""
        return {"task": "copy_memory", "length": self.length}

    @property
    def steps(self) -> int:
        """The length of a sequence, T + 20."""
        return self.length + 2 * TO_COPY

    def draw(self, generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Classes of the inputs and of the targets, both (size, T + 20), uint8."""
        symbols = generator.integers(0, SYMBOLS, (size, TO_COPY), dtype=np.uint8)
        x = np.full((size, self.steps), BLANK, dtype=np.uint8)
        x[:, :TO_COPY] = symbols
        x[:, TO_COPY + self.length - 1] = DELIMITER
        y = np.full((size, self.steps), BLANK, dtype=np.uint8)
        y[:, -TO_COPY:] = symbols
        return x, y

    def pack(self, sequences: Tensor, targets: Tensor) -> Batch:
        """Every step is read and scored."""
        classes, batch_sizes = pack_equal(sequences)
        inputs = functional.one_hot(classes.long(), self.input_size).float()
        y, _ = pack_equal(targets)
        B = len(sequences)
        return Batch(inputs, batch_sizes, y.long(), sequence=torch.arange(B).repeat(self.steps))

    def baselines(self, split: Split) -> dict[str, dict[str, float]]:
        """Blanks where blanks are due, and a guess for each symbol."""
        return {"no memory": {"xent": TO_COPY * math.log(SYMBOLS) / self.steps}}

    def output_prior(self) -> Tensor:
        """The logarithms of the frequencies of the target's classes."""
        symbol = TO_COPY / self.steps / SYMBOLS
        return torch.tensor([symbol] * SYMBOLS + [1.0 - SYMBOLS * symbol]).log()
