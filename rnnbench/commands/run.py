"""``rnnbench run``: one run, a population, or a sweep with ``-m``."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnnbench.compose import Failure, hydra_run
from rnnbench.config import RunConfig
from rnnbench.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Let Hydra make the configs, and run them; returns the exit status.

    All failures of a sweep or a population are listed at its end, and make the exit status 1.
    """
    sys.path.append(str(Path.cwd()))  # for cells and tasks of one's own
    failures: list[Failure] = []
    sweep = bool({"-m", "--multirun"} & set(argv)) or any(arg.startswith("experiment=") for arg in argv)
    try:
        hydra_run(_run_and_tell, _tell, argv, failures)
    finally:  # Ctrl-C in a sweep must not take the list with it
        if failures and (sweep or len(failures) > 1):
            lines = "\n".join(f"  {name}\n    {_first_line(error)}" for name, error in failures)
            print(
                f"rnnbench: {len(failures)} of the {'sweep' if sweep else 'population'}'s runs failed:\n{lines}",
                file=sys.stderr,
            )
    return 1 if failures else 0


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _run_and_tell(configs: list[RunConfig]) -> list[dict[str, Any]]:
    from rnnbench.run import run_population
    from rnnbench.summary import next_steps, summarise_population

    results = run_population(configs)
    if text := summarise_population(configs, results):
        print(text)
        if not any(result["status"] == "interrupted" for result in results):
            print(next_steps(configs[0].results_dir), flush=True)
    return results


def _tell(failure: Failure) -> None:
    """An error of the user's in a line; any other with its traceback, which is what one's own cell needs."""
    name, error = failure
    if isinstance(error, UserError):
        print(f"rnnbench: error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
        print(f"rnnbench: {name or 'the run'}: failed with {type(error).__name__}: {error}", file=sys.stderr)
