"""``rnnbench compare``: which cell is better, as far as the runs allow to say."""

import argparse
import sys
from collections.abc import Sequence

from rnnbench.commands import add_choice, add_output, chosen, words, write


def main(argv: Sequence[str]) -> int:
    """Pair, test, print; returns the exit status."""
    args = _parser().parse_args(argv)
    from rnnbench.analysis.collect import METRICS, SPLITS
    from rnnbench.analysis.compare import TIME, aggregate, compare
    from rnnbench.analysis.conclusions import refusals, render
    from rnnbench.analysis.pool import pool
    from rnnbench.errors import check_choice

    for metric in args.metric:
        check_choice("--metric", metric, (*METRICS, TIME))
    check_choice("--split", args.split, SPLITS)
    pooled = pool(chosen(args))
    found = compare(pooled, args.metric, args.split, args.against, args.any_size)
    if args.format == "csv":  # which has room for numbers only
        print("\n".join([*refusals(found), *found.notes]), file=sys.stderr)
    write(args, render(found, aggregate(pooled, found, args.metric, args.split), args.format))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench compare",
        description="Hold the cells of each task against each other, paired by seed: the difference of means with its "
        "95 % interval, a paired permutation test corrected for the number of comparisons (Holm), and what can be "
        "concluded; `undecided` is an answer, with the number of seeds that might decide. Runs that differ in "
        "protocol, data or the way that the learning rate was chosen, and networks of other sizes, are told apart.",
    )
    add_choice(parser)
    parser.add_argument(
        "--metric",
        type=words,
        default=[],
        metavar="M[,M]",
        help="nll_step, nll_seq, mse, xent, or us_per_update (of runs made alone); default: the one that selects",
    )
    parser.add_argument("--split", default="test", metavar="S", help="test (default), valid or train")
    parser.add_argument("--against", metavar="CELL", help="hold the others against this one only")
    parser.add_argument("--any-size", action="store_true", help="compare networks of unequal numbers of parameters too")
    add_output(parser)
    return parser
