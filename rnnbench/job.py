"""``python -m rnnbench.job FILE ARGS…``: `rnnbench run ARGS…` as a job of a sweep, in a process of its own.

How its runs ended is written to FILE. The job stops, as at Ctrl-C, when its standard input ends: when the process that
started it is no more.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from rnnbench.outcome import Outcome, write_outcomes


def main(argv: Sequence[str]) -> int:
    """Run the job; returns the exit status."""
    from rnnbench.cli import told

    path, args = Path(argv[0]), argv[1:]
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    outcomes: list[Outcome] = []

    def job() -> int:
        from rnnbench.commands.run import run_jobs

        try:
            run_jobs(args, outcomes)
        finally:
            if outcomes:
                write_outcomes(path, outcomes)
        return 1 if any(outcome.failed for outcome in outcomes) else 0

    return told(job)


def _stop_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
