"""``rnnbench plot``: draw runs."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rnnbench.commands import add_choice, chosen, words
from rnnbench.errors import UserError, check_choice

KINDS = {
    "curves": ("learning", "learning curves, against updates and seconds"),
    "rates": ("rates", "scores against the learning rate, and what to expect of the best of k rates"),
    "lengths": ("lengths", "success rate against length, for adding and copy memory"),
    "times": ("times", "time per update of each cell, from runs made alone"),
}
"""Kind -> module of `rnnbench.analysis.plots` with a ``draw(runs, metric) -> Drawing``, and what it shows."""


def main(argv: Sequence[str]) -> int:
    """Draw, write, print the paths; returns the exit status."""
    args = _parser().parse_args(argv)
    for kind in args.kinds:
        check_choice("plot", kind, KINDS)
    from rnnbench.analysis.collect import METRICS
    from rnnbench.analysis.plots.style import FORMATS, save

    if args.metric:
        check_choice("--metric", args.metric, METRICS)
    for fmt in args.format:
        check_choice("--format", fmt, FORMATS)
    runs = chosen(args)
    reasons, drawn = {}, 0
    for kind in dict.fromkeys(args.kinds or KINDS):
        draw = importlib.import_module(f"rnnbench.analysis.plots.{KINDS[kind][0]}").draw
        try:
            drawing = draw(runs, args.metric)
        except UserError as error:
            reasons[kind] = str(error)
            continue
        for path in save(drawing.figure, args.output / kind, args.format):
            print(path)
        for note in drawing.notes:
            print(f"  {note}")
        drawn += 1
    told = [f"{kind}: not drawn: {reason}" for kind, reason in reasons.items()]
    if reasons and (args.kinds or not drawn):
        raise UserError("\n".join(told))
    print("\n".join(told), end="\n" if told else "", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench plot",
        description="Draw runs, a panel for each task, a line for each cell. Only runs that may be pooled are: those "
        "equal in everything but the seed. Without a kind, all that the runs allow is drawn.",
        epilog="\n".join(["kinds:", *(f"  {kind:<9}{what}" for kind, (_, what) in KINDS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    add_choice(parser)
    parser.add_argument(
        "--metric", metavar="M", help="nll_step, nll_seq, mse, xent; default: the one that selects (music: nll_step)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("results/plots"), metavar="DIR", help="where to (results/plots)"
    )
    parser.add_argument("--format", type=words, default=["png"], metavar="F[,F]", help="png (default), svg, pdf")
    return parser
