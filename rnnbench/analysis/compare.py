"""Which cell is better: runs paired by seed, corrected for the number of comparisons, "undecided" an answer.

Only cells of one task and setting (see `rnnbench.analysis.pool.Pool`) are held against each other, and only if they
have about as many parameters. Time is compared only between runs that were made alone, on equal terms.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rnnbench.analysis import statistics
from rnnbench.analysis.clock import objection
from rnnbench.analysis.pool import Pool, config_columns, keys, natural
from rnnbench.analysis.statistics import Comparison, Interval
from rnnbench.errors import UserError, did_you_mean

TIME = "us_per_update"
"""Microseconds of training, evaluation included, for each update: a metric of runs that were made alone."""

TOLERANCE = 0.1
"""Parameters may differ by this share; the paper's three music networks do by 4 %."""


@dataclass(frozen=True)
class Contest:
    """Two cells (or variants of one) on a task, by one metric."""

    task: str
    setting: str
    metric: str
    split: str
    a: str
    b: str
    means: tuple[float, float]
    found: Comparison


@dataclass(frozen=True)
class Aggregate:
    """One cell over several tasks: its scores as a share of the trivial baseline's, 1 being no better than it."""

    setting: str
    method: str
    tasks: tuple[str, ...]
    seeds: int
    middle: Interval
    """The interquartile mean of all scores; bounds are not-a-number with fewer than `statistics.BOOTSTRAP_FROM`."""
    scores: np.ndarray
    """(R, T)"""


@dataclass(frozen=True)
class Comparisons:
    """All that can be said, and what cannot, with the reason."""

    contests: list[Contest]
    refused: list[str]
    notes: list[str]
    incomplete: frozenset[tuple[str, str]]
    """(task, setting) where two cells could not be compared, so that none can be called the best."""

    def best(self) -> set[tuple[str, str, str, str, str]]:
        """(task, setting, metric, split, method) of each method that is better than all others there.

        It means something where all pairs were compared. One that is undecided leaves no best.
        """
        won: dict[tuple[str, str, str, str, str], list[bool]] = {}
        for c in self.contests:
            row = (c.task, c.setting, c.metric, c.split)
            won.setdefault((*row, c.a), []).append(c.found.verdict == "better")
            won.setdefault((*row, c.b), []).append(c.found.verdict == "worse")
        return {key for key, wins in won.items() if all(wins) and key[:2] not in self.incomplete}


def compare(
    pool: Pool,
    metrics: Sequence[str] = (),
    split: str = "test",
    against: str | None = None,
    any_size: bool = False,
) -> Comparisons:
    """Hold the cells of each task and setting against each other, all pairs of the result as one family of tests.

    Args:
        pool: the runs, without axes.
        metrics: of `rnnbench.analysis.collect.METRICS`, or `TIME`; a task that has none of them is compared by the one
            that selects.
        split: train, valid or test.
        against: the cell that the others are held against; by default each is held against each.
        any_size: compare networks whose numbers of parameters differ by more than `TOLERANCE` too.

    Raises:
        UserError: if there is no such cell.
    """
    methods = pool.runs["cell"].unique()
    if against is not None and against not in methods:
        raise UserError(
            f"--against {against}: no run of it. There: {', '.join(methods)}.{did_you_mean(against, methods)}"
        )
    candidates, refused, incomplete = [], list[str](), set[tuple[str, str]]()
    for task, setting, of_setting in _settings(pool):
        by_method = {method_of(runs): runs for _, runs in of_setting.groupby(["cell", "own"])}
        for a, b in _pairs(by_method, against):
            reason = "" if any_size else _sizes_differ(by_method[a], by_method[b])
            if reason:
                refused.append(f"{where(task, setting)}, {a} and {b}: {reason}")
                incomplete.add((task, setting))
                continue
            for metric in _metrics_of(of_setting, metrics):
                found = _paired(by_method[a], by_method[b], metric, split)
                if isinstance(found, str):
                    refused.append(f"{where(task, setting)}, {a} and {b}, {metric}: {found}")
                    incomplete.add((task, setting))
                else:
                    candidates.append((task, setting, metric, "" if metric == TIME else split, a, b, found))
    compared = statistics.compare_all([found for *_, found in candidates])
    contests = [
        Contest(task, setting, metric, of, a, b, (float(x.mean()), float(y.mean())), result)
        for (task, setting, metric, of, a, b, (x, y)), result in zip(candidates, compared, strict=True)
    ]
    return Comparisons(contests, refused, [*_lost(pool), *pool.notes], frozenset(incomplete))


