"""Polyphonic music: the notes of the next frame, given the frames so far."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rnnbench.errors import check_choice, check_whole
from rnnbench.seeding import stream
from rnnbench.tasks import store
from rnnbench.tasks.base import BERNOULLI, SPLITS, Batch, Loss, RollTask, Split

EVALUATION_BATCH = 64
"""Sequences of similar length in a batch of an evaluation; packed rows make this free of any effect on a loss."""


class Rolls:
    """The piano rolls of one split, one after another."""

    def __init__(self, sequences: store.Sequences) -> None:
        """Take sequences (T, 88); those of one frame predict nothing and are left out."""
        kept = [s for s in sequences if len(s) > 1]
        self.sequences = kept
        self.frames = torch.from_numpy(np.concatenate(kept))
        self.predicted = np.array([len(s) - 1 for s in kept])
        """The number of predicted frames of each sequence."""
        self.starts = np.concatenate([[0], np.cumsum(self.predicted + 1)[:-1]])

    def batch(self, chosen: np.ndarray) -> Batch:
        """The ``chosen`` sequences (indices), packed: frame t in, frame t + 1 the target."""
        longest_first = chosen[np.argsort(-self.predicted[chosen], kind="stable")]
        lengths = self.predicted[longest_first]
        # lengths fall, so the sequences that reach step t are the first batch_sizes[t]
        batch_sizes = np.searchsorted(-lengths, -np.arange(lengths[0]), side="left")
        step = np.repeat(np.arange(lengths[0]), batch_sizes)
        sequence = np.arange(len(step)) - np.repeat(np.cumsum(batch_sizes) - batch_sizes, batch_sizes)
        rows = torch.from_numpy(self.starts[longest_first][sequence] + step)
        return Batch(
            inputs=self.frames[rows].float(),
            batch_sizes=batch_sizes.tolist(),
            targets=self.frames[rows + 1].float(),
            sequence=torch.from_numpy(sequence),
        )


class Music(RollTask):
    """Predict frame t + 1 of a piano roll from the frames up to t.

    One example, five of the 88 notes over six frames, ``#`` a note that is on::

        inputs   # # . . #      targets  # . . # #
                 . . # # .               . # # . .
                 # # # . .               # # . . #
                 . . . . #               . . . # #
                 . . # . .               . # . . .
          frame  0 1 2 3 4               1 2 3 4 5

    The first frame is never predicted (the authors' code). The loss of a frame is the sum over the 88 notes
    of the Bernoulli negative log-likelihood, in nats. The trivial baseline predicts each note by its training
    frequency, add-one smoothed.
    """

    loss: ClassVar[Loss] = BERNOULLI
    input_size = store.NOTES
    output_size = store.NOTES

    def __init__(self, data: str, pool: int, margin: float, solved: float | None) -> None:
        """Take the config.

        Args:
            data: the name of the data set.
            pool: training sequences are shuffled, cut into pools of ``pool`` batches, and sorted by length
                within a pool, so that those of a batch end at about the same time. 1 leaves the order as it
                was shuffled.
            margin: see `Task`.
            solved: see `Task`.

        Raises:
            UserError: for an unknown data set or a pool below 1.
        """
        super().__init__(margin, solved)
        check_choice("task.data", data, store.DATA_SETS)
        check_whole("task.pool", pool, 1)
        self.data_set = store.DATA_SETS[data]
        self.pool = pool
        self._baselines: dict[Split, dict[str, dict[str, float]]] = {}

    def prepare(self, data_dir: Path | None) -> None:
        """Load the verified file from ``data_dir``, or from the cache, fetched if need be."""
        loaded = store.load(self.data_set, data_dir)
        self.rolls: dict[Split, Rolls] = {split: Rolls(loaded[split]) for split in SPLITS}

    @property
    def checksum(self) -> str:
        """sha256 of the data set's file."""
        return self.data_set.sha256

    def updates_in_epoch(self, batch_size: int) -> int:
        """One for every ``batch_size`` training sequences, the last batch being what is left over."""
        return -(-len(self.rolls["train"].sequences) // batch_size)

    def training_batch(self, seed: int, epoch: int, index: int, batch_size: int) -> Batch:
        """Batch ``index`` of the order that the stream ``order`` gives to the epoch."""
        return self.rolls["train"].batch(self.training_order(seed, epoch, batch_size)[index])

    def rolls_of(self, split: Split) -> Rolls:
        """See `RollTask.rolls_of`."""
        return self.rolls[split]

    @functools.lru_cache(maxsize=64)  # noqa: B019 - a task lives as long as its run; members may be at other epochs
    def training_order(self, seed: int, epoch: int, batch_size: int) -> list[np.ndarray]:
        """See `RollTask.training_order`."""
        generator = stream(seed, "order", epoch)
        predicted = self.rolls["train"].predicted
        shuffled = generator.permutation(len(predicted))
        if self.pool == 1 or batch_size == 1:
            return _cut(shuffled, batch_size)
        batches = [
            batch
            for pool in _cut(shuffled, self.pool * batch_size)
            for batch in _cut(pool[np.argsort(-predicted[pool], kind="stable")], batch_size)
        ]
        return [batches[i] for i in generator.permutation(len(batches))]

    def evaluation_batches(self, split: Split) -> Iterator[Batch]:
        """See `Task.evaluation_batches`."""
        for chosen in self.evaluation_order(split):
            yield self.rolls[split].batch(chosen)

    def evaluation_order(self, split: Split) -> list[np.ndarray]:
        """See `RollTask.evaluation_order`."""
        return _cut(np.argsort(-self.rolls[split].predicted, kind="stable"), EVALUATION_BATCH)

    @functools.cached_property
    def frequencies(self) -> np.ndarray:
        """(88,): how often each note is on in train, add-one smoothed: (k + 1) / (n + 2)."""
        frames = self.rolls["train"].frames.numpy()
        frequencies: np.ndarray = (frames.sum(axis=0, dtype=np.int64) + 1) / (len(frames) + 2)
        return frequencies

    @functools.cached_property
    def transitions(self) -> np.ndarray:
        """(2, 88): p(on | off before) and p(on | on before) of each note, from train.

        Each is (n₁₁ + q) / (n₁ + 1): shrunk with weight 1 towards q, the same rate pooled over all notes.
        """
        before = np.concatenate([s[:-1] for s in self.rolls["train"].sequences])
        after = np.concatenate([s[1:] for s in self.rolls["train"].sequences])
        rates = []
        for value in (0, 1):
            seen = (before == value).sum(axis=0)
            on = ((before == value) & (after == 1)).sum(axis=0)
            rates.append((on + on.sum() / seen.sum()) / (seen + 1))
        return np.stack(rates)

    def baselines(self, split: Split) -> dict[str, dict[str, float]]:
        """The marginal frequencies of the notes, and for each the rate given its last frame."""
        if split not in self._baselines:
            p_off, p_on = self.transitions
            self._baselines[split] = {
                "marginal frequencies": self._score(split, lambda _: self.frequencies),
                "repeat previous": self._score(split, lambda before: np.where(before == 1, p_on, p_off)),
            }
        return self._baselines[split]

    def _score(self, split: Split, predict: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        nll = []
        for sequence in self.rolls[split].sequences:
            p = predict(sequence[:-1])
            nll.append(-np.log(np.where(sequence[1:] == 1, p, 1 - p)).sum(axis=1))
        return {
            "nll_step": float(np.concatenate(nll).mean()),
            "nll_seq": float(np.mean([n.mean() for n in nll])),
        }

    def output_prior(self) -> Tensor:
        """The log-odds of the training frequencies."""
        return torch.from_numpy(np.log(self.frequencies / (1 - self.frequencies))).float()


def _cut(indices: np.ndarray, size: int) -> list[np.ndarray]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
