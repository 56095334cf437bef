"""A finished run, loaded again and diagnosed at its best weights."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from rnnbench.assemble import build_task, find_class, load
from rnnbench.config import RunConfig
from rnnbench.diagnosis import Diagnosis, Probe
from rnnbench.errors import UserError
from rnnbench.events import write_curves
from rnnbench.files import write_atomically
from rnnbench.record import FINISHED, Record, finite
from rnnbench.tasks.base import Task

SCHEMA_VERSION = 1
"""Of diagnosis.json; to be raised with what is measured, so that old files are made again."""


class Examiner:
    """Diagnoses runs, loading the data of each task once."""

    def __init__(self, data_dir: Path | None = None, force: bool = False) -> None:
        """Keep what all runs have in common.

        Args:
            data_dir: where the music files are; None for where each run had them.
            force: measure again what was measured already.
        """
        self.data_dir = data_dir
        self.force = force
        self._probes: dict[str, Probe] = {}
        torch.set_num_threads(1)

    def __call__(self, path: Path) -> bool:
        """Measure the run in ``path`` and write its diagnosis.json, unless that is of the same weights already.

        Returns:
            Whether it was measured now.

        Raises:
            UserError: if there is no such run, it is not finished, or its files are damaged.
        """
        record = Record(path)
        record.config()
        result = record.result()
        if result is None or result["status"] not in FINISHED:
            state = "running, or was killed" if result is None else result["status"]
            raise UserError(
                f"{path}: is not finished ({state}), and only runs that are {' or '.join(FINISHED)} are diagnosed. The "
                "command that made it goes on with it; `rnnbench status` shows how far it is."
            )
        checkpoint = hashlib.sha256(record.best.read_bytes()).hexdigest() if record.best.is_file() else None
        if not self.force and checkpoint and known(record, checkpoint):
            return False
        model, config = load(path)
        found = self._probe(config)(model)
        origin = {"checkpoint": checkpoint, "best_update": result["best_update"]}
        content = {"schema_version": SCHEMA_VERSION, **origin, **found.as_dict()}
        write_atomically(record.diagnosis_file, json.dumps(finite(content)).encode() + b"\n")
        write_curves(path / "diagnosis", curves(found))
        return True

    def _probe(self, config: RunConfig) -> Probe:
        key = repr(config.task)
        if key not in self._probes:
            task = build_task(find_class(config.task["_target_"], Task, "task"), config.options("task"))
            task.prepare(self.data_dir or (Path(config.data_dir).expanduser() if config.data_dir else None))
            self._probes[key] = Probe(task)
        return self._probes[key]


def known(record: Record, checkpoint: str) -> bool:
    """Whether diagnosis.json is of this version and of the weights whose sha256 is ``checkpoint``."""
    try:
        found: dict[str, Any] = json.loads(record.diagnosis_file.read_text(encoding="utf-8"))
        return (found["schema_version"], found["checkpoint"]) == (SCHEMA_VERSION, checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def curves(found: Diagnosis) -> dict[str, list[float]]:
    """TensorBoard's curves by tag; their step is the lag T - t.

    ``gradient_by_lag/<state>`` is the mean of log10 ‖∂loss_T/∂s_t‖, ``gradient_ratio_by_lag/<state>`` of what is left
    of the norm at lag 0.
    """
    return {
        f"gradient{what}_by_lag/{state}": getattr(curve, name).tolist()
        for state, curve in found.gradient.items()
        for what, name in (("", "log10_mean"), ("_ratio", "log10_ratio"))
    }
