"""A cell for `scripts/faults.py`, whose runs meet with accidents: which one is decided by the seed.

Accidents happen where FAULTS names a directory: in it a file remembers each that happens only once.
"""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import rnnbench.record
from rnnbench.files import write_atomically
from rnnbench.record import Record
from rnnbench.runner import Runner

KINDS = {
    1: "raises",
    2: "exits",
    3: "killed once",
    4: "killed always",
    5: "vanishes once",
    6: "disk full once",
    7: "checkpoint damaged once",
    8: "curve cut short once",
    9: "directory removed once",
    10: "interrupted while saving once",
    11: "diverges",
    12: "out of memory",
    13: "stopped by SIGTERM once",
    14: "result cut short",
    15: "stale lock",
}
"""What happens to the runs whose seed leaves this remainder modulo `CYCLE`; the last two before the sweep begins."""

CYCLE = 40


class Cell(torch.nn.RNNCell):
    """A tanh unit."""


def kind_of(seed: int) -> str | None:
    """The accident of a run, if any."""
    return KINDS.get(seed % CYCLE)


def _first_time(seed: int) -> bool:
    try:
        (Path(os.environ["FAULTS"]) / str(seed)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _die(signum: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), signum)


def _damage(record: Record) -> None:
    record.last.write_bytes(record.last.read_bytes()[:200])
    _die()


def _cut_short(record: Record) -> None:
    with record.metrics_file.open("a") as file:
        file.write('{"epoch": 9, "upd')
    _die()


def _diverge(runner: Runner) -> None:
    with torch.no_grad():
        runner.member.theta.fill_(float("nan"))


def _disk_full(runner: Runner) -> None:
    raise OSError(28, "No space left on device", str(runner.record.last))


def _raise(error: BaseException) -> None:
    raise error


def _accident(runner: Runner) -> None:
    """What happens to a run after its first epoch, once in each process."""
    kind, record = kind_of(runner.config.seed), runner.record
    if kind is None or runner.config.seed in _met or (kind.endswith("once") and not _first_time(runner.config.seed)):
        return
    _met.add(runner.config.seed)
    what: Mapping[str, Callable[[], object]] = {
        "raises": lambda: _raise(ValueError("boom")),
        "exits": lambda: sys.exit(3),
        "killed once": _die,
        "killed always": _die,
        "vanishes once": lambda: os._exit(0),
        "disk full once": lambda: _disk_full(runner),
        "checkpoint damaged once": lambda: _damage(record),
        "curve cut short once": lambda: _cut_short(record),
        "directory removed once": lambda: shutil.rmtree(record.path),
        "diverges": lambda: _diverge(runner),
        "out of memory": lambda: _raise(MemoryError()),
        "stopped by SIGTERM once": lambda: _die(signal.SIGTERM),
    }
    if kind in what:
        what[kind]()


_met: set[int] = set()
_updated, _write = Runner.updated, write_atomically


def _updated_with_accidents(self: Runner, member: Any) -> None:  # noqa: ANN401 - as the method it replaces
    _updated(self, member)
    if member.progress.update >= 5:
        _accident(self)


def _write_interrupted(path: Path, content: bytes) -> None:
    seed = path.parent.name.removeprefix("s").partition("-")[0]
    if path.name == "last.pt" and seed.isdigit() and kind_of(int(seed)) == KINDS[10] and _first_time(int(seed)):
        with contextlib.suppress(OSError):
            (path.parent / ".last.pt.half.tmp").write_bytes(content[: len(content) // 2])
        _die(signal.SIGINT)
        _die(signal.SIGINT)
    _write(path, content)


if "FAULTS" in os.environ:
    Runner.updated = _updated_with_accidents  # type: ignore[method-assign]
    vars(rnnbench.record)["write_atomically"] = _write_interrupted
