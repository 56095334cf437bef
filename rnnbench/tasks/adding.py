"""The adding problem (Hochreiter & Schmidhuber 1997; in the form of Le et al. 2015 and Arjovsky et al. 2016)."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rnnbench.errors import check_choice
from rnnbench.tasks.base import SQUARED_ERROR, Batch, Loss, Split
from rnnbench.tasks.generated import GeneratedTask, pack_equal


class Adding(GeneratedTask):
    """Sum the two marked values of a sequence; the answer is asked for at its last step.

    One example of length 8::

        value   0.31 0.62 0.05 0.88 0.47 0.93 0.20 0.74
        marker  0    1    0    0    0    0    1    0
        target                                     0.82

    Values are U[0, 1); of the two markers one lies in each half (Arjovsky's code) or both anywhere (TCN's).
    The loss is the squared error of the last step. Always answering 1, the mean of the sum of two uniform
    numbers, costs its variance: 2 · 1/12 = 1/6.
    """

    loss: ClassVar[Loss] = SQUARED_ERROR
    input_size = 2
    output_size = 1
    least_length = 2

    def __init__(
        self,
        *,
        length: int,
        markers: str,
        updates_per_epoch: int,
        valid_size: int,
        test_size: int,
        data_seed: int,
        margin: float,
        solved: float | None,
    ) -> None:
        """See `GeneratedTask`; ``length`` is the number of steps, ``markers`` "halves" or "anywhere"."""
        super().__init__(
            length=length,
            updates_per_epoch=updates_per_epoch,
            valid_size=valid_size,
            test_size=test_size,
            data_seed=data_seed,
            margin=margin,
            solved=solved,
        )
        check_choice("task.markers", markers, ("halves", "anywhere"))
        self.markers = markers

    @property
    def definition(self) -> dict[str, object]:
        """See `GeneratedTask.definition`."""
        return {"task": "adding", "length": self.length, "markers": self.markers}

    def draw(self, generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (size, T, 2), value and marker, and targets (size, 1), float32."""
        T = self.length
        values = generator.random((size, T), dtype=np.float32)
        if self.markers == "halves":
            first = generator.integers(0, T // 2, size)
            second = generator.integers(T // 2, T, size)
        else:
            first = generator.integers(0, T, size)
            second = (first + generator.integers(1, T, size)) % T
        rows = np.arange(size)
        marker = np.zeros((size, T), dtype=np.float32)
        marker[rows, first] = marker[rows, second] = 1.0
        target = values[rows, first] + values[rows, second]
        return np.stack([values, marker], axis=2), target[:, None]

    def pack(self, sequences: Tensor, targets: Tensor) -> Batch:
        """All steps are read, the last one is scored."""
        inputs, batch_sizes = pack_equal(sequences)
        B = len(sequences)
        last = torch.arange(len(inputs) - B, len(inputs))
        return Batch(inputs, batch_sizes, targets, sequence=torch.arange(B), scored=last)

    def baselines(self, split: Split) -> dict[str, dict[str, float]]:
        """Always answering 1: exactly 1/6 (the 0.1767 of several papers is a slip that was copied on)."""
        return {"always 1": {"mse": 1.0 / 6.0}}

    def output_prior(self) -> Tensor:
        """The mean of the target, 1."""
        return torch.ones(1)
