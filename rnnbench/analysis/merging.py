"""Runs of other machines beside one's own: which may stand together, and writing them so that a crash costs nothing."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnnbench.analysis.bundle import Bundle, Run
from rnnbench.config import RunConfig, identity
from rnnbench.errors import BusyError, UserError
from rnnbench.files import write_atomically
from rnnbench.lock import locked
from rnnbench.record import Record
from rnnbench.state import run_dirs

SPLITS = ("train", "valid", "test")
UNDER_WAY = ".merge"
"""What the directory of a run ends with until it is whole: ``.s<seed>-<hash>.merge``."""


@dataclass(frozen=True)
class Merged:
    """What became of the runs of one file."""

    bundle: Bundle
    added: int
    there: int
    """Already there, with the same outcome."""
    kept: int
    """Already there with another outcome, which was kept."""


@dataclass(frozen=True)
class _Known:
    """A run that others must agree with."""

    where: str
    config: RunConfig | None
    result: Mapping[str, Any]
    place: str


def merge(paths: Sequence[Path], into: Path, keep_mine: bool = False) -> list[Merged]:
    """Put the runs of some studies into ``into``/runs, all or none.

    Everything is read and checked before anything is written. Each run appears whole, by a renaming; a merge that was
    cut off is ended by the same command.

    Args:
        paths: files that `rnnbench.analysis.bundle.pack` wrote.
        into: a directory of results, which need not exist.
        keep_mine: where a run is there already, with another outcome, keep that one.

    Raises:
        UserError: if a file is not what it should be, or runs cannot stand together.
    """
    bundles = [Bundle(path) for path in paths]
    _checked(bundles, into, keep_mine)  # what is refused leaves no trace, and what is not is checked once more, alone
    try:
        with locked(into / ".merge.lock", str(into)):
            found = _checked(bundles, into, keep_mine)
            return [_written(bundle, runs, into, kept) for bundle, runs, kept in found]
    except BusyError as error:
        raise UserError(f"--into {into}: another merge is writing there at the moment. Wait for it.") from error


def _checked(bundles: Sequence[Bundle], into: Path, keep_mine: bool) -> list[tuple[Bundle, list[Run], int]]:
    """For each bundle the runs to be written, and how many others are kept though these have another outcome.

    Raises:
        UserError: for the first run that cannot stand beside the others.
    """
    known = {run.place: run for run in _there(into)}
    data = {_task_of(run): run for run in reversed(list(known.values())) if run.result.get("data_checksum")}
    found = []
    for bundle in bundles:
        new, kept = [], 0
        for run in bundle.runs:
            here = _Known(str(bundle.path), run.config, run.result, run.place)
            _check_task(data.setdefault(_task_of(here), here), here)
            if (other := known.setdefault(run.place, here)) is here:
                new.append(run)
            elif _outcome(other.result) != _outcome(run.result):
                kept += 1
                if not keep_mine:
                    raise _disagreement(other, here)
        found.append((bundle, new, kept))
    return found


def _there(into: Path) -> Iterator[_Known]:
    """The runs below ``into``; of one without a result that can be read, the result is empty."""
    for path in run_dirs(into / "runs"):
        try:
            result = Record(path).result() or {}
            config = Record(path).config()
        except UserError:
            result, config = {}, None
        yield _Known(str(path), config, result, "/".join(["runs", *path.parts[-3:]]))


def _task_of(run: _Known) -> str:
    """What the data must be equal for: all of a task's config that decides anything."""
    if run.config is None:
        return run.place
    return repr(sorted((key, str(value)) for key, value in identity(run.config).items() if key.startswith("task.")))


def _check_task(first: _Known, second: _Known) -> None:
    """Raise `UserError` if two runs on one task had other data, or were selected by another metric."""
    for key, what in (("data_checksum", "other data"), ("metric", "another metric"), ("unit", "another unit")):
        values = [run.result.get(key) for run in (first, second)]
        if values[0] != values[1] and None not in values:  # what an old record does not say is no difference
            raise UserError(
                f"{second.where}: {second.place} is on {what} than {first.place} of {first.where} ({key} {values[1]} "
                f"and {values[0]}), though their task has the same config, so they cannot be compared. Nothing was "
                "merged. Give another --into to look at them alone."
            )


def _outcome(result: Mapping[str, Any]) -> tuple[object, ...]:
    """What two machines must agree on, to the bit."""
    return tuple(result.get(key) for key in ("status", *SPLITS, "best_valid", "best_epoch", "epochs", "updates"))


def _disagreement(first: _Known, second: _Known) -> UserError:
    told = " and ".join(f"{_told(run.result)} ({run.where}, {_machine(run.result)})" for run in (first, second))
    return UserError(
        f"{second.place}: the same run has two outcomes: {told}. Machines may round differently, and training makes "
        "much of it. Nothing was merged. --keep-mine keeps what is in the target, or in the file that is named first."
    )


def _told(result: Mapping[str, Any]) -> str:
    if not result:
        return "not finished"
    metric = result.get("metric")
    score = (result.get("test") or {}).get(metric)
    return f"{result['status']}, test {metric} {score!r}" if score is not None else str(result["status"])


def _machine(result: Mapping[str, Any]) -> str:
    versions = result.get("versions") or {}
    return f"{result.get('device_name') or 'unknown machine'}, torch {versions.get('torch')}"


def _written(bundle: Bundle, runs: Sequence[Run], into: Path, kept: int) -> Merged:
    for run in runs:
        _write(into / run.place, bundle.contents(run))
    return Merged(bundle, len(runs), len(bundle.runs) - len(runs) - kept, kept)


def _write(path: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """Write a run's directory beside its place, and rename it into it."""
    draft = path.parent / f".{path.name}{UNDER_WAY}"
    if draft.exists():  # by a merge that was killed
        shutil.rmtree(draft)
    for name, content in contents:
        write_atomically(draft / name, content)
    draft.rename(path)
