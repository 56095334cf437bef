"""Which runs may be pooled. Everything that compares runs asks here first.

Only runs that are equal in everything but the seed are pooled: config, data, and how the learning rate was chosen. Runs
that differ in nothing but the learning rate and the seed are a search: for each seed only the candidate that is best on
validation counts, and only seeds for which the same rates were tried, or the same search drew them, are pooled.
"""

import math
import re
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rnnbench.analysis.collect import CONFIG_GROUPS
from rnnbench.config import NAMES
from rnnbench.errors import UserError, did_you_mean

SEARCHED = "train.lr"
SEARCH = ["search.name", "search.log_low", "search.log_high"]
"""Columns that tell one search from another, beside the number of its candidates."""

TRIED = ("done", "diverged", "pruned")
"""The statuses of runs that count as candidates."""

MACHINE = ("commits", "dirty", "versions.rnnbench", "versions.torch", "device_name", "kernel", "study")
"""Columns that decide no result, but may move one by rounding."""


@dataclass(frozen=True)
class Pool:
    """The runs that count, told apart, and the sentences that belong to them.

    ``runs`` is part of what was given to `pool`, a row a run, with these columns more:

    - ``setting``: the keys, with values, in which the run's task, protocol, data or search differ from those of other
      runs of the task; empty where they do not. Only cells of one setting may be held against each other.
    - ``own``: the same of the keys of the cell; empty for the variant of the cell with the most runs.
    - ``variant``: both. Runs that are equal in task, cell, ``variant`` and all axes may be pooled over their seeds.
    - ``candidates``: how many learning rates were tried.
    """

    runs: pd.DataFrame
    notes: list[str]
    axes: tuple[str, ...] = ()

    def groups(self) -> Iterable[pd.DataFrame]:
        """The runs that may be pooled, together: those of one task, cell, variant, and place on the axes."""
        columns = list(dict.fromkeys(["task", "setting", "cell", "own", *self.axes]))
        return (members for _, members in self.runs.groupby(columns, sort=False, dropna=False))


def pool(runs: pd.DataFrame, axes: Collection[str] = ()) -> Pool:
    """Find the finished runs of ``runs`` (see `rnnbench.analysis.collect`) that count, and tell them apart.

    Args:
        runs: a row a run.
        axes: columns along which a table or a plot is laid out: runs that differ in them are not pooled, and no label
            names them. With ``train.lr`` among them nothing is chosen: each rate stands for itself.

    Raises:
        UserError: if no run is finished, or for an axis that no run has.
    """
    done = runs[runs["status"] == "done"]
    notes = _left_out(runs)
    if done.empty:
        raise UserError(f"no run is finished yet. {' '.join(notes)}")
    for axis in axes:
        if axis not in runs:
            raise UserError(f"{axis}: no run has it.{did_you_mean(axis, list(runs.columns))}")
    if SEARCHED in axes:
        chosen, search_notes = done.assign(candidates=1), list[str]()
    else:
        chosen, search_notes = _best_of_search(done, runs)
    labelled, label_notes = _label(chosen, [c for c in config_columns(chosen) if c not in axes])
    found = Pool(labelled, [*label_notes, *search_notes, *notes], tuple(axes))
    found.notes.extend(note for members in found.groups() for note in _mixed(members))
    return found


def count_diverged(runs: pd.DataFrame) -> pd.DataFrame:
    """``runs`` where those that diverged count as finished, without success and with an infinite validation score.

    For what asks how often a run succeeds, not how well it does: a seed stands for its best candidate, and for one that
    diverged only if all did. The column ``diverged`` says which.
    """
    diverged = runs["status"] == "diverged"
    found = runs.assign(diverged=diverged, status=runs["status"].where(~diverged, "done"))
    for column in found.columns:
        if column.endswith("_success"):
            found[column] = found[column].where(~diverged, False)
        elif column.startswith("valid_"):
            found[column] = found[column].where(~diverged, math.inf)
    return found


