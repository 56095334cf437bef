"""A lock that a dead process cannot hold: the kernel's own, on a file that says who has it."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rnnbench.errors import BusyError

ATTEMPTS = 5
"""A twentieth of a second apart: somebody may only be looking (`holder`), or have removed the file."""


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the file ``path`` against other processes, and against other holders in this one.

    Args:
        path: of a file that need not exist, and is not removed afterwards.
        what: it is that is held, for the error.

    Raises:
        BusyError: if another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        with path.open("a+") as file:
            if _acquired(file, fcntl.LOCK_EX) and _is_still(file, path):
                file.truncate(0)
                file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
                file.flush()
                yield
                return
        if attempt < ATTEMPTS - 1:
            time.sleep(0.05)
    raise BusyError(
        f"{what}: another process is training this run at the moment ({holder(path) or 'it has just ended'}). Wait for "
        "it, or change the config or the seed."
    )


def holder(path: Path) -> str | None:
    """Which process holds ``path``, as "pid … on …" if it says so, or None."""
    try:
        with path.open() as file:
            if _acquired(file, fcntl.LOCK_SH):
                return None
            text = file.read()
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
        return f"pid {found['pid']} on {found['host']}"
    except (ValueError, KeyError, TypeError):  # it is being written
        return "another process"


def _acquired(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one that has its name: it may have been removed, and made anew by another process."""
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
