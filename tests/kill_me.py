"""``python -m tests.kill_me POINT N ARGS…``: `rnnbench run ARGS` in a process that kills itself with SIGKILL.

POINT says where, N at which time it comes there:

=========  ==================================================================
update     after an update
metrics    in the middle of a line of metrics.jsonl
write      in the middle of writing the temporary file of last.pt
rename     before last.pt is renamed into place
between    after best.pt was replaced, before last.pt is written
result     in the middle of writing the temporary file of result.json
=========  ==================================================================
"""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import rnnbench.record
import rnnbench.runner
from rnnbench.cli import main
from rnnbench.files import write_atomically

point, number, args = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
times = 0


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def came_here() -> bool:
    global times
    times += 1
    return times == number


def write(path: Path, content: bytes) -> None:
    target = "result.json" if point == "result" else "last.pt"
    if path.name == target and point in ("write", "rename", "between", "result") and came_here():
        if point in ("write", "result"):
            (path.parent / f".{path.name}.half.tmp").write_bytes(content[: len(content) // 2])
        if point == "rename":
            os.replace = lambda *_: die()
            write_atomically(path, content)
        die()
    write_atomically(path, content)


def append_metrics(self: rnnbench.record.Record, row: Mapping[str, Any]) -> None:
    if came_here():
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write('{"epoch": 1, "upd')
        die()
    real_append(self, row)


def updated(self: rnnbench.runner.Runner, member: Any) -> None:
    if came_here():
        die()
    real_updated(self, member)


real_append, real_updated = rnnbench.record.Record.append_metrics, rnnbench.runner.Runner.updated
vars(rnnbench.record)["write_atomically"] = write
if point == "metrics":
    rnnbench.record.Record.append_metrics = append_metrics  # type: ignore[method-assign]
if point == "update":
    rnnbench.runner.Runner.updated = updated  # type: ignore[method-assign]
sys.exit(main(["run", *args]))
