"""Many runs: which are there already, which to run together, what was lost on the way, and how it all ended.

The truth about a run is in its directory. So nothing here depends on how the jobs are run: `Sweep.conduct` is given
a function that runs jobs and comes back, whatever may have become of them, and then looks at the records.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rnnbench.compose import Failure, together
from rnnbench.config import RunConfig
from rnnbench.errors import UserError, check_torch, first_line
from rnnbench.estimate import Past
from rnnbench.members import Member
from rnnbench.outcome import JobDiedError, Outcome
from rnnbench.record import Record
from rnnbench.state import State, state_of
from rnnbench.summary import counted

POLL_S = 0.5
"""Seconds between two looks at a run that another process trains."""

End = Sequence[Outcome] | Exception
"""What became of a job: an outcome for each of its runs, in order; or why there are none."""

Launch = Callable[[list[list[str]]], Sequence[End]]
"""Runs jobs, each given by its overrides, and returns the end of each."""


@dataclass
class Run:
    """A run of a sweep."""

    name: str
    shared: list[str]
    """What it has in common with the others of its group, as overrides."""
    own: list[str]
    """What it has not; see `Member.own`."""
    config: RunConfig
    record: Record
    found: State
    """Before the sweep."""
    outcome: Outcome | None = None
    """How it ended in this sweep."""
    lost: int = 0
    """How often its process ended without a word."""

    @property
    def to_do(self) -> bool:
        """Whether the sweep has to run it."""
        return self.config.force or not self.found.ended(self.config)

    @property
    def epochs_done(self) -> int:
        """Epochs that it need not train again."""
        return 0 if self.config.force else self.found.epochs


@dataclass
class Job:
    """What a launcher is given: runs that train together."""

    runs: list[Run]

    @property
    def overrides(self) -> list[str]:
        """What they share, and the list of what each has of its own."""
        return together(self.runs[0].shared, [run.own for run in self.runs])


@dataclass
class Options:
    """How a sweep is conducted."""

    retries: int = 2
    """How often a run whose process dies is taken up again, in a job of its own."""
    max_members: int | None = None
    """Runs in a job at most."""
    max_batch_size: int | None = None
    """Jobs that a launcher is given at a time."""


@dataclass
class Sweep:
    """The runs of a command, group by group of what can train together."""

    groups: list[list[Run]] = field(default_factory=list)
    failures: list[Outcome] = field(default_factory=list)
    """What could not be composed."""

    @classmethod
    def of(cls, members: Sequence[Member], failures: Sequence[Failure]) -> "Sweep":
        """The runs of a command without ``-m``."""
        sweep = cls()
        sweep.add([], members, failures)
        return sweep

    def add(self, shared: list[str], members: Sequence[Member], failures: Sequence[Failure]) -> None:
        """Add a group: what its runs share as overrides, the runs, and what of it could not be composed."""
        self.failures += [Outcome(name, "error", first_line(error)) for name, error in failures]
        group: dict[Path, Run] = {}
        known = {run.record.path for run in self.runs()}
        for member in members:
            try:
                config = settled(member.config)
            except UserError as error:
                self.failures.append(Outcome(member.name, "error", first_line(error)))
                continue
            record = Record.of(config)
            if record.path not in known:
                run = Run(member.name, shared, member.own, config, record, state_of(record))
                group.setdefault(record.path, run)
        if group:
            self.groups.append(list(group.values()))

    def runs(self) -> list[Run]:
        """All of them."""
        return [run for group in self.groups for run in group]

    # ------------------------------------------------------------ before

    def counts(self) -> str:
        """How many are to run, to resume, done."""
        runs = self.runs()
        to_do = [run for run in runs if run.to_do]
        elsewhere = sum(run.found.status == "running" for run in to_do)
        resume = sum(run.found.checkpoint and not run.config.force and run.found.status != "running" for run in to_do)
        parts = [f"{len(to_do) - resume - elsewhere} to run", f"{resume} to resume", f"{len(runs) - len(to_do)} done"]
        parts += [f"{elsewhere} in another process"] if elsewhere else []
        parts += [f"{len(self.failures)} that cannot be"] if self.failures else []
        return f"{counted(len(runs) + len(self.failures), 'run')}: {', '.join(parts)}"

    def jobs(self, runs: Sequence[Run], max_members: int | None) -> list[Job]:
        """The jobs for ``runs``: those of a group together, ``max_members`` of them at most."""
        wanted = {id(run) for run in runs}
        jobs = []
        for group in self.groups:
            chosen = [run for run in group if id(run) in wanted]
            size = max_members or max(1, len(chosen))
            jobs += [Job(chosen[i : i + size]) for i in range(0, len(chosen), size)]
        return jobs

    def table(self, max_members: int | None = None) -> str:
        """What would be run: a line a run, with its job, state, size, and an estimate of its time from past records."""
        jobs = self.jobs([run for run in self.runs() if run.to_do], max_members)
        number = {id(run): str(i) for i, job in enumerate(jobs, 1) for run in job.runs}
        past, common = Past(), self._common()
        rows = [("job", "state", "parameters", "at most", "run", "overrides")]
        total = 0.0
        known = True
        for run in self.runs():
            seconds = past.seconds_left(run.config, run.record.path.parent, run.epochs_done) if run.to_do else 0.0
            total, known = total + (seconds or 0.0), known and seconds is not None
            shown = "" if not run.to_do else "?" if seconds is None else duration(seconds)
            path = run.record.path
            where = "/".join(path.parts[-3:])
            rows.append(
                (
                    number.get(id(run), "-"),
                    run.found.status,
                    past.parameters(run.config),
                    shown,
                    where,
                    _without(common, run.name),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join([*(f"{c:<{w}}" for c, w in zip(row, widths, strict=False)), row[5]]).rstrip() for row in rows
        ]
        lines += [f"cannot be run: {_without(common, failure.name)}\n    {failure.error}" for failure in self.failures]
        estimate = f"; at most {duration(total)} on one core" if known and total else ""
        return "\n".join([*lines, f"{self.counts()}; {counted(len(jobs), 'job')}{estimate}"])

    # ------------------------------------------------------------ while it runs

    def conduct(self, launch: Launch, options: Options, tell: Callable[[str], None]) -> None:
        """Run what is to be done, and what is lost on the way again, until each run has an outcome.

        A job that ends without a word (killed, or with its machine) takes the others of its population with it: they
        go on from their checkpoints, in smaller and smaller populations and at last each in a job of its own, so that
        the one to blame costs only itself.

        Raises:
            KeyboardInterrupt: as ``launch`` does.
        """
        todo = [run for run in self.runs() if run.to_do]
        size = options.max_members or max(map(len, self.groups), default=1)
        at_a_time = options.max_batch_size
        while todo:
            rounds = max(run.lost for run in todo)
            jobs = self.jobs(todo, members_after(rounds, size, options.retries))
            for i in range(0, len(jobs), at_a_time or len(jobs)):
                if not self._launched(jobs[i : i + (at_a_time or len(jobs))], launch, options.retries, tell):
                    at_a_time = 1
                    break
            lost = [run for run in todo if run.outcome is None]
            todo = lost + self._taken_over([run for run in todo if _is(run, "busy")], tell)
            if lost:
                rounds = max(run.lost for run in lost)
                count = len(self.jobs(lost, members_after(rounds, size, options.retries)))
                tell(f"not finished: {counted(len(lost), 'run')}; to go on in {counted(count, 'job')}")

    def _launched(self, jobs: Sequence[Job], launch: Launch, retries: int, tell: Callable[[str], None]) -> bool:
        """Run some jobs; returns False if the launcher gave up, as some do at the first job that dies.

        Then what it had not begun is not lost, unless it was given nothing else; it may even be run yet, by a cluster.
        """
        before = {id(run): state_of(run.record) for job in jobs for run in job.runs}
        try:
            ends = launch([job.overrides for job in jobs])
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a launcher raises, the records say what has become of the runs
            tell(f"the launcher gave up: {first_line(error)}"[:200])
            for job in jobs:
                begun = [run for run in job.runs if len(jobs) == 1 or state_of(run.record) != before[id(run)]]
                self._note(Job(begun), error, retries)
            return False
        for job, end in zip(jobs, ends, strict=True):
            self._note(job, end, retries)
        return True

    def _note(self, job: Job, end: End, retries: int) -> None:
        """Give the runs of a job their outcomes; one that was lost, and may be tried again, has none."""
        outcomes: Sequence[Outcome | None] = [None] * len(job.runs) if isinstance(end, Exception) else end
        reason = "it was stopped from outside"
        if isinstance(end, Exception):
            reason = str(end) if isinstance(end, JobDiedError) else first_line(end)
        for run, outcome in zip(job.runs, outcomes, strict=True):
            if outcome is None:  # the process is dead; the run may have ended before, or be in another one's hands
                state = state_of(run.record)
                if state.ended(run.config) and not run.config.force:
                    outcome = Outcome(run.name, state.status)
                elif state.status == "running":
                    outcome = Outcome(run.name, "busy")
            if outcome is None or outcome.status == "interrupted":
                run.lost += 1
                if run.lost > retries:
                    times = "once" if run.lost == 1 else f"{run.lost} times"
                    log = getattr(end, "log", None) or (str(run.record.log) if run.record.log.exists() else None)
                    outcome = Outcome(run.name, "error", f"its process was lost {times}, lastly: {reason}", log)
                else:
                    outcome = None
            run.outcome = None if outcome is None else replace(outcome, name=run.name)

    @staticmethod
    def _taken_over(busy: Sequence[Run], tell: Callable[[str], None]) -> list[Run]:
        """Wait for the runs that another process trains; returns those that it left unfinished."""
        if busy:
            tell(f"waiting for {counted(len(busy), 'run')} that another process trains")
        left = []
        for run in busy:
            while (state := state_of(run.record)).status == "running":
                time.sleep(POLL_S)
            run.outcome = Outcome(run.name, state.status) if state.ended(run.config) else None
            left += [] if run.outcome else [run]
        return left

    # ------------------------------------------------------------ afterwards

    def outcomes(self) -> list[Outcome]:
        """How all runs ended, and what could not be composed; the names are as short as tells them apart."""
        common = self._common()
        found = [*self.failures, *(run.outcome for run in self.runs() if run.outcome is not None)]
        return [replace(outcome, name=_without(common, outcome.name)) for outcome in found]

    def _common(self) -> list[str]:
        """The overrides that all runs have, if there are several."""
        first, *others = [*(run.name for run in self.runs()), *(failure.name for failure in self.failures)]
        return [o for o in first.split(" ") if all(f" {o} " in f" {other} " for other in others)] if others else []

    def results(self, group: Sequence[Run]) -> tuple[list[RunConfig], list[Mapping[str, Any]]]:
        """The configs of a group and what `rnnbench.run.run_population` would have returned for them."""
        results: list[Mapping[str, Any]] = []
        for run in group:
            state = state_of(run.record)
            result = run.record.result() if state.ended(run.config) else None
            if result is None or (run.outcome is not None and run.outcome.failed):
                results.append({"status": "error"})
            else:
                results.append({**result, "path": str(run.record.path), "trained_now": run.to_do})
        return [run.config for run in group], results


def settled(config: RunConfig) -> RunConfig:
    """The config with all that its identity covers: the hidden size, and the file of a class of one's own.

    Raises:
        UserError: see `assemble.prepare`; or where torch, which that needs, is missing.
    """
    roots = {str(part["_target_"]).partition(".")[0] for part in (config.cell, config.task)}
    if config.match_params is None and roots <= {"rnnbench", "torch"}:
        return config
    check_torch()
    from rnnbench.assemble import prepare  # torch, which takes its time

    return prepare(copy.deepcopy(config)).config


def members_after(rounds: int, size: int, retries: int) -> int:
    """How many runs train together when some have been lost ``rounds`` times: one at the last retry."""
    return math.ceil(size ** (1 - rounds / retries)) if rounds else size


def duration(seconds: float) -> str:
    """As a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _without(common: Sequence[str], name: str) -> str:
    """A run's overrides without some of them; as they are if none were left."""
    padded = f" {name} "
    for override in common:
        padded = padded.replace(f" {override} ", " ")
    return padded.strip() or name


def _is(run: Run, status: str) -> bool:
    return run.outcome is not None and run.outcome.status == status
