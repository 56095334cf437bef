"""``rnnbench merge``: runs of other machines, checked, in a directory of their own."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Check, write, tell; returns the exit status."""
    args = _parser().parse_args(argv)
    from rnnbench.analysis.merging import merge
    from rnnbench.summary import counted

    for merged in merge(args.files, args.into, args.keep_mine):
        bundle = merged.bundle
        kept = f", {merged.kept} here with another outcome, which was kept" if merged.kept else ""
        print(
            f"{bundle.path}: study {bundle.name} of {bundle.created}: {counted(len(bundle.runs), 'run')}, "
            f"{merged.added} new, {merged.there} here already{kept}"
        )
    print(f"  next      rnnbench table --runs {args.into / 'runs'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench merge",
        description="Put the runs of files that `rnnbench export` wrote into a directory of results, beside those that "
        "are there. All is checked first; runs that cannot be compared are refused, and nothing there is changed.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of rnnbench export")
    parser.add_argument(
        "--into", type=Path, default=Path("results/merged"), metavar="DIR", help="results to add to (results/merged)"
    )
    parser.add_argument(
        "--keep-mine", action="store_true", help="where the same run has another outcome here, keep that of here"
    )
    return parser
