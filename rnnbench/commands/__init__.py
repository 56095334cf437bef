"""The sub-commands of the command line, a module each."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rnnbench.errors import UserError

if TYPE_CHECKING:  # what is heavy is imported when it is known that it is needed
    import pandas as pd


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The option ``--runs`` of the commands that look at what has been run."""
    parser.add_argument(
        "--runs", type=Path, default=Path("results/runs"), metavar="DIR", help="where the runs are (results/runs)"
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """The options ``--task`` and ``--cell``, for `only`."""
    parser.add_argument("--task", type=words, default=[], metavar="T[,T]", help="only these tasks")
    parser.add_argument("--cell", type=words, default=[], metavar="C[,C]", help="only these cells")


def only(runs: "pd.DataFrame", args: argparse.Namespace) -> "pd.DataFrame":
    """The runs of the tasks and cells that were asked for.

    Raises:
        UserError: if there are none.
    """
    for column, wanted in (("task", args.task), ("cell", args.cell)):
        if wanted:
            there = sorted(runs[column].unique())
            runs = runs[runs[column].isin(wanted)]
            if runs.empty:
                raise UserError(
                    f"--{column} {','.join(wanted)}: no such runs in {args.runs}. There: {', '.join(there)}."
                )
    return runs


def words(text: str) -> list[str]:
    """The words of ``a,b,c``."""
    return [word for word in text.split(",") if word]
