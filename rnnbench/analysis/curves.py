"""Learning curves: what runs measured while they trained, and the mean over seeds.

Seeds stop at different times, where patience or a solved task ends them. The mean goes only as far as **every** seed
trains; from there on those that still do are told one by one (`tails`). Neither alternative is honest: the mean of the
survivors changes its members, and jumps where a good or a bad one leaves; a last value carried forward is one that
nobody measured there, and a best one hides that a run had begun to overfit.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rnnbench.analysis.pool import Pool
from rnnbench.analysis.statistics import Floats, mean_band
from rnnbench.errors import check_choice
from rnnbench.record import Record

AGAINST = ("update", "wall_s")
"""What curves may be drawn against. Who draws them against seconds must ask `rnnbench.analysis.clock` first."""

COLUMNS = ["x", "mean", "low", "high", "n"]


def history(path: Path) -> pd.DataFrame:
    """The evaluations of the run in ``path``, a row each, as far as there are any.

    Returns:
        ``epoch``, ``update``, ``wall_s``, and whatever was measured, ``train/loss``, ``valid/<metric>``, ….

    Raises:
        UserError: if metrics.jsonl is damaged; a last line that was cut short is left out.
    """
    return pd.DataFrame(Record(path).metrics())


def histories(members: pd.DataFrame) -> list[pd.DataFrame]:
    """The evaluations of runs (a row each, see `collect`), in their order."""
    return [history(Path(path)) for path in members["path"]]


def mean_curve(of_seeds: Sequence[pd.DataFrame], quantity: str, against: str = "update") -> pd.DataFrame:
    """The mean over seeds with Student's interval, from where the last seed begins to where the first one ends.

    Args:
        of_seeds: the `history` of each.
        quantity: one of its columns.
        against: of `AGAINST`.

    Returns:
        ``x``, ``mean``, ``low``, ``high`` and ``n``, a row for each x at which any seed was evaluated; between its own
        evaluations a seed is interpolated linearly. Seeds that share a protocol are evaluated at the same updates, so
        against updates nothing is. With one seed the interval is endless. No rows if a seed never measured it.
    """
    check_choice("against", against, AGAINST)
    points = [_points(rows, quantity, against) for rows in of_seeds]
    if not points or any(len(x) == 0 for x, _ in points):
        return pd.DataFrame(columns=COLUMNS, dtype=float)
    grid = np.unique(np.concatenate([x for x, _ in points]))
    grid = grid[(grid >= max(x[0] for x, _ in points)) & (grid <= min(x[-1] for x, _ in points))]
    mean, low, high = mean_band([np.interp(grid, x, y) for x, y in points])
    return pd.DataFrame({"x": grid, "mean": mean, "low": low, "high": high, "n": len(points)})


def tails(of_seeds: Sequence[pd.DataFrame], quantity: str, against: str = "update") -> list[pd.DataFrame]:
    """What the seeds that train on do after the first one has ended, ``x`` and ``value``, a frame each."""
    points = [_points(rows, quantity, against) for rows in of_seeds]
    end = min((x[-1] if len(x) else math.inf for x, _ in points), default=math.inf)
    later = [(np.append(end, x[x > end]), np.append(np.interp(end, x, y), y[x > end])) for x, y in points if len(x)]
    return [pd.DataFrame({"x": x, "value": y}) for x, y in later if len(x) > 1]


def mean_curves(pool: Pool, quantity: str = "valid", against: str = "update") -> pd.DataFrame:
    """The `mean_curve` of all that may be pooled, tidy.

    Args:
        pool: the runs; of a search those that were chosen, unless ``train.lr`` is an axis.
        quantity: a column of `history`; "valid" stands for the validation score that selects.
        against: of `AGAINST`.

    Returns:
        ``task``, ``setting``, ``cell``, ``own``, ``variant`` and the axes, then those of `mean_curve`.
    """
    keys = ["task", "setting", "cell", "own", "variant", *pool.axes]
    found = []
    for members in pool.groups():
        first = members.iloc[0]
        wanted = f"valid/{first['metric']}" if quantity == "valid" else quantity
        curve = mean_curve(histories(members), wanted, against)
        found.append(curve.assign(**{key: first[key] for key in keys})[[*keys, *COLUMNS]])
    return pd.concat([curve for curve in found if len(curve)] or found[:1], ignore_index=True)


def _points(rows: pd.DataFrame, quantity: str, against: str) -> tuple[Floats, Floats]:
    """Where ``quantity`` was measured, and what: (X,) each, ``x`` rising. What was not finite is left out."""
    if quantity not in rows:
        return np.empty(0), np.empty(0)
    measured = rows[rows[quantity].notna()]
    return measured[against].to_numpy(float), measured[quantity].to_numpy(float)