def _left_out(runs: pd.DataFrame) -> list[str]:
    """What the table does not show: diverged and given-up runs by name, for they were tried; the others by number."""
    notes = []
    for status, what in (("diverged", "Diverged"), ("pruned", "Given up by a search (pruned)")):
        named = [
            f"{r['cell']} on {r['task']}, seed {r['seed']} ({SEARCHED}={show(r[SEARCHED])})"
            for r in runs[runs["status"] == status].to_dict("records")
        ]
        if named:
            notes.append(f"{what}, and in no mean: {'; '.join(named)}.")
    counts = runs.loc[~runs["status"].isin(TRIED), "status"].value_counts()
    if len(counts):
        notes.append(f"Left out: {', '.join(f'{n} {status}' for status, n in counts.items())}.")
    return notes


def _mixed(members: pd.DataFrame) -> list[str]:
    """A note on pooled runs that another code or machine computed."""
    mixed = [c for c in MACHINE if c in members and members[c].nunique(dropna=False) > 1]
    if not mixed:
        return []
    first = members.iloc[0]
    return [f"{first['cell']} on {first['task']}: the pooled runs differ in {', '.join(mixed)}."]


def config_columns(runs: pd.DataFrame) -> list[str]:
    """The columns whose values make a variant: the config but for names, and the data's checksum."""
    config = [c for c in runs.columns if c.startswith(CONFIG_GROUPS) and c not in NAMES]
    return [*config, "data_checksum"]


def keys(runs: pd.DataFrame, columns: Iterable[str]) -> "pd.Series[Any]":
    """One comparable value a run for the values of ``columns``; a missing key and null are the same."""
    columns = list(columns)
    values = runs[columns].astype(object).where(runs[columns].notna(), None)
    return pd.Series([repr(tuple(row)) for row in values.itertuples(index=False)], index=runs.index, dtype=object)


