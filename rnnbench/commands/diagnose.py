"""``rnnbench diagnose``: how far back the gradient of finished runs reaches, and what their gates do."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rnnbench.commands import add_choice, chosen, words


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
    if args.run_dir and (args.task or args.cell or args.where or args.limit):
        raise UserError(
            "RUN_DIR and --task, --cell, --where or --limit: give the runs by name, or say which to choose."
        )
    shown = _named(args.run_dir) if args.run_dir else counting(args)
    sys.path.append(str(Path.cwd()))  # for cells and tasks of one's own
    _measure(list(shown), args)

    from rnnbench.analysis.diagnoses import Diagnosed, tables
    from rnnbench.analysis.plots.gradients import draw
    from rnnbench.analysis.plots.style import save

    runs = [Diagnosed.read(path, task, label) for path, (task, label) in shown.items()]
    print(tables(runs))
    for path in save(draw(runs), args.output / "gradients", args.format):
        print(f"\nfigure: {path}")
    return 0


def _named(paths: Sequence[Path]) -> dict[Path, tuple[str, str]]:
    """The runs that are named, with the task and the label that they are shown under."""
    from rnnbench.analysis.diagnoses import labels

    return labels(list(dict.fromkeys(path.expanduser().resolve() for path in paths)))


def counting(args: argparse.Namespace) -> dict[Path, tuple[str, str]]:
    """The runs that count (see `rnnbench.analysis.pool`) of those asked for, and what they are shown under."""
    from rnnbench.analysis.compare import method_of, where
    from rnnbench.analysis.pool import natural, pool

    found = {}
    for members in pool(chosen(args)).groups():
        first = members.iloc[0]
        shown_as = where(first["task"], first["setting"]), method_of(members)
        for path in members.sort_values("seed")["path"].head(args.limit or len(members)):
            found[Path(path)] = shown_as
    return dict(sorted(found.items(), key=lambda item: tuple(natural(name) for name in item[1])))


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench diagnose",
        description="Of finished runs, at their best weights and on validation sequences: the norm of the gradient of "
        "the last step's loss with respect to the states before it, the mean and the saturation of the gates, and the "
        "spectral radius of U; as tables, as a figure, and as curves for TensorBoard. Of a search only the candidate "
        "best on validation is measured.",
    )
    parser.add_argument("run_dir", nargs="*", type=Path, metavar="RUN_DIR", help="these runs; default: all that count")
    add_choice(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="at most N seeds of each cell")
    parser.add_argument(
        "--output", type=Path, default=Path("results/plots"), metavar="DIR", help="of the figure (results/plots)"
    )
    parser.add_argument("--format", type=words, default=["png"], metavar="F[,F]", help="png (default), svg, pdf")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="of the music files; default: as each run had it")
    parser.add_argument("--force", action="store_true", help="measure again what was measured")
    return parser
