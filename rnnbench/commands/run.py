"""``rnnbench run``: one run, or a sweep with ``-m``."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rnnbench.compose import Failure, hydra_run
from rnnbench.config import RunConfig
from rnnbench.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Let Hydra make the config of each run, and run it; returns the exit status.

    All failures of a sweep are listed at its end, and make the exit status 1.
    """
    sys.path.append(str(Path.cwd()))  # for cells and tasks of one's own
    failures: list[Failure] = []
    sweep = bool({"-m", "--multirun"} & set(argv)) or any(arg.startswith("experiment=") for arg in argv)
    try:
        hydra_run(_run_and_tell, _tell, argv, failures)
    finally:  # Ctrl-C in a sweep must not take the list with it
        if failures and sweep:
            lines = "\n".join(f"  {name}\n    {_first_line(error)}" for name, error in failures)
            print(f"rnnbench: {len(failures)} of the sweep's runs failed:\n{lines}", file=sys.stderr)
    return 1 if failures else 0


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _run_and_tell(config: RunConfig) -> None:
    from rnnbench.run import run
    from rnnbench.summary import next_steps, summarise

    result = run(config)
    print(summarise(result))
    if result["status"] == "interrupted":
        raise KeyboardInterrupt  # the sweep, if this is one, ends too
    print(next_steps(config.results_dir), flush=True)


def _tell(failure: Failure) -> None:
    """An error of the user's in a line; any other with its traceback, which is what one's own cell needs."""
    name, error = failure
    if isinstance(error, UserError):
        print(f"rnnbench: error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
        print(f"rnnbench: {name or 'the run'}: failed with {type(error).__name__}: {error}", file=sys.stderr)
