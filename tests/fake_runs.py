"""Runs that were never trained, with everything that analysis reads: scores, seconds, curves."""

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnbench.compose import compose_config
from rnnbench.config import RunConfig, run_key

composed = functools.cache(compose_config)


def write_run(
    root: Path, valid: float, test: float, *overrides: str, status: str = "done", checksum: str = "data"
) -> Path:
    """A finished run as `rnnbench run` would record it, but for its scores."""
    return record_run(root, config_of(*overrides), valid, test, status, checksum)


def record_run(
    root: Path, config: RunConfig, valid: float, test: float, status: str = "done", checksum: str = "data"
) -> Path:
    """See `write_run`."""
    metric = "mse" if config.task["name"] == "adding" else "nll_step"

    def scores(value: float) -> dict[str, Any]:
        extra = {"nll_seq": value + 1} if metric == "nll_step" else {}
        return {metric: value, **extra, "success": True}

    names = [metric, *(["nll_seq"] if metric == "nll_step" else [])]
    key = run_key(config)
    path: Path = root / config.task["name"] / config.cell["name"] / f"s{config.seed}-{key}"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("# a run\n")
    result = {
        "schema_version": 1,
        "status": status,
        "run_key": key,
        "task": config.task["name"],
        "cell": config.cell["name"],
        "seed": config.seed,
        "search": config.search,
        "config": {group: config.as_dict()[group] for group in ("cell", "task", "train")},
        "metric": metric,
        **{split: scores(value) for split, value in (("train", valid - 0.5), ("valid", valid), ("test", test))},
        "baselines": {s: {"trivial": dict.fromkeys(names, 11.0)} for s in ("train", "valid", "test")},
        "params_recurrent": 20_000,
        "params_total": 24_000,
        "seconds": 10.0,
        "updates": 1_000,
        "threads": 2,
        "kernel": "compiled",
        "device": "cpu",
        "population": {"size": 1, "members": [key]},
        "data_checksum": checksum,
        "versions": {"torch": "2.13.0"},
        "commit": "abc",
    }
    (path / "result.json").write_text(json.dumps(result))
    return path


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
