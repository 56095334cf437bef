"""``rnnbench table``: collect runs into comparison tables."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rnnbench.commands import add_filters, add_runs, only, words


def main(argv: Sequence[str]) -> int:
    """Collect, compare, print; returns the exit status."""
    args = _parser().parse_args(argv)
    from rnnbench.analysis.collect import collect
    from rnnbench.analysis.layout import render
    from rnnbench.analysis.tables import tabulate

    runs = only(collect(args.runs), args)
    if args.runs_csv:
        args.runs_csv.parent.mkdir(parents=True, exist_ok=True)
        runs.to_csv(args.runs_csv, index=False)
    text = render(tabulate(runs, args.metric, args.split), args.format)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    else:
        print(text.rstrip("\n"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench table",
        description="Compare runs: rows are tasks, columns cells; mean ± standard deviation over seeds. Only runs "
        "equal in everything but the seed are pooled; of a search over learning rates only the candidate best on "
        "validation counts.",
    )
    add_runs(parser)
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
    add_filters(parser)
    parser.add_argument("--format", default="text", metavar="F", help="text (default), markdown, latex, csv")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")
    parser.add_argument(
        "--runs-csv", type=Path, metavar="FILE", help="also write all runs, a row each, with provenance"
    )
    return parser
