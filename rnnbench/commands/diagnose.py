"""``rnnbench diagnose``: how far back the gradient of finished runs reaches, and what their gates do."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rnnbench.commands import add_runs

if TYPE_CHECKING:
    import pandas as pd


def main(argv: Sequence[str]) -> int:
    """Measure what is not measured yet, print the tables, draw the figure; returns the exit status."""
    args = _parser().parse_args(argv)
    from rnnbench.analysis.plots.style import FORMATS
    from rnnbench.errors import UserError, check_choice, check_torch, check_whole

    for fmt in args.format:
        check_choice("--format", fmt, FORMATS)
    if args.limit is not None:
        check_whole("--limit", args.limit, 1)
    check_torch()
    if args.run_dir and (args.task or args.cell or args.limit):
        raise UserError("RUN_DIR and --task, --cell or --limit: give the runs by name, or say which to choose.")
    chosen = _named(args.run_dir) if args.run_dir else _chosen(args)
    sys.path.append(str(Path.cwd()))  # for cells and tasks of one's own
    _measure(list(chosen), args)

    from rnnbench.analysis.diagnoses import Diagnosed, tables
    from rnnbench.analysis.plots.gradients import draw
    from rnnbench.analysis.plots.style import save

    runs = [Diagnosed.read(path, label) for path, label in chosen.items()]
    print(tables(runs))
    for path in save(draw(runs), args.output / "gradients", args.format):
        print(f"\nfigure: {path}")
    return 0


def _named(paths: Sequence[Path]) -> dict[Path, str]:
    """The runs that are named, with their labels."""
    from rnnbench.analysis.diagnoses import labels

    return labels(list(dict.fromkeys(path.expanduser().resolve() for path in paths)))


def _chosen(args: argparse.Namespace) -> dict[Path, str]:
    """The runs that count (see `rnnbench.analysis.pool`) of the tasks and cells asked for, with their labels."""
    from rnnbench.analysis.collect import collect
    from rnnbench.analysis.pool import pool
    from rnnbench.errors import UserError

    runs: pd.DataFrame = collect(args.runs)
    for column, wanted in (("task", args.task), ("cell", args.cell)):
        there = sorted(runs[column].unique())
        if unknown := [name for name in wanted if name not in there]:
            raise UserError(f"--{column} {','.join(unknown)}: no such runs in {args.runs}. There: {', '.join(there)}.")
        if wanted:
            runs = runs[runs[column].isin(wanted)]
    if runs.empty:
        raise UserError(
            f"{args.runs}: no run is of --task {','.join(args.task)} and --cell {','.join(args.cell)} at once."
        )
    found = {}
    for members in pool(runs).groups():
        for run in members.sort_values("seed").head(args.limit or len(members)).to_dict("records"):
            found[Path(run["path"])] = f"{run['cell']} {run['variant']}".strip()
    return found


def _measure(paths: Sequence[Path], args: argparse.Namespace) -> None:
    """Measure the runs in ``paths`` that are not measured, and say how many were."""
    from tqdm import tqdm

    from rnnbench.examine import Examiner
    from rnnbench.tasks.store import DATA_DIR_VARIABLE

    data_dir = args.data_dir or os.environ.get(DATA_DIR_VARIABLE)
    examine = Examiner(Path(data_dir).expanduser() if data_dir else None, args.force)
    new = sum(examine(path) for path in tqdm(paths, unit="run", dynamic_ncols=True, disable=None))
    if new < len(paths):
        print(
            f"{len(paths) - new} of {len(paths)} runs were measured before; --force measures again\n", file=sys.stderr
        )


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench diagnose",
        description="Of finished runs, at their best weights and on validation sequences: the norm of the gradient of "
        "the last step's loss with respect to the states before it, the mean and the saturation of the gates, and the "
        "spectral radius of U; as tables, as a figure, and as curves for TensorBoard. Of a search only the candidate "
        "best on validation is measured.",
    )
    parser.add_argument("run_dir", nargs="*", type=Path, metavar="RUN_DIR", help="these runs; default: all that count")
    add_runs(parser)
    parser.add_argument("--task", type=_words, default=[], metavar="T[,T]", help="only these tasks")
    parser.add_argument("--cell", type=_words, default=[], metavar="C[,C]", help="only these cells")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N seeds of each cell")
    parser.add_argument(
        "--output", type=Path, default=Path("results/plots"), metavar="DIR", help="of the figure (results/plots)"
    )
    parser.add_argument("--format", type=_words, default=["png"], metavar="F[,F]", help="png (default), svg, pdf")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="of the music files; default: as each run had it")
    parser.add_argument("--force", action="store_true", help="measure again what was measured")
    return parser