def _settings(pool: Pool) -> Iterable[tuple[str, str, pd.DataFrame]]:
    groups = [
        (runs["task"].iloc[0], runs["setting"].iloc[0], runs) for _, runs in pool.runs.groupby(["task", "setting"])
    ]
    return sorted(groups, key=lambda group: (group[0], natural(group[1])))


def where(task: str, setting: str) -> str:
    """A task and its setting, for a sentence."""
    return f"{task} ({setting})" if setting else task


def method_of(runs: pd.DataFrame) -> str:
    """The cell of ``runs``, all of one variant, and what is its own."""
    first = runs.iloc[0]
    return f"{first['cell']} ({first['own']})" if first["own"] else str(first["cell"])


def _pairs(by_method: Mapping[str, pd.DataFrame], against: str | None) -> Iterable[tuple[str, str]]:
    if against is None:
        return itertools.combinations(by_method, 2)
    reference = [name for name, runs in by_method.items() if runs["cell"].iloc[0] == against]
    return ((name, other) for other in reference for name in by_method if name not in reference)


def _metrics_of(runs: pd.DataFrame, asked: Sequence[str]) -> list[str]:
    """Those of the metrics asked for that the task has; by default the one that selects."""
    here = [m for m in asked if m == TIME or (f"test_{m}" in runs and runs[f"test_{m}"].notna().any())]
    return here or ([] if TIME in asked else [runs["metric"].iloc[0]])


def _sizes_differ(a: pd.DataFrame, b: pd.DataFrame) -> str:
    """Why two networks have no equal budget of parameters; empty if either way of counting says that they have."""
    which = [c for c in ("params_recurrent", "params_total") if not (pd.isna(a[c].iloc[0]) or pd.isna(b[c].iloc[0]))]
    if not which:
        return "their records do not say how many parameters they have; give --any-size."
    counts = [tuple(r[c].iloc[0] for c in which) for r in (a, b)]
    if any(max(pair) <= (1 + TOLERANCE) * min(pair) for pair in zip(*counts, strict=True)):
        return ""
    sizes = " and ".join(f"{count[0]:,.0f}" for count in counts)
    what = "recurrent parameters" if which[0] == "params_recurrent" else "parameters"
    return f"{sizes} {what} are no equal budget. Train them with match_params=20000 or the like, or give --any-size."


def _paired(a: pd.DataFrame, b: pd.DataFrame, metric: str, split: str) -> tuple[np.ndarray, np.ndarray] | str:
    """The scores of two methods at the seeds that both have, or why there are none."""
    if metric == TIME:
        reason = objection(pd.concat([a, b]))
        if reason:
            return reason
        x, y = (1e6 * (r["seconds"] / r["updates"]).set_axis(r["seed"]) for r in (a, b))
    else:
        x, y = (r.set_index("seed")[f"{split}_{metric}"].astype(float) for r in (a, b))
    seeds = sorted(set(x.index) & set(y.index))
    if not seeds:
        return "they have no seed in common."
    if metric != TIME:
        tried = [r.set_index("seed")["candidates"].loc[seeds] for r in (a, b)]
        unlike = next((s for s in seeds if tried[0][s] != tried[1][s]), None)
        if unlike is not None:
            best = f"best of {tried[0][unlike]} against best of {tried[1][unlike]} learning rates (seed {unlike})"
            return f"{best}; end the search first."
    lost = [s for s in seeds if not (math.isfinite(x[s]) and math.isfinite(y[s]))]
    if lost:
        return f"no finite score for seed {', '.join(map(str, lost))}."
    return x.loc[seeds].to_numpy(), y.loc[seeds].to_numpy()


