"""What `rnnbench diagnose` measured, read from the records, and the tables that it prints."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rnnbench.config import identity
from rnnbench.errors import UserError
from rnnbench.record import Record

LAGS = (1, 10, 30, 100, 300, 1000)
"""Those that a table shows."""


@dataclass(frozen=True)
class Diagnosed:
    """A run and what was measured of it."""

    path: Path
    task: str
    """And its setting (see `rnnbench.analysis.pool.Pool`), where there are several."""
    label: str
    """The cell, and whatever else tells its runs from those of others of the task and setting."""
    cell: str
    found: dict[str, Any]
    """The content of diagnosis.json: `rnnbench.diagnosis.Diagnosis.as_dict`, and of which update."""
    training: list[dict[str, Any]]
    """The lines of diagnostics.jsonl, if there are any."""

    @classmethod
    def read(cls, path: Path, task: str, label: str) -> "Diagnosed":
        """Read the run in ``path``, which is shown under ``task`` and ``label``.

        Raises:
            UserError: if its files are damaged, or it has not been measured.
        """
        record = Record(path)
        try:
            found: dict[str, Any] = json.loads(record.diagnosis_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{record.diagnosis_file}: cannot be read ({error}). `rnnbench diagnose --force {path}` measures again."
            ) from error
        return cls(path, task, label, path.parent.name, found, record.diagnostics())


def labels(paths: Sequence[Path]) -> dict[Path, tuple[str, str]]:
    """For each run its task, and its cell, and directory where a cell has runs that differ in more than the seed."""
    alike: dict[tuple[str, str], set[str]] = {}
    for path in paths:
        config = {**identity(Record(path).config()), "seed": None}
        alike.setdefault((path.parent.parent.name, path.parent.name), set()).add(repr(sorted(config.items(), key=str)))
    several = {key for key, configs in alike.items() if len(configs) > 1}
    found = {}
    for path in paths:
        task, cell = path.parent.parent.name, path.parent.name
        found[path] = task, f"{cell} {path.name}" if (task, cell) in several else cell
    return found


def by_label(runs: Sequence[Diagnosed]) -> dict[tuple[str, str], list[Diagnosed]]:
    """The runs that are shown as one, under (task, label), in the order in which they come."""
    groups: dict[tuple[str, str], list[Diagnosed]] = {}
    for run in runs:
        groups.setdefault((run.task, run.label), []).append(run)
    return groups


def ratio(runs: Sequence[Diagnosed], state: str) -> np.ndarray:
    """log10 of what is left of a gradient's norm, (runs, K), not a number where it is not known.

    A curve ends at the lag that fewer than half of the sequences reach.
    """
    curves = []
    for run in runs:
        curve = run.found["gradient"][state]
        values = np.array(curve["log10_ratio"], dtype=float)  # null becomes not a number
        reach = np.array(curve["sequences"]) >= curve["sequences"][0] / 2
        curves.append(np.where(reach, values, math.nan))
    longest = max(len(curve) for curve in curves)
    found = np.stack([np.pad(curve, (0, longest - len(curve)), constant_values=math.nan) for curve in curves])
    return found[:, : 1 + int(np.flatnonzero(np.isfinite(found).any(axis=0)).max(initial=0))]


def tables(runs: Sequence[Diagnosed]) -> str:
    """Three tables as text, a row for each cell and state, gate, or block; means over runs, of ratios geometric."""
    lags = [k for k in LAGS if any(k < ratio(group, s).shape[1] for group, s in _gradients(runs))]
    parts = [
        ("What is left of ‖∂loss_T/∂s_t‖ after T - t steps, s the state",
         pd.DataFrame(_gradient_rows(runs, lags), columns=["task", "cell", "runs", "state", *(f"{k}" for k in lags)])),
        ("Gates, and |h|: mean, and the share of values below 0.1 and above 0.9",
         pd.DataFrame(_gate_rows(runs), columns=["task", "cell", "gate", "mean", "below 0.1", "above 0.9"])),
        ("Spectral radius of each block of U",
         pd.DataFrame(_radius_rows(runs), columns=["task", "cell", "block", "radius"])),
    ]  # fmt: skip
    texts = [f"{title}\n{_text(frame)}" for title, frame in parts if len(frame)]
    return "\n\n".join(texts)


def _text(frame: pd.DataFrame) -> str:
    names = frame[["task", "cell"]]
    frame[["task", "cell"]] = names.mask(names.eq(names.shift()).all(axis=1), "")
    text: str = frame.to_markdown(index=False, tablefmt="simple", disable_numparse=True)
    return text


def _gradients(runs: Sequence[Diagnosed]) -> Iterator[tuple[list[Diagnosed], str]]:
    for group in by_label(runs).values():
        for state in group[0].found["gradient"]:
            yield group, state


def _gradient_rows(runs: Sequence[Diagnosed], lags: Sequence[int]) -> Iterator[list[str]]:
    for group, state in _gradients(runs):
        left = ratio(group, state)
        shown = [_power(left[:, k]) if k < left.shape[1] else "" for k in lags]
        yield [group[0].task, group[0].label, str(len(group)), state, *shown]


def _gate_rows(runs: Sequence[Diagnosed]) -> Iterator[list[str]]:
    for (task, label), group in by_label(runs).items():
        for name in [*group[0].found["gates"], "|h|"]:
            mean, *shares = (gate_mean(group, name, what) for what in ("mean", "below_0.1", "above_0.9"))
            yield [task, label, name, f"{mean:.2f}", *(f"{100 * share:.0f} %" for share in shares)]


def _radius_rows(runs: Sequence[Diagnosed]) -> Iterator[list[str]]:
    for (task, label), group in by_label(runs).items():
        for block in group[0].found["spectral_radius"]:
            radius = mean_of(run.found["spectral_radius"][block] for run in group)
            yield [task, label, block, f"{radius:.2f}"]


def gate_mean(runs: Sequence[Diagnosed], gate: str, what: str) -> float:
    """The mean over runs of the ``mean``, ``below_0.1`` or ``above_0.9`` of a gate, or of ``|h|``."""
    return mean_of((run.found["abs_h"] if gate == "|h|" else run.found["gates"][gate])[what] for run in runs)


def mean_of(values: Iterable[float | None]) -> float:
    """The mean of what is known of ``values``, or not a number."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else math.nan


def _power(logarithms: np.ndarray) -> str:
    known = logarithms[np.isfinite(logarithms)]
    return f"{10.0 ** known.mean():.2g}" if len(known) else "0"
