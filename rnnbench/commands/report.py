"""``rnnbench report``: all that can be said of the runs, as one page, and their mean curves for TensorBoard."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rnnbench.commands import add_choice, chosen, words


def main(argv: Sequence[str]) -> int:
    """Collect, compare, draw, write; returns the exit status."""
    args = _parser().parse_args(argv)
    from rnnbench.analysis.average_runs import check_directory, write_averages
    from rnnbench.analysis.collect import METRICS
    from rnnbench.analysis.pool import pool
    from rnnbench.analysis.report import report
    from rnnbench.errors import UserError, check_choice
    from rnnbench.files import write_atomically

    for metric in args.metric:
        check_choice("--metric", metric, METRICS)
    if not args.no_curves:
        check_directory(args.curves, args.runs)
    if args.output.is_dir():
        raise UserError(
            f"--output {args.output}: is a directory. Name the file, for example {args.output}/report.html."
        )
    runs = chosen(args)
    page = report(runs, args.runs, args.metric, args.title).encode()
    write_atomically(args.output, page)
    print(f"{args.output}: {len(runs)} runs, {len(page) / 1e6:.1f} MB")
    if not args.no_curves and (runs["status"] == "done").any():
        names = write_averages(pool(runs), args.curves, args.runs)
        print(f"{args.curves}: mean curves of {len(names)} cells and variants; tensorboard --logdir {args.curves}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench report",
        description="Write one HTML file, which needs nothing else: what the runs allow to conclude, tables that can "
        "be sorted, plots, the configuration and provenance of every run, and what failed. Also write the mean curves "
        "over seeds and their intervals as TensorBoard runs. Works during a sweep, on what is there.",
    )
    add_choice(parser)
    parser.add_argument(
        "--metric",
        type=words,
        default=[],
        metavar="M[,M]",
        help="nll_step, nll_seq, mse, xent; default: both averagings in tables, else the one that selects",
    )
    parser.add_argument("--title", default="Recurrent cells compared", metavar="T", help="of the page")
    parser.add_argument(
        "--output", type=Path, default=Path("results/report.html"), metavar="FILE", help="results/report.html"
    )
    parser.add_argument(
        "--curves",
        type=Path,
        default=Path("results/curves"),
        metavar="DIR",
        help="where to write the mean curves for TensorBoard; replaced as a whole (results/curves)",
    )
    parser.add_argument("--no-curves", action="store_true", help="write the page only")
    return parser
