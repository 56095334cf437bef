"""``rnnbench table``: collect runs into comparison tables."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rnnbench.commands import add_choice, add_output, chosen, words, write


def main(argv: Sequence[str]) -> int:
    """Collect, compare, print; returns the exit status."""
    args = _parser().parse_args(argv)
    from rnnbench.analysis.layout import render
    from rnnbench.analysis.tables import tabulate

    runs = chosen(args)
    if args.runs_csv:
        args.runs_csv.parent.mkdir(parents=True, exist_ok=True)
        runs.to_csv(args.runs_csv, index=False)
    write(args, render(tabulate(runs, args.metric, args.split, args.rows, args.columns), args.format))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench table",
        description="Compare runs: rows are tasks, columns cells, or what --rows and --columns say; mean ± standard "
        "deviation over seeds, a star where the statistics allow to call a cell the best, and a verdict beside each "
        "published value. Only runs "
        "equal in everything but the seed are pooled; of a search over learning rates only the candidate best on "
        "validation counts.",
    )
    add_choice(parser)
    parser.add_argument(
        "--metric",
        type=words,
        default=[],
        metavar="M[,M]",
        help="nll_step, nll_seq, mse, xent; default: the one that selects (music: nll_step)",
    )
    parser.add_argument(
        "--split", type=words, default=["train", "valid", "test"], metavar="S[,S]", help="default: train,valid,test"
    )
    parser.add_argument(
        "--rows",
        type=words,
        default=["task"],
        metavar="KEY[,KEY]",
        help="config keys or fields of results that tell the rows apart (task); also metric, split",
    )
    parser.add_argument("--columns", default="cell", metavar="KEY", help="the same for the columns (cell)")
    add_output(parser)
    parser.add_argument(
        "--runs-csv", type=Path, metavar="FILE", help="also write all runs, a row each, with provenance"
    )
    return parser
