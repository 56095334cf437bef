"""What a run shows in TensorBoard: its curves, and its hyperparameters in the same run.

=====================  ===========================================================================
train/loss             mean over the epoch's updates of the loss per scored row, noise and all
train/grad_norm        mean over the epoch's updates of the gradient's norm before clipping
train/lr               learning rate
valid/<metric>         validation, without noise
baseline/<metric>      the trivial baseline, a level line
final/<split>/<metric> train, valid and test at the best validation, once, at the end
gates/<name>/mean      with ``diagnose_every``: of a gate, over units, steps and sequences; also its
                       share ``below_0.1`` and ``above_0.9``, and a histogram, ``gates/<name>``
abs_h/…                the same of |h|
gradient/<s>/lag_<k>   log10 of ‖∂loss_T/∂s_t‖, mean over sequences, k = T - t steps back, for the
                       state s (h; c); its histogram over all steps, ``gradient/<s>``
spectral_radius/<b>    of block b of U
=====================  ===========================================================================

The step of every point is the number of updates; the final scores stand one step later.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

Histogram = tuple[Sequence[float], Sequence[float]]
"""Counts, and the edges of their bins, one more."""


class EventLog:
    """The event file of one run."""

    def __init__(self, path: Path, config: Mapping[str, Any], purge_step: int | None) -> None:
        """Open an event file in ``path``.

        Args:
            path: the directory of the run.
            config: the hyperparameters, flat; what is no number, text or truth value is shown as text.
            purge_step: the first step that earlier files of the run may not keep, when it goes on.
        """
        self._writer = SummaryWriter(str(path), purge_step=purge_step, flush_secs=10)
        shown = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in config.items()
        }
        # add_hparams would make a run of its own, and only at the end; its three protos belong in this one
        start, session, self._end = hparams(shown, {"final/valid": 0.0, "final/test": 0.0})
        self._add_proto(start)
        self._add_proto(session)

    def _add_proto(self, summary: object) -> None:
        self._writer._get_file_writer().add_summary(summary)

    def add(self, scalars: Mapping[str, float], step: int, histograms: Mapping[str, Histogram] | None = None) -> None:
        """Add a point to each curve, all in one event: a tenth of the cost of one each."""
        values = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in scalars.items()]
        values += [Summary.Value(tag=tag, histo=_proto(*found)) for tag, found in (histograms or {}).items()]
        self._writer._get_file_writer().add_summary(Summary(value=values), step)

    def end(self, scores: Mapping[str, Mapping[str, float]], metric: str, update: int) -> None:
        """Add the final scores (split -> metric -> value) and mark the run as finished.

        They stand one step after the last ``update``, so that they are purged with it when a run goes on.
        """
        step = update + 1
        self.add({f"final/{split}/{name}": v for split, of in scores.items() for name, v in of.items()}, step)
        self.add({f"final/{split}": scores[split][metric] for split in ("valid", "test")}, step)
        self._add_proto(self._end)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


def write_curves(path: Path, curves: Mapping[str, Sequence[float]]) -> None:
    """Write curves whose steps are 0, 1, 2, … to an event file in ``path``, in place of those that are there.

    Values that are not finite are left out.
    """
    for old in path.glob("events.out.*"):
        old.unlink()
    with SummaryWriter(str(path)) as writer:
        for tag, values in curves.items():
            for step, value in enumerate(values):
                if math.isfinite(value):
                    writer.add_scalar(tag, value, step)


def _proto(counts: Sequence[float], edges: Sequence[float]) -> HistogramProto:
    """A histogram as TensorBoard takes it; sums are those of the bins' middles."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return HistogramProto(
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(n * x for n, x in zip(counts, middles, strict=True)),
        sum_squares=sum(n * x * x for n, x in zip(counts, middles, strict=True)),
        bucket_limit=edges[1:],
        bucket=counts,
    )
