"""What a run shows in TensorBoard: its curves, and its hyperparameters in the same run.

=====================  ===========================================================================
train/loss             mean over the epoch's updates of the loss per scored row, noise and all
train/grad_norm        mean over the epoch's updates of the gradient's norm before clipping
train/lr               learning rate
valid/<metric>         validation, without noise
baseline/<metric>      the trivial baseline, a level line
final/<split>/<metric> train, valid and test at the best validation, once, at the end
=====================  ===========================================================================

The step of every point is the number of updates; the final scores stand one step later.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams


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

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Add a point to each curve, all in one event: a tenth of the cost of one each."""
        values = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in scalars.items()]
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