def _best_of_search(done: pd.DataFrame, runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """For each seed of a search the run that is best on validation, its ``train.lr`` replaced by "best of …".

    Diverged and pruned runs count as candidates and never win. The notes are on searches that are not complete.
    """
    tried = runs[runs["status"].isin(TRIED)]
    tried = tried.reindex(columns=[*runs.columns, *(c for c in (*SEARCH, "search.candidates") if c not in runs)])
    fixed = [c for c in config_columns(runs) if c != SEARCHED]
    search = keys(tried, [*fixed, "task", "cell", "seed"])
    several = set(tried[SEARCH].drop_duplicates()["search.name"].value_counts().loc[lambda n: n > 1].index)
    alone = tried["search.name"].isna() & ~search.duplicated(keep=False)
    found = {key: _Tried(1, rate) for key, rate in zip(search[alone], tried.loc[alone, SEARCHED], strict=True)}
    for key, candidates in tried[~alone].groupby(search[~alone], sort=False):
        found[key] = _describe(candidates, several)
    best = done.loc[_validation(done).groupby(search.loc[done.index]).idxmin().sort_values()].copy()
    described = search.loc[best.index].map(found)
    best["candidates"] = [d.rates for d in described]
    best[SEARCHED] = pd.Series([d.value for d in described], index=best.index, dtype=object)
    return best, [d.note for d in found.values() if d.note]


@dataclass(frozen=True)
class _Tried:
    """What was tried for one seed: the number of rates, what stands for them in a variant, and what is missing."""

    rates: int
    value: Any
    note: str = ""


def _describe(candidates: pd.DataFrame, several: Set[str]) -> _Tried:
    """The learning rates of one seed: by the search, if one drew them all, and else by themselves.

    Args:
        candidates: the runs of one seed, equal in all but the rate.
        several: names that more than one search bears, and that need their bounds beside them.
    """
    rates = sorted(set(candidates[SEARCHED]))
    first = candidates.iloc[0]
    if candidates[SEARCH].isna().any(axis=None) or len(candidates[SEARCH].drop_duplicates()) > 1:
        texts = ", ".join(show(lr) for lr in rates)
        return _Tried(len(rates), rates[0] if len(rates) == 1 else f"best of {len(rates)} ({texts})")
    planned = int(candidates["search.candidates"].max())  # a search that has grown has kept its first runs
    name, low, high = (first[column] for column in SEARCH)
    bounds = f", exp of U({low:g}, {high:g})" if name in several else ""
    note = ""
    if len(rates) < planned:
        note = (
            f"{first['cell']} on {first['task']}, seed {first['seed']}: {len(rates)} of the {planned} candidates of "
            f"search {name} are here; the others have not ended, or were left out."
        )
    return _Tried(len(rates), f"best of {planned} (search {name}{bounds})", note)


def _validation(runs: pd.DataFrame) -> "pd.Series[float]":
    """The validation score of each run by the metric that selects."""
    scores = [runs.at[i, f"valid_{metric}"] for i, metric in runs["metric"].items()]
    return pd.Series(scores, index=runs.index, dtype=float)


def _label(runs: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """``runs`` with the columns ``setting``, ``own`` and ``variant`` (see `Pool`), and notes on them.

    What the cells of a setting must share (task and protocol) is named wherever it differs. Of several variants of one
    cell the one with the most runs has no name, which a note spells out.
    """
    own_columns = [c for c in columns if c.startswith("cell.")]
    shared_columns = [c for c in columns if c not in own_columns]
    setting = pd.Series("", index=runs.index, dtype=object)
    own = setting.copy()
    notes = []
    for task, of_task in runs.groupby("task"):
        setting.loc[of_task.index] = _shared(of_task, shared_columns)
        for cell, of_cell in of_task.groupby("cell"):
            texts = _differing(of_cell, own_columns)
            if texts.nunique() == 1:
                continue
            main = texts.value_counts(sort=True).sort_index(kind="stable").idxmax()
            notes.append(f"{task}, {cell}: where no key of the cell is named, {main}.")
            own.loc[texts.index] = texts.where(texts != main, "")
    variant = [", ".join(part for part in parts if part) for parts in zip(setting, own, strict=True)]
    return runs.assign(setting=setting, own=own, variant=variant), notes


def _shared(of_task: pd.DataFrame, columns: Sequence[str]) -> "pd.Series[str]":
    """The differences in task and protocol; keys in which protocols differ are told by the protocol's name."""
    columns = [c for c in columns if c != "data_checksum" or _is_news(of_task)]
    differing = _differing(of_task, columns)
    if differing.nunique() == 1 or of_task["train.name"].nunique(dropna=False) == 1:
        return differing
    names = of_task["train.name"].fillna("?")
    told = [c for c in columns if c.startswith("train.") and keys(of_task, [c]).groupby(names).nunique().max() == 1]
    rest = _differing(of_task, [c for c in columns if c not in told])
    texts = pd.Series(
        [", ".join(part for part in (f"train={name}", more) if part) for name, more in zip(names, rest, strict=True)],
        index=of_task.index,
        dtype=object,
    )
    return texts.groupby(keys(of_task, columns)).transform("first")  # one protocol may have two names


def _is_news(of_task: pd.DataFrame) -> bool:
    """Whether the data says more than the task's config: generated tasks have other data at each length."""
    task_config = [c for c in of_task.columns if c.startswith("task.") and c not in NAMES]
    return bool(of_task["data_checksum"].groupby(keys(of_task, task_config)).nunique(dropna=False).max() > 1)


def _differing(runs: pd.DataFrame, columns: Iterable[str]) -> "pd.Series[str]":
    """``key=value, …`` for the ``columns`` that are not equal in all of ``runs``."""
    differing = [c for c in columns if keys(runs, [c]).nunique() > 1]
    columns_of_text = [c + "=" + runs[c].astype(object).map(show) for c in differing]
    texts = [", ".join(parts) for parts in zip(*columns_of_text, strict=True)] if differing else ""
    return pd.Series(texts, index=runs.index, dtype=object)


def show(value: Any) -> str:  # noqa: ANN401 - a leaf of a config
    """A value as it would be typed."""
    if value is None or value != value:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(float(value))
    return str(value)


def natural(text: str) -> list[str | float]:
    """What sorts as a person would sort ``text``: its words and numbers in turn."""
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", text))]
