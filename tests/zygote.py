"""Commands in processes of their own that need not import torch: they are forked from one that has.

Importing takes two seconds of processor time, a tiny run a tenth of one, and the suite runs some two hundred. What is
forked has its own process number, working directory, environment, standard streams and end, as a command started by a
shell has. Commands whose environment libraries read while they are loaded must be started in the ordinary way.
"""

import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tests.conftest import PYTHONPATH, ROOT

IMPORTED = (
    "hydra.main",
    "pandas",
    "rnnbench.analysis.tables",
    "rnnbench.commands.run",
    "rnnbench.kernels.compiled",
    "rnnbench.run",
    "rnnbench.summary",
    "rnnbench.tasks.music",
    "torch.utils.tensorboard",
)


def run(args: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """``rnnbench ARGS`` in the directory ``cwd``."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        streams = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
        server.stdin.write(json.dumps([args, str(cwd), dict(os.environ), streams]) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(args, status, out.read().decode(), err.read().decode())


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The process that has imported all, one for each that runs tests; it ends with it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.zygote"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        args, cwd, environment, streams = json.loads(line)
        if (pid := os.fork()) == 0:
            _become(args, cwd, environment, streams)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(args: list[str], cwd: str, environment: dict[str, str], streams: list[str]) -> None:
    """Run a command, and end as it does; never returns."""
    status = 1
    try:
        for number, path in enumerate((os.devnull, *streams)):
            os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update({**environment, "PYTHONPATH": PYTHONPATH})
        sys.path[0] = cwd
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
        from rnnbench.cli import main

        status = main(args)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - as the interpreter would
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