def _lost(pool: Pool) -> list[str]:
    """Notes on seeds that some cells of a setting have and others lack: what is compared is a choice among them."""
    notes = []
    for task, setting, runs in _settings(pool):
        everyone = set(runs["seed"])
        for _, own in runs.groupby(["cell", "own"]):
            missing = sorted(everyone - set(own["seed"]))
            if missing:
                seeds = ", ".join(map(str, missing))
                notes.append(
                    f"{where(task, setting)}, {method_of(own)}: no finished run of seed {seeds}; comparisons are "
                    "of the seeds that both cells have. If runs diverged, those left are the better ones."
                )
    return notes


def aggregate(pool: Pool, result: Comparisons, metrics: Sequence[str] = (), split: str = "test") -> list[Aggregate]:
    """Each cell over the tasks of a setting, on the seeds that all of its cells have on all of its tasks.

    Tasks on which some cells could not be compared are left out, and cells that are another variant on each; a setting
    of one task, or of other protocols on other tasks, has no aggregate.
    """
    comparable = [key not in result.incomplete for key in zip(pool.runs["task"], pool.runs["setting"], strict=True)]
    return [] if TIME in metrics else list(_aggregates(pool.runs[comparable], metrics, split))


def _aggregates(pooled: pd.DataFrame, metrics: Sequence[str], split: str) -> Iterable[Aggregate]:
    for setting, runs in sorted(pooled.groupby("setting"), key=lambda group: natural(str(group[0]))):
        tasks = tuple(runs["task"].unique())
        by_method = dict(iter(runs.groupby(runs["cell"] + "\n" + runs["own"])))
        whole = {
            name: group
            for name, group in by_method.items()
            if set(group["task"]) == set(tasks) and _one_cell(group, runs)
        }
        protocol = [c for c in config_columns(runs) if c.startswith("train.")]
        if len(tasks) < 2 or len(whole) < 2 or keys(runs, protocol).nunique() > 1:
            continue
        tables = {}
        for name, group in whole.items():
            scores = pd.concat([_normalised(of_task, metrics, split) for _, of_task in group.groupby("task")], axis=1)
            tables[name] = scores.dropna()
        seeds = sorted(set.intersection(*(set(table.index) for table in tables.values())))
        for name, table in tables.items():
            if seeds:
                scores_at = table.loc[seeds].to_numpy()
                yield Aggregate(str(setting), method_of(whole[name]), tasks, len(seeds), middle(scores_at), scores_at)


def _one_cell(group: pd.DataFrame, runs: pd.DataFrame) -> bool:
    """Whether ``group`` is one variant on all tasks: of several, the one without a name may be another."""
    of_cell = runs[runs["cell"] == group["cell"].iloc[0]]
    if of_cell.groupby("task")["own"].nunique().max() == 1:
        return True
    return keys(group, [c for c in config_columns(group) if c.startswith("cell.")]).nunique() == 1


def _normalised(runs: pd.DataFrame, metrics: Sequence[str], split: str) -> "pd.Series[float]":
    metric = _metrics_of(runs, metrics)[0]
    share = runs[f"{split}_{metric}"].astype(float) / runs[f"baseline_{split}_{metric}"].astype(float)
    return share.set_axis(runs["seed"])


def middle(scores: np.ndarray) -> Interval:
    """The interquartile mean of scores (R, T), with its bootstrap interval where there are enough of them."""
    if scores.size < statistics.BOOTSTRAP_FROM or len(scores) < 2:
        return Interval(statistics.interquartile_mean(scores), math.nan, math.nan)
    return statistics.bootstrap_interval(scores, statistics.interquartile_mean)
