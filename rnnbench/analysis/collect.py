"""All runs of a directory as one tidy data frame, a row a run. Event files and checkpoints are not opened."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from rnnbench.config import flatten, is_neutral
from rnnbench.errors import UserError
from rnnbench.record import read_result
from rnnbench.state import run_dirs

SPLITS = ("train", "valid", "test")
METRICS = ("nll_step", "nll_seq", "mse", "xent")
"""Every metric a task may have; lower is better for all of them."""

CONFIG_GROUPS = ("cell.", "task.", "train.")
"""The prefixes of the columns that hold the config."""

ALWAYS = (
    *("status", "metric", "train.name", "data_checksum", "params_recurrent", "params_total", "seconds", "updates"),
    *("device_name", "threads", "kernel", "commits", "population.size"),
)
"""Columns that are there even if no run, all being old or unfinished, has them."""

UNFINISHED = "unfinished"
"""The status of a run without result.json: it is being trained, or was killed."""


def collect(runs_dir: Path) -> pd.DataFrame:
    """The runs below ``runs_dir``, ``<task>/<cell>/s<seed>-<hash>/``.

    Returns:
        A row a run, with the columns ``task``, ``cell``, ``seed``, ``status``, ``metric`` (the one that selects);
        ``<split>_<metric>`` and ``<split>_success``; ``baseline_<split>_<metric>`` of the trivial baseline; best
        epoch and update, counts of parameters, seconds; the config under dotted keys; ``search.*`` of a candidate;
        and where the run comes from: ``commit``, ``commits`` (of a run that was resumed), ``dirty``,
        ``versions.*``, ``device``, ``threads``, ``kernel``, ``population.size``, ``data_checksum``, ``path``,
        ``error``; ``study`` of what was merged from
        another machine.

    Raises:
        UserError: if there are no runs.
    """
    rows = [_row(path) for path in run_dirs(runs_dir) if (path / "config.yaml").exists()]
    if not rows:
        raise UserError(
            f"{runs_dir}: there are no runs in it. Make one, for example with `rnnbench run cell=gru task=adding`, or "
            "name their directory with --runs."
        )
    frame = pd.DataFrame(rows)
    frame = frame.reindex(columns=list(dict.fromkeys([*frame.columns, *ALWAYS])))
    return frame.sort_values(["task", "cell", "seed", "path"], ignore_index=True)


def _row(path: Path) -> dict[str, Any]:
    where = {
        "task": path.parent.parent.name,
        "cell": path.parent.name,
        "seed": int(path.name.partition("-")[0].removeprefix("s")),
        "path": str(path),
        **_origin(path / "origin.json"),
    }
    if not (path / "result.json").exists():
        return {**where, "status": UNFINISHED}
    try:
        return {**_content(read_result(path / "result.json")), **where}
    except (UserError, OSError, AttributeError, KeyError, StopIteration) as error:
        return {**where, "status": "error", "error": f"result.json cannot be read: {error}"}


def _origin(path: Path) -> dict[str, str]:
    """Of which study a run is that came from another machine."""
    try:
        return {"study": str(json.loads(path.read_text(encoding="utf-8"))["study"])}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        return {"study": "?"}


def _content(result: dict[str, Any]) -> dict[str, Any]:
    scores = {f"{split}_{name}": value for split in SPLITS for name, value in (result.get(split) or {}).items()}
    baselines = {
        f"baseline_{split}_{name}": value
        for split, by_name in result.get("baselines", {}).items()
        for name, value in next(iter(by_name.values())).items()
    }
    plain = {k: v for k, v in result.items() if k != "search" and not isinstance(v, dict | list)}
    parts = {
        "versions": result.get("versions", {}),
        "search": result.get("search") or {},
        "population": {"size": result.get("population", {}).get("size")},
    }
    nested = dict(flatten(parts, ""))
    commits = {"commits": " ".join(result.get("commits") or [result.get("commit") or "?"])}
    return {**plain, **commits, **nested, **scores, **baselines, **_config_columns(result)}


def _config_columns(result: dict[str, Any]) -> dict[str, Any]:
    """The config under dotted keys, but for neutral values; lists become text, so that rows can be grouped."""
    flat = dict(flatten(result["config"], ""))
    kept = {key: value for key, value in flat.items() if not is_neutral(key, value)}
    return {key: str(value) if isinstance(value, list) else value for key, value in kept.items()}
