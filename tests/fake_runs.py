"""Runs that were never trained, with everything that analysis reads: scores, seconds, curves."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnbench.config import RunConfig
from tests.test_tables import composed, record_run

MACHINE = {"device": "cpu", "device_name": "a processor", "threads": 1, "kernel": "compiled", "dirty": False}


def write_curve(
    root: Path,
    values: Sequence[float],
    *overrides: str,
    every: int = 100,
    seconds: float = 0.01,
    population: int = 1,
    success: bool = True,
    status: str = "done",
    test: float | None = None,
    **more: Any,
) -> Path:
    """A run whose validation scores, after 0, 1, 2, … epochs, were ``values``; its training loss a tenth lower.

    Args:
        root: where the runs are.
        values: an evaluation each; the lowest is the score of the run.
        overrides: of its config.
        every: updates an epoch.
        seconds: for an update.
        population: how many trained together.
        success: on test.
        status: how it ended.
        test: its score there; 0.2 above the best on validation by default.
        more: instead of what the result has.
    """
    best = min(values)
    path = record_run(root, config_of(*overrides), best, best + 0.2 if test is None else test, status)
    result = json.loads((path / "result.json").read_text())
    result["test"]["success"] = success
    if result["metric"] == "mse":
        result["baselines"] = {split: {"trivial": {"mse": 1 / 6}} for split in result["baselines"]}
    updates = every * (len(values) - 1)
    provenance = {"updates": updates, "epochs": len(values) - 1, "seconds": seconds * updates}
    shared = {"population": {"size": population, "members": []}}
    (path / "result.json").write_text(json.dumps({**result, **MACHINE, **provenance, **shared, **more}))
    lines = [json.dumps(_row(i, value, result["metric"], every, seconds)) for i, value in enumerate(values)]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return path


def config_of(*overrides: str) -> RunConfig:
    """A composed config; what differs most often is put in afterwards, for composing takes a tenth of a second."""
    late = dict(o.split("=") for o in overrides if o.startswith(("seed=", "train.lr=", "task.length=")))
    config = copy.deepcopy(composed(*(o for o in overrides if o.split("=")[0] not in late)))
    config.seed = int(late.get("seed", config.seed))
    config.train.lr = float(late.get("train.lr", config.train.lr))
    if "task.length" in late:
        config.task["length"] = int(late["task.length"])
    return config


def _row(epoch: int, value: float, metric: str, every: int, seconds: float) -> Mapping[str, float]:
    update = every * epoch
    row = {"epoch": epoch, "update": update, "wall_s": seconds * update, f"valid/{metric}": value}
    if metric == "nll_step":
        row["valid/nll_seq"] = value + 1
    return row if epoch == 0 else {**row, "train/loss": 0.9 * value}
