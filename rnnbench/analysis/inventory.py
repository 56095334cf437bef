"""Every run with its configuration and where it comes from; what all have in common told once; and what failed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from rnnbench.analysis.collect import UNFINISHED
from rnnbench.analysis.pool import show
from rnnbench.config import flatten, is_neutral
from rnnbench.errors import UserError
from rnnbench.record import Record, read_result
from rnnbench.state import state_of
from rnnbench.summary import number

SCOPES = {"cell": "cell", "task": "task", "train": "protocol"}
"""Group of the config -> what has a value of its own for it, where not all runs agree."""

PROVENANCE = ("commit", "dirty", "device", "device_name", "platform", "kernel", "threads", "population.size", "study")
"""Columns (see `collect`) that say by what a run was computed; so do those of ``versions.``."""

LONGEST_REASON = 2_000
"""Characters of an error that are shown; its run.log has the rest."""


@dataclass(frozen=True)
class Inventory:
    """The runs as texts."""

    common: list[tuple[str, dict[str, str]]]
    """Whose (all runs, the cell gru, …), and the keys and values on which all of those agree."""
    rows: pd.DataFrame
    """A row a run: path, scores, cost, what is not common, and the number of its config."""
    configs: list[str]
    """Each distinct config as a line of JSON: that of number n is ``configs[n - 1]``."""
    failures: pd.DataFrame
    """A row for each run that is not done: path, what it was, status and reason."""


def inventory(runs: pd.DataFrame, runs_dir: Path) -> Inventory:
    """Take stock of ``runs`` (see `rnnbench.analysis.collect`), whatever has become of them.

    Args:
        runs: a row a run.
        runs_dir: where they are; paths are told from there.
    """
    configs = [_config(Path(path)) for path in runs["path"]]
    flat = [{k: show(v) for k, v in flatten(config, "") if not is_neutral(k, v)} for config in configs]
    scopes = _scopes(runs, flat)
    common, told = _common(scopes, flat)
    provenance, rest = _provenance(runs)
    differences = [
        ", ".join(f"{key}={value}" for key, value in mine.items() if key not in told[i]) for i, mine in enumerate(flat)
    ]
    distinct = {text: n for n, text in enumerate(dict.fromkeys(_json(c) for c in configs if c), start=1)}
    numbers = [str(distinct[_json(config)]) if config else "" for config in configs]
    paths = [Path(path).relative_to(runs_dir).as_posix() for path in runs["path"]]
    rows = _rows(runs, paths).join(rest)
    rows.insert(4, "differs in", differences)
    rows.insert(5, "config", numbers)
    reasons = [
        {"run": path, "what": f"{run['cell']} on {run['task']}, seed {run['seed']}", "differs in": differing,
         "status": run["status"], "reason": _reason(run)}
        for path, differing, run in zip(paths, differences, _records(runs), strict=True)
        if run["status"] != "done"
    ]  # fmt: skip
    failures = pd.DataFrame(reasons, columns=["run", "what", "differs in", "status", "reason"])
    return Inventory([*_merged(provenance, common)], rows, list(distinct), failures)


def _records(runs: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in runs.to_dict("records")]


def _config(path: Path) -> dict[str, Any]:
    """Cell, task and protocol of the run in ``path``, by its result or else its config; empty if unreadable."""
    try:
        content: Any = read_result(path / "result.json")["config"]
    except (UserError, OSError):
        try:
            content = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
        except Exception:  # noqa: BLE001 - whatever a damaged file makes of it
            content = {}
    groups = content if isinstance(content, dict) else {}
    return {name: groups[name] for name in SCOPES if isinstance(groups.get(name), dict)}


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, ensure_ascii=False)


def _scopes(runs: pd.DataFrame, flat: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """For each run by what the keys of each group are shared, if not by all runs."""
    return [
        {"cell": f"cell {cell}", "task": f"task {task}", "train": f"protocol {mine.get('train.name') or '?'}"}
        for cell, task, mine in zip(runs["cell"], runs["task"], flat, strict=True)
    ]


def _common(
    scopes: Sequence[Mapping[str, str]], flat: Sequence[Mapping[str, str]]
) -> tuple[list[tuple[str, dict[str, str]]], list[set[str]]]:
    """What all runs agree on, then what those of a cell, task and protocol do; and for each run the keys so told."""
    known = [i for i, mine in enumerate(flat) if mine]
    everyone = _agreed(flat[i] for i in known)
    found: dict[str, dict[str, str]] = {"all runs": everyone}
    told = [set(everyone) for _ in flat]
    for group in SCOPES:
        for name in sorted({scopes[i][group] for i in known}):
            members = [i for i in known if scopes[i][group] == name]
            agreed = {
                key: value
                for key, value in _agreed(flat[i] for i in members).items()
                if key.startswith(f"{group}.") and key not in everyone
            }
            found[name] = agreed
            for i in members:
                told[i] |= agreed.keys()
    return [(name, agreed) for name, agreed in found.items() if agreed], told


def _agreed(several: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The keys and values that all have."""
    first, *others = [dict(one) for one in several] or [{}]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _provenance(runs: pd.DataFrame) -> tuple[list[tuple[str, dict[str, str]]], pd.DataFrame]:
    """Where the runs come from: what is alike in all that say it (data: of a task), and the other columns as texts."""
    versions = sorted(c for c in runs.columns if c.startswith("versions."))
    runs = runs.astype(object)  # truth values of Python, which `show` knows
    there = [c for c in (*PROVENANCE, *versions) if c in runs and runs[c].notna().any()]
    alike = {c: show(runs[c].dropna().iloc[0]) for c in there if runs[c].dropna().map(show).nunique() == 1}
    common = [("all runs", alike)] if alike else []
    rest = runs[[c for c in there if c not in alike]].map(lambda v: "" if v is None or v != v else show(v))
    if "commit" in rest:
        rest["commit"] = rest["commit"].str[:10]
    if "data_checksum" in runs:
        by_task = runs.dropna(subset="data_checksum").groupby("task")["data_checksum"]
        if (by_task.nunique() <= 1).all():
            common += [(f"task {task}", {"data checksum": str(values.iloc[0])}) for task, values in by_task]
        else:
            rest["data checksum"] = runs["data_checksum"].fillna("").astype(str).str[:12]
    return common, rest


