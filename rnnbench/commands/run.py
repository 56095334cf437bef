"""``rnnbench run``: one run, or a sweep with ``-m``."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rnnbench.config import RunConfig, hydra_run
from rnnbench.errors import UserError


class Interrupted(KeyboardInterrupt):
    """A run was stopped by the user, and said so."""


def main(argv: Sequence[str]) -> int:
    """Let Hydra make the config of each run, and run it; returns the exit status.

    A run that fails does not keep those after it in a sweep from running; all failures are listed at the end.
    """
    sys.path.append(str(Path.cwd()))  # for cells and tasks of one's own
    failures: list[tuple[str, Exception]] = []

    def job(config: RunConfig) -> None:
        name = f"{config.cell['name']} on {config.task['name']}, seed {config.seed}"
        try:
            _run_and_tell(config)
        except Exception as error:
            failures.append((name, error))
            _tell(name, error)
            raise

    try:
        hydra_run(job, "rnnbench", argv)
    except Exception as error:
        if not failures:
            raise
        if len(failures) > 1 or error is not failures[0][1]:
            lines = "\n".join(f"  {name}: {str(e).splitlines()[0]}" for name, e in failures)
            print(f"rnnbench: {len(failures)} of the runs failed:\n{lines}", file=sys.stderr)
        return 1
    return 0


def _run_and_tell(config: RunConfig) -> None:
    from rnnbench.run import run
    from rnnbench.summary import next_steps, summarise

    result = run(config)
    print(summarise(result, already_there=result.get("repeated") is False))
    if result["status"] == "interrupted":
        raise Interrupted
    print(next_steps(config.results_dir), flush=True)


def _tell(name: str, error: Exception) -> None:
    """An error of the user's in a line; any other with its traceback, which is what one's own cell needs."""
    if isinstance(error, UserError):
        print(f"rnnbench: error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
        print(f"rnnbench: {name}: failed with {type(error).__name__}: {error}", file=sys.stderr)
