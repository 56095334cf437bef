"""What finished runs tell of one that is to come: how long it may take, how large it is."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnnbench.config import RunConfig, identity
from rnnbench.errors import UserError
from rnnbench.record import Record
from rnnbench.state import runs_of

DECIDE_SPEED = ("train.batch_size", "train.dtype", "train.eval_every", "train.reduction")
"""Of the protocol; besides, all of the cell and of the task does."""


class Past:
    """The finished runs of the same cell and task."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._speeds: dict[Path, list[tuple[dict[str, Any], float]]] = {}
        self._parameters: dict[str, str] = {}

    def seconds_left(self, config: RunConfig, directory: Path, epochs_done: int) -> float | None:
        """Training time on one core until a run has used up its budget of epochs.

        Args:
            config: of the run.
            directory: of the runs of its cell on its task.
            epochs_done: that need not be trained again.

        Returns:
            Seconds, by the median of the runs that are like it; None if there are none.
        """
        if directory not in self._speeds:
            self._speeds[directory] = list(_speeds(directory))
        like = _like(config)
        found = sorted(seconds for other, seconds in self._speeds[directory] if other == like)
        return found[len(found) // 2] * (config.train.max_epochs - epochs_done) if found else None

    def parameters(self, config: RunConfig) -> str:
        """The number of recurrent parameters, where torch is there to count them."""
        key = repr(_like(config))
        if key not in self._parameters:
            try:
                from rnnbench.assemble import prepare
                from rnnbench.model import count_parameters

                self._parameters[key] = f"{count_parameters(prepare(copy.deepcopy(config)).cell):,}"
            except (ImportError, UserError):
                self._parameters[key] = "?"
        return self._parameters[key]


def _speeds(directory: Path) -> Iterator[tuple[dict[str, Any], float]]:
    """For each finished run of ``directory`` what decides its speed, and its seconds an epoch."""
    for path in runs_of(directory):
        try:
            result = Record(path).result()
            if result and result["status"] == "done" and result["epochs"]:
                yield _like(Record(path).config()), result["seconds"] / result["epochs"]
        except (UserError, KeyError, TypeError):
            continue


def _like(config: RunConfig) -> dict[str, Any]:
    found = identity(config)
    return {k: v for k, v in found.items() if k.startswith(("cell.", "task.")) or k in DECIDE_SPEED}