def _merged(*parts: Iterable[tuple[str, dict[str, str]]]) -> Iterable[tuple[str, dict[str, str]]]:
    found: dict[str, dict[str, str]] = {}
    for part in parts:
        for name, values in part:
            found[name] = {**values, **found.get(name, {})}
    return found.items()


def _rows(runs: pd.DataFrame, paths: Sequence[str]) -> pd.DataFrame:
    rows = [
        {
            "run": path,
            "task": run["task"],
            "cell": run["cell"],
            "seed": str(run["seed"]),
            "status": run["status"],
            "metric": _text(run.get("metric")),
            "validation": _score(run, "valid"),
            "test": _score(run, "test"),
            "best epoch": _whole(run.get("best_epoch")),
            "epochs": _whole(run.get("epochs")),
            "seconds": _whole(run.get("seconds")),
            "recurrent parameters": _whole(run.get("params_recurrent")),
            "all parameters": _whole(run.get("params_total")),
        }
        for path, run in zip(paths, _records(runs), strict=True)
    ]
    return pd.DataFrame(rows, index=runs.index)


def _known(value: Any) -> bool:  # noqa: ANN401 - a field of a result
    return value is not None and value == value


def _text(value: Any) -> str:  # noqa: ANN401 - a field of a result
    return str(value) if _known(value) else ""


def _whole(value: Any) -> str:  # noqa: ANN401 - a field of a result
    return f"{value:,.0f}" if _known(value) else ""


def _score(run: Mapping[str, Any], split: str) -> str:
    value = run.get(f"{split}_{run.get('metric')}")
    return number(float(value)) if value is not None and value == value else ""


def _reason(run: Mapping[str, Any]) -> str:
    """Why a run is not done, in words."""
    best = f"validation {run['metric']} {_score(run, 'valid')}" if _known(run.get("metric")) else ""
    at = f" at epoch {_whole(run.get('epochs'))}" if _known(run.get("epochs")) else ""
    if run["status"] == "diverged":
        last = f"; its best before: {best} at epoch {_whole(run.get('best_epoch'))}" if _score(run, "valid") else ""
        return f"the loss was no longer finite{at}{last}"
    if run["status"] == "pruned":
        return f"given up{at} by the search of trial {_text(run.get('trial')) or '?'}"
    error = _text(run.get("error")).strip()
    if run["status"] == "error":
        return error if len(error) <= LONGEST_REASON else f"{error[:LONGEST_REASON]} …"
    state = state_of(Record(Path(run["path"])))
    if state.status == "running":
        return f"is being trained, at epoch {state.epochs:,}"
    how = "stopped" if run["status"] != UNFINISHED else "ended without a word, killed or with its machine,"
    why = f" ({error})" if error else ""
    return f"{how} at epoch {state.epochs:,}{why}; the same command goes on from there"
