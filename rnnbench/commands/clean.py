"""``rnnbench clean``: remove what is in error or superseded, after showing it."""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rnnbench.commands import add_runs
from rnnbench.config import identity
from rnnbench.errors import BusyError, UserError
from rnnbench.lock import holder, locked
from rnnbench.record import Record
from rnnbench.state import run_dirs, state_of

LEFT_OVER = {".new": "a repetition by force", ".old": "a repetition by force", ".merge": "a merge"}
"""What the names of directories end with that should not be there for long, and what makes them."""


def main(argv: Sequence[str]) -> int:
    """Show, ask, remove; returns the exit status."""
    args = _parser().parse_args(argv)
    if not args.runs.is_dir():
        raise UserError(f"--runs {args.runs}: there is no such directory.")
    found = [*_leftovers(args.runs), *_superseded(args.runs), *_in_error(args.runs, args.interrupted)]
    if not found:
        print(f"{args.runs}: nothing to remove")
        return 0
    for path, why in found:
        print(f"{path}\n    {why}")
    if not args.yes and not _agreed(len(found)):
        print("nothing was removed")
        return 0
    removed = sum(_remove(path) for path, _ in found)
    print(f"{removed} of {len(found)} removed")
    return 0


def _in_error(runs_dir: Path, interrupted: bool) -> Iterator[tuple[Path, str]]:
    for path in run_dirs(runs_dir):
        state = state_of(Record(path))
        if state.status == "error":
            yield path, f"in error: {state.error or 'no reason recorded'}"
        elif state.status == "interrupted" and not (path / "config.yaml").exists():
            yield path, "not a whole run: it has no config.yaml"
        elif interrupted and state.status == "interrupted":
            yield path, f"interrupted at epoch {state.epochs}"


def _leftovers(runs_dir: Path) -> Iterator[tuple[Path, str]]:
    """What a repetition by force left behind when it was killed; the next one would begin with it."""
    for path in sorted(runs_dir.glob("*/*/.s*-*.*")):
        if path.suffix in LEFT_OVER and holder(Record(path.parent / path.stem.removeprefix(".")).lock) is None:
            yield path, f"left over from {LEFT_OVER[path.suffix]} that was cut off"


def _superseded(runs_dir: Path) -> Iterator[tuple[Path, str]]:
    """Runs of a class of one's own as it was before its file changed, where there is the same run of a later one."""
    versions: dict[str, list[tuple[float, Path]]] = {}
    for path in run_dirs(runs_dir):
        try:
            found: dict[str, Any] = identity(Record(path).config())
        except UserError:
            continue
        if {"cell.source", "task.source"} & found.keys():
            like = repr(sorted((k, v) for k, v in found.items() if not k.endswith(".source")))
            versions.setdefault(like, []).append(((path / "config.yaml").stat().st_mtime, path))
    for runs in versions.values():
        *older, (_, newest) = sorted(runs)
        if state_of(Record(newest)).finished:
            for _, path in older:
                if state_of(Record(path)).status not in ("running", "error"):
                    yield path, f"superseded: its class has changed since, and {newest.name} is of the later one"


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        print("give --yes to remove them where there is no terminal to ask")
        return False
    return input(f"remove {'this' if count == 1 else f'these {count}'}? [y/N] ").strip().lower() in ("y", "yes")


def _remove(path: Path) -> bool:
    """Remove a directory unless a process has just begun with the run."""
    record = Record(path.parent / (path.stem.removeprefix(".") if path.suffix in LEFT_OVER else path.name))
    try:
        with locked(record.lock, str(path)):
            shutil.rmtree(path)
            if path == record.path:
                record.lock.unlink()
    except BusyError as error:
        print(f"kept: {error}", file=sys.stderr)
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench clean",
        description="Remove runs in error, what repetitions by force left behind, and runs of a former version of a "
        "cell or task of one's own. They are shown first, and it is asked. What is running, done or diverged is kept.",
    )
    add_runs(parser)
    parser.add_argument("--interrupted", action="store_true", help="also what was interrupted and could go on")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    return parser
