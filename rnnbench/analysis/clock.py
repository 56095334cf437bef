"""Whose seconds may be held against each other.

Members of a population take turns on the same cores, and share caches and threads, so the seconds of one say as much of
its neighbours as of its cell. Only runs made alone count, and only beside runs of the same code on the same machine.
"""

import pandas as pd

SAME = ("device", "device_name", "threads", "kernel", "commits", "dirty", "versions.rnnbench", "versions.torch")
"""Columns (see `collect`) in which runs must agree; "commits" says which code, and so does "dirty"."""

SHARED = "runs were made in populations, which share a clock"

ADVICE = (
    "Make each run alone, one after another, in a directory of their own, since what is finished is not repeated: "
    "`rnnbench run -m cell=tanh,lstm,gru task=adding seed=0,1,2 hydra.sweeper.max_members=1 hydra.launcher.jobs=1 "
    "results_dir=results/runs/alone`, then --runs results/runs/alone/runs."
)


def alone(runs: pd.DataFrame) -> "pd.Series[bool]":
    """Which runs were trained by themselves; of a record that does not say so it is not believed."""
    if "population.size" not in runs:
        return pd.Series(False, index=runs.index)
    return runs["population.size"].eq(1)


def differing(runs: pd.DataFrame) -> list[str]:
    """The columns of `SAME` in which ``runs`` are not alike, and for which their seconds cannot be compared."""
    return [column for column in SAME if column in runs and runs[column].nunique(dropna=False) > 1]


def objection(runs: pd.DataFrame) -> str:
    """Why the times of ``runs`` cannot be held against each other; empty if they can."""
    if not alone(runs).all():
        return f"{SHARED}. {ADVICE}"
    untold = [column for column in ("threads", "kernel") if runs[column].isna().any()]
    if untold:
        return f"the records of some do not say {' and '.join(untold)}."
    unlike = differing(runs)
    return f"their times were taken with another {', '.join(unlike)}." if unlike else ""
