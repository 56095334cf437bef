"""``rnnbench run``: one run, a population, or a sweep with ``-m``."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rnnbench.compose import Asked, Failure, hydra_run
from rnnbench.errors import UserError, check_torch, first_line
from rnnbench.members import Member
from rnnbench.outcome import Outcome, RunsFailedError


def main(argv: Sequence[str]) -> int:
    """Let Hydra make the configs, and run them; returns the exit status.

    All failures of a sweep or a population are listed at its end, and make the exit status 1.
    """
    ended: list[Outcome] = []
    run_jobs(argv, ended)
    return 1 if any(outcome.failed for outcome in ended) else 0


def run_jobs(argv: Sequence[str], ended: list[Outcome]) -> None:
    """See `compose.hydra_run`; adds the outcomes to ``ended``, and lists the failures if there are several."""
    sys.path.append(str(Path.cwd()))  # for cells and tasks of one's own
    try:
        hydra_run(run_and_tell, argv, ended)
    finally:  # Ctrl-C must not take the list with it
        failed = [outcome for outcome in ended if outcome.failed]
        if len(failed) > 1:
            print(f"rnnbench: {RunsFailedError(failed)}", file=sys.stderr)


def run_and_tell(asked: Asked) -> list[Outcome]:
    """Train the members side by side, and tell their scores and all failures; or only what there is to train."""
    members, failures, dry_run, swept = asked
    if dry_run:
        from rnnbench.sweep import Sweep

        print(Sweep.of(members, failures).table())
        return []
    outcomes: list[Outcome] = []
    if members:
        try:
            outcomes = _trained(members, swept)
        except Exception as error:  # noqa: BLE001 - of what the members have in common: each has failed with it
            _tell((" ".join(members[0].overrides), error))
            outcomes = [Outcome(member.name, "error", first_line(error)) for member in members]
    for failure in failures:
        _tell(failure)
    return outcomes + [Outcome(name, "error", first_line(error)) for name, error in failures]


def _trained(members: Sequence[Member], swept: bool) -> list[Outcome]:
    check_torch()
    from rnnbench.run import run_population
    from rnnbench.summary import next_steps, summarise_population

    configs = [member.config for member in members]
    results = run_population(configs)
    for member, result in zip(members, results, strict=True):
        if "exception" in result:
            _tell((member.name, result["exception"]))
    if not swept and (text := summarise_population(configs, results)):
        print(text)
        if not any(result["status"] == "interrupted" for result in results):
            print(next_steps(configs[0].results_dir), flush=True)
    return [
        Outcome(member.name, result["status"], result.get("error"), result.get("log"))
        for member, result in zip(members, results, strict=True)
    ]


def _tell(failure: Failure) -> None:
    """An error of the user's in a line; any other with its traceback, which is what one's own cell needs."""
    name, error = failure
    if isinstance(error, UserError):
        print(f"rnnbench: error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
        print(f"rnnbench: {name or 'the run'}: failed with {first_line(error)}", file=sys.stderr)
