"""The mean over seeds and its interval as runs of TensorBoard, so that a cell's average can be seen there.

::

    <directory>/<task>/<cell>[ <variant>]/{mean,low,high}

Three runs beside each other with the tags that the runs themselves have, ``valid/<metric>`` and ``train/loss``, since
TensorBoard draws runs of one tag into one panel: the three make a band, and cells stand beside each other.
"""

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from rnnbench.analysis.curves import histories, mean_curve
from rnnbench.analysis.plots.style import BAND_FROM
from rnnbench.analysis.pool import Pool
from rnnbench.errors import UserError

ENDS = ("mean", "low", "high")

MARK = "WRITTEN_BY_RNNBENCH_REPORT"
"""The file by which a directory of these is known, and may be replaced."""

LONGEST_NAME = 120
"""Bytes of the name of a directory, of 255 that file systems allow."""


def write_averages(pool: Pool, directory: Path, runs_dir: Path) -> list[str]:
    """Write the curves of all that may be pooled below ``directory``, in place of what an earlier call wrote there.

    With fewer than `BAND_FROM` seeds there is the mean alone, as in the plots.

    Args:
        pool: the runs, without axes.
        directory: is made, or replaced as a whole.
        runs_dir: where the runs are, which are never touched.

    Returns:
        The names of the groups, ``<task>/<cell>[ <variant>]``.

    Raises:
        UserError: if ``directory`` holds something else, or is where the runs are.
    """
    check_directory(directory, runs_dir)
    directory.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        new.chmod(0o755)
        (new / MARK).write_text("Replaced as a whole by each `rnnbench report`.\n", encoding="utf-8")
        names = [name for members in pool.groups() if (name := _write_group(members, new))]
        if directory.exists():
            old = new.with_name(f"{new.name}.old")
            directory.rename(old)
            new.rename(directory)
            shutil.rmtree(old)
        else:
            new.rename(directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return sorted(names)


def check_directory(directory: Path, runs_dir: Path) -> None:
    """Raise `UserError` if ``directory`` may not be written to: it holds something else, or is where the runs are."""
    here, runs = directory.resolve(), runs_dir.resolve()
    if here.is_relative_to(runs) or runs.is_relative_to(here):
        raise UserError(f"--curves {directory}: the runs are there ({runs_dir}). Give a directory beside them.")
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise UserError(f"--curves {directory}: is no directory. Give the name of one that may be replaced.")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / MARK).is_file():
        raise UserError(
            f"--curves {directory}: holds something that rnnbench report has not written. Give another directory, "
            "which is replaced each time, or --no-curves."
        )


def _write_group(members: pd.DataFrame, directory: Path) -> str:
    """Write the curves of runs that may be pooled; their name, empty if there is nothing to write."""
    first = members.iloc[0]
    name = f"{_file_name(first['task'])}/{_file_name(' '.join(filter(None, (first['cell'], first['variant']))))}"
    measured = histories(members)
    curves = {tag: mean_curve(measured, tag) for tag in (f"valid/{first['metric']}", "train/loss")}
    points = pd.concat([curve.assign(tag=tag) for tag, curve in curves.items()]).sort_values("x", kind="stable")
    if points.empty:
        return ""
    for end in ENDS if len(members) >= BAND_FROM else ENDS[:1]:
        _write_run(directory / name / end, points[["tag", "x", end]].itertuples(index=False, name=None))
    return name


def _write_run(path: Path, points: Iterable[tuple[str, float, float]]) -> None:
    """An event file with the scalars (tag, step, value)."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(path))
    now = time.time()
    for tag, step, value in points:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        writer.add_event(Event(wall_time=now, step=round(step), summary=summary))
    writer.close()


def _file_name(text: str) -> str:
    """``text`` as the name of a directory: no slashes, not hidden, not too long, and no other text's."""
    name = re.sub(r"[/\\\x00-\x1f]", "_", text)
    name = f"_{name[1:]}" if name.startswith(".") else name
    if name == text and len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    short = name.encode()[: LONGEST_NAME - 7].decode(errors="ignore").rstrip()
    return f"{short}~{digest}"
