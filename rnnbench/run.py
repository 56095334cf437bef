"""Runs, from their configs to their records. Runs that are started together train side by side: a population.

What is said here of files and of what must be true before and after; what happens while a run trains is in `runner`.
"""

import errno
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rnnbench.assemble import Prepared, prepare
from rnnbench.config import RunConfig, run_key
from rnnbench.engines import Engines
from rnnbench.errors import BusyError, UserError, first_line
from rnnbench.population import take_turns
from rnnbench.progress import ProgressBar
from rnnbench.record import FINISHED, Record
from rnnbench.runner import Result, Shared, recorded


def run(config: RunConfig) -> Result:
    """Train, or go on training, or take what is there already.

    Returns:
        The content of result.json, the run's ``path``, and whether it was ``trained_now``.

    Raises:
        UserError: for anything the user can mend; what was computed until then is kept.
    """
    result = run_population([config])[0]
    if "exception" in result:
        raise result["exception"]
    return result


def run_population(configs: Sequence[RunConfig]) -> list[Result]:
    """Train several runs side by side, each with a record, a checkpoint and an end of its own.

    What they have in common besides is taken from the first: threads, kernel, device, progress.

    Returns:
        For each config what `run` returns; for a run that failed, its ``status`` "error", or "busy" if another process
        is training it, the ``error`` in a line, the ``exception``, and the ``log`` of the run if there is one.

    Raises:
        KeyboardInterrupt: at the second Ctrl-C; the first lets every run save itself and end as "interrupted".
    """
    first = configs[0]
    with ProgressBar(first.progress) as bar:
        keys = [run_key(config) for config in configs]
        shared = Shared(keys, Engines(first, members=len(configs)), bar)
        with _signals(shared):
            ends = take_turns([_loop(config, shared) for config in configs], lambda: shared.engines.members_at_once)
    return [_failed(end, c) if isinstance(end, Exception) else end for c, end in zip(configs, ends, strict=True)]


def _failed(error: Exception, config: RunConfig) -> dict[str, Any]:
    log = Record.of(config).log
    return {
        "status": "busy" if isinstance(error, BusyError) else "error",
        "error": first_line(error),
        "exception": error,
        "log": str(log) if log.exists() else None,
    }


def _loop(config: RunConfig, shared: Shared) -> Generator[None, None, Result]:
    """One run, in turns."""
    prepared = prepare(config)
    record = Record.of(config)
    try:
        if record.ended(config) and not config.force:
            return _found(record, config)
        _share_task(prepared, shared)
        with record.locked():
            record.recover()
            if record.ended(config) and not config.force:  # by a process that held the lock until now
                return _found(record, config)
            target = record.replacement() if record.finished() else record
            target.open(config)
            result = yield from recorded(prepared, target, shared)
            if target is not record and result["status"] in FINISHED:
                record.replace_by(target)
            return {**result, "path": str(record.path), "trained_now": True}
    except OSError as error:
        if not _is_of_writing(error, Path(config.results_dir).expanduser()):
            raise
        raise UserError(
            f"{error.filename or record.path}: cannot be written: {error.strerror or error}. What was computed up to "
            "the last checkpoint is kept: mend this and give the same command again, or give another results_dir."
        ) from error


def _share_task(prepared: Prepared, shared: Shared) -> None:
    """Give the run its data: those of another member with the same task, or loaded now."""
    config = prepared.config
    key = repr((config.task, config.data_dir))
    if key not in shared.tasks:
        prepared.task.prepare(Path(config.data_dir).expanduser() if config.data_dir else None)
        shared.tasks[key] = prepared.task
    prepared.task = shared.tasks[key]


def _found(record: Record, config: RunConfig) -> Result:
    record.check(config)
    result = record.result()
    assert result is not None
    return {**result, "path": str(record.path), "trained_now": False}


def _is_of_writing(error: OSError, results_dir: Path) -> bool:
    """Whether an error is about the files of the run, and not one that a cell or task of one's own raised."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
    return Path(os.fsdecode(error.filename)).absolute().is_relative_to(results_dir.absolute())


@contextmanager
def _signals(shared: Shared) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the runs after the updates under way; a second one ends them at once.

    So do SIGUSR1 and SIGUSR2 where there is a handler for them, as submitit has one that puts a Slurm job back into the
    queue shortly before its time is up. It is called when the runs have saved themselves.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    waiting = {s: handler for s in (signal.SIGUSR1, signal.SIGUSR2) if callable(handler := signal.getsignal(s))}
    postponed: dict[signal.Signals, FrameType | None] = {}

    def stop(signum: int, frame: FrameType | None) -> None:
        if signum in waiting:
            postponed[signal.Signals(signum)] = frame
        elif shared.stopping:
            raise KeyboardInterrupt
        shared.stopping = True
        os.write(2, b"\nstopping after this update; once more to stop at once\n")  # print may be under way

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM, *waiting)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    for late, frame in postponed.items():
        waiting[late](late, frame)
