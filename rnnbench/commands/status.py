"""``rnnbench status``: which runs are done, running, interrupted or in error, and how far."""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rnnbench.commands import add_runs
from rnnbench.errors import UserError, check_choice
from rnnbench.record import Record
from rnnbench.state import STATES, State, max_epochs, run_dirs, state_of
from rnnbench.summary import counted

SHOWN = STATES[1:]
CLEAR = "\033[2J\033[H"
"""Empties a terminal."""


def main(argv: Sequence[str]) -> int:
    """Print the table, once or again and again; returns the exit status."""
    args = _parser().parse_args(argv)
    for name in args.only:
        check_choice("--only", name, SHOWN)
    if args.watch is None:
        print(table(args.runs, args.only))
        return 0
    while True:
        text = table(args.runs, args.only)
        print(f"{CLEAR}{text}", flush=True)
        time.sleep(args.watch)


def table(runs_dir: Path, only: Sequence[str]) -> str:
    """The runs below ``runs_dir``, a line each, and how many there are of each state.

    Raises:
        UserError: if there are none.
    """
    states = [(path, state_of(Record(path))) for path in run_dirs(runs_dir)]
    if not states:
        raise UserError(f"{runs_dir}: there are no runs in it. Name their directory with --runs.")
    rows = [("run", "state", "epoch", "updates/s", "")]
    rows += [_row(path, state) for path, state in states if not only or state.status in only]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[4]]).rstrip() for row in rows]
    count = Counter(state.status for _, state in states)
    counts = ", ".join(f"{count[status]} {_in_words(status)}" for status in SHOWN if count[status])
    return "\n".join([*lines, f"{counted(len(states), 'run')}: {counts}"])


def _row(path: Path, state: State) -> tuple[str, str, str, str, str]:
    budget = None if state.finished else max_epochs(path)
    epoch = f"{state.epochs}" + (f" of {budget}" if budget else "")
    speed = f"{state.updates_per_s:,.0f}" if state.updates_per_s else ""
    note = state.error or ""
    if state.status == "running":
        left = (budget - state.epochs) / state.epochs * state.seconds if budget and state.epochs else None
        note = f"by {state.holder}" + ("" if left is None else f"; {left:.0f} s of training left at most")
    elif state.status == "interrupted":
        note = "goes on from its checkpoint" if state.checkpoint else "begins anew: it had no checkpoint yet"
    elif state.status == "pruned":
        note = f"given up as trial {state.trial}; a run of its own goes on from its checkpoint"
    return "/".join(path.parts[-3:]), state.status, epoch, speed, note


def _in_words(status: str) -> str:
    return "in error" if status == "error" else status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench status",
        description="The state of all runs, also while they train, from their files alone. What ended without a word "
        "(killed, or with its machine) is interrupted: the command that made it goes on with it.",
    )
    add_runs(parser)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        metavar="S[,S]",
        help=f"only runs in these states: {', '.join(SHOWN)}",
    )
    parser.add_argument(
        "--watch", nargs="?", type=float, const=2.0, metavar="SECONDS", help="show it again every 2 seconds"
    )
    return parser
