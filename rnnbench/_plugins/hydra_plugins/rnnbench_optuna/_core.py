"""How a search goes on: trials are drawn, run as one population, told, until there are as many as asked.

Everything is in the journal (`rnnbench.trial`), so a search that was killed at any moment goes on with the same
command: trials that were under way are taken up again, their runs from their checkpoints, and what Optuna draws next is
a function of what has ended, the seed and the number of the trial, not of how often it was started.
"""

import hashlib
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra_plugins.rnnbench_local._core import config_flags
from hydra_plugins.rnnbench_optuna._space import Space, overrides_of, sampler_of, space_of
from hydra_plugins.rnnbench_sweeper._core import options_of, plan, run
from hydra_plugins.rnnbench_sweeper.sweeper import populations
from omegaconf.errors import OmegaConfBaseException
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rnnbench.compose import explain, user_dir
from rnnbench.config import TRIAL
from rnnbench.errors import BusyError, UserError, check_choice, check_whole
from rnnbench.lock import holder, locked
from rnnbench.members import key_of
from rnnbench.outcome import Outcome, RunsFailedError
from rnnbench.seeding import torch_seed
from rnnbench.summary import next_steps, number
from rnnbench.sweep import Run, Sweep
from rnnbench.trial import LOOK_EVERY, PRUNER, PRUNERS, journal, looks, pruner_of, storage_of

if TYPE_CHECKING:
    from hydra_plugins.rnnbench_optuna.sweeper import SearchSweeper

SAMPLERS = ("tpe", "random")
SEARCH = "search"
"""Attribute of a study: what makes it this one."""
BATCH = "batch"
"""Attribute of a trial, the last thing to be written when it is drawn: the number of its batch."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def conduct(sweeper: "SearchSweeper", overrides: Sequence[Override]) -> list[Outcome]:
    """Go on with the search, or tell what would be searched; see `SearchSweeper.sweep`."""
    for key, least in (("trials", 1), ("batch", 1), ("look_every", 1)):
        check_whole(f"hydra.sweeper.{key}", getattr(sweeper, key), least)
    check_choice("hydra.sweeper.sampler", sweeper.sampler, SAMPLERS)
    check_choice("hydra.sweeper.pruner", sweeper.pruner, PRUNERS)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = space_of(overrides)
    sweep, dry_run = Sweep(), False
    try:  # what is wrong with all trials is told before there is a search
        dry_run = plan(sweeper, sweep, [*space.fixed, *space.example()], [])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, space.fixed, user_dir(sys.argv[1:]))) from error
    if sweep.failures:
        raise UserError(str(sweep.failures[0].error))
    if sweep.runs()[0].config.search is not None:
        raise UserError(
            "search and hydra/sweeper=rnnbench_optuna: both decide what is tried; leave one out (search=null)."
        )
    search = Search(sweeper, space, sweep.runs())
    if dry_run:
        print(search.plan())
        return []
    lock = search.path.with_name(f".{search.name}.lock")
    try:
        with locked(lock, str(search.path)):
            return search.conduct()
    except BusyError as error:
        raise UserError(
            f"search {search.name}: another process conducts it at the moment ({holder(lock)}). Wait for it, or give "
            "another hydra.sweeper.name."
        ) from error


class Search:
    """A study, and the runs of its trials."""

    def __init__(self, sweeper: "SearchSweeper", space: Space, example: Sequence[Run]) -> None:
        """Take the space, and the runs of a trial that might be."""
        self.sweeper, self.space = sweeper, space
        self.config = example[0].config
        self.name = sweeper.name or self._default_name()
        if not TRIAL.fullmatch(f"{self.name}/0"):
            raise UserError(
                f"hydra.sweeper.name={self.name}: must be letters, digits, dots and dashes: it names a file."
            )
        self.path = journal(self.config.results_dir, self.name)
        self.pruner = sweeper.pruner if len(example) == 1 else "none"
        """A trial of several runs is worth their mean, of which none of them knows."""
        self.failures: list[Outcome] = []

    def _default_name(self) -> str:
        named = {"cell": self.config.cell["name"], "task": self.config.task["name"]}
        digest = hashlib.sha256(json.dumps(self.space.canonical(), sort_keys=True).encode()).hexdigest()[:8]
        return "-".join([*(name for key, name in named.items() if key not in self.space.searched), digest])

    # ------------------------------------------------------------ the study

    def _opened(self) -> Study:
        """The study, made if it is new.

        Raises:
            UserError: if the one of this name is another search.
        """
        storage = storage_of(self.path)
        study = optuna.create_study(
            storage=storage, study_name=self.name, load_if_exists=True, pruner=optuna.pruners.NopPruner()
        )
        asked, found = self.space.canonical(), study.user_attrs.get(SEARCH)
        if found is None:
            study.set_user_attr(SEARCH, asked)
        elif found != asked:
            raise UserError(
                f"search {self.name}: has begun as another one: {_difference(found, asked)}. Give another "
                f"hydra.sweeper.name, or move {self.path} away."
            )
        return study

    def conduct(self) -> list[Outcome]:
        """Draw, run and tell, batch by batch; then the best trial.

        Raises:
            RunsFailedError: at the end, if runs failed.
        """
        _mend(self.path)
        self.study = self._opened()
        for key, value in ((PRUNER, self.pruner), (LOOK_EVERY, self.sweeper.look_every)):
            if self.study.user_attrs.get(key) != value:
                self.study.set_user_attr(key, value)
        if self.pruner != self.sweeper.pruner:
            print("a trial is several runs, and its value their mean: none is given up early")
        options, outcomes = options_of(self.sweeper), list[Outcome]()
        self._try_again()
        print(self.so_far(self._trials()), flush=True)
        while batch := self._batch():
            outcomes += self._run(batch, options)
            print(self.so_far(self._trials()), flush=True)
        print(self._best_told(), flush=True)
        if any(outcome.failed for outcome in outcomes):
            raise RunsFailedError(outcomes)
        return outcomes

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _try_again(self) -> None:
        """Put what failed in former commands first in the queue, as the sweeper tries failed runs again."""
        trials = self._trials()
        known = [t.params for t in trials if t.state in (*ENDED, TrialState.RUNNING)]
        known += [t.system_attrs["fixed_params"] for t in trials if t.state == TrialState.WAITING]
        for trial in trials:
            if trial.state == TrialState.FAIL and BATCH in trial.user_attrs and trial.params not in known:
                self.study.enqueue_trial(trial.params)
                known.append(trial.params)

    def _batch(self) -> list[FrozenTrial]:
        """The trials to run next: those under way in a process that is no more, and as many new ones as there is room.

        A batch that was killed while it was told is not filled up: what is drawn does not depend on that.
        """
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and BATCH not in trial.user_attrs:  # killed while it was drawn
                self.study.tell(trial.number, state=TrialState.FAIL)
        trials = [t for t in self._trials() if BATCH in t.user_attrs]
        running = [t for t in trials if t.state == TrialState.RUNNING]
        last = max((t.user_attrs[BATCH] for t in trials), default=-1)
        batch = last if running else last + 1
        room = self.sweeper.batch - sum(t.user_attrs[BATCH] == batch for t in trials)
        left = self.sweeper.trials - sum(t.state in ENDED for t in trials) - len(running) - len(self.failures)
        for index in range(len(trials), len(trials) + min(room, left)):
            self.study.sampler = sampler_of(self.sweeper.sampler, torch_seed(self.config.seed, "trial", index) % 2**32)
            self.study.ask(self.space.searched).set_user_attr(BATCH, batch)
        return [t for t in self._trials() if t.state == TrialState.RUNNING]

    # ------------------------------------------------------------ a batch

    def _run(self, batch: Sequence[FrozenTrial], options: Any) -> list[Outcome]:  # noqa: ANN401 - see options_of
        """Run a batch and tell how its trials ended; those that drew the same share their runs."""
        alike: dict[tuple[str, ...], list[int]] = {}
        for trial in batch:
            alike.setdefault(tuple(overrides_of(trial.params)), []).append(trial.number)
        jobs = [[*self.space.fixed, *own, f"trial={self.name}/{n[0]}"] for own, n in alike.items()]
        sweep = Sweep()
        for shared, owns in populations(jobs):
            try:
                plan(self.sweeper, sweep, shared, owns)
            except (HydraException, OmegaConfBaseException, UserError) as error:
                told = str(error) if isinstance(error, UserError) else explain(error, shared, user_dir(sys.argv[1:]))
                sweep.failures += [Outcome(" ".join([*shared, *own]), "error", told) for own in owns]
        run(self.sweeper, sweep, options)
        runs: dict[int, list[Run]] = {}
        for one in sweep.runs():
            runs.setdefault(int(str(one.config.trial).rpartition("/")[2]), []).append(one)
        failed = {_number_of(self.name, failure.name): failure for failure in sweep.failures}
        for numbers in alike.values():
            for n in numbers:
                self._tell(n, runs.get(numbers[0], []), failed.get(numbers[0]))
        return sweep.outcomes()

    def _tell(self, trial: int, runs: Sequence[Run], failure: Outcome | None) -> None:
        """Tell how a trial ended: it is worth the mean of its runs' best validation, and infinity if one diverged."""
        failures = [failure] if failure else [r.outcome for r in runs if r.outcome is not None and r.outcome.failed]
        if failures or not runs:
            self.failures += failures or [Outcome(f"trial={self.name}/{trial}", "error", "is the run of another trial")]
            self.study.tell(trial, state=TrialState.FAIL)
            return
        results = [one.record.result() or {} for one in runs]
        statuses = {result["status"] for result in results}
        self._fill_in(trial, runs, results)
        if "pruned" in statuses:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            mean = sum(result["best_valid"] for result in results) / len(results) if statuses == {"done"} else math.inf
            self.study.tell(trial, mean)

    def _fill_in(self, trial: int, runs: Sequence[Run], results: Sequence[dict[str, Any]]) -> None:
        """What later trials are compared with, of a run that did not tell it itself: it had been trained before."""
        if pruner_of(self.study.user_attrs) is None:
            return
        storage = storage_of(self.path)
        trial_id = storage.get_trial_id_from_study_id_trial_number(self.study._study_id, trial)
        there = storage.get_trial(trial_id).intermediate_values
        metric = f"valid/{results[0]['metric']}"
        rows = [(row["epoch"], math.inf if row[metric] is None else row[metric]) for row in runs[0].record.metrics()]
        for step, best in looks(rows, self.sweeper.look_every):
            if step not in there:
                storage.set_trial_intermediate_value(trial_id, step, best)

    # ------------------------------------------------------------ what a person sees

    def plan(self) -> str:
        """What would be searched, and what is there already."""
        lines = [f"search {self.name}, {self.path}", self.space.described()]
        given_up = "" if self.pruner == "none" else f", a look every {self.sweeper.look_every} epochs"
        lines.append(
            f"  sampler {self.sweeper.sampler}, pruner {self.pruner}{given_up}, batches of {self.sweeper.batch}"
        )
        trials = []
        if self.path.exists():
            self.study = self._opened()
            trials = self._trials()
        return "\n".join([*lines, self.so_far(trials)])

    def so_far(self, trials: Sequence[FrozenTrial]) -> str:
        """How far the search is, in a line."""
        count = {state: sum(trial.state == state for trial in trials) for state in TrialState}
        done = count[TrialState.COMPLETE] + count[TrialState.PRUNED]
        parts = [f"{done} of {self.sweeper.trials} trials done"]
        for state, word in (
            (TrialState.PRUNED, "of them given up early"),
            (TrialState.RUNNING, "to be taken up again"),
            (TrialState.FAIL, "failed"),
        ):
            parts += [f"{count[state]} {word}"] if count[state] else []
        if (best := _best(trials)) is not None:
            assert best.value is not None
            drawn = " ".join(overrides_of(best.params))
            parts.append(f"best {number(best.value)} at trial {best.number} ({drawn})")
        return f"search {self.name}: {', '.join(parts)}"

    def _best_told(self) -> str:
        """The best trial, as a command, and where its runs are."""
        best = _best(self._trials())
        if best is None:
            return f"search {self.name}: no trial has come to a good end"
        kept = [o for o in self.space.fixed if key_of(o) not in ("dry_run", "force")]
        overrides = [*kept, *overrides_of(best.params)]
        sweep = Sweep()
        plan(self.sweeper, sweep, overrides, [])
        command = shlex.join(["rnnbench", "run", *config_flags(sys.argv[1:]), *overrides])
        paths = [f"  files     {run.record.path}" for run in sweep.runs()]
        return "\n".join(["best trial, as a command:", f"  {command}", *paths, next_steps(self.config.results_dir)])


def _best(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The trial with the lowest value; none that failed, diverged or was given up."""
    good = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None and math.isfinite(t.value)]
    return min(good, key=lambda t: (t.value, t.number), default=None)


def _number_of(name: str, overrides: str) -> int:
    """The trial that a run's overrides name."""
    match = re.search(rf"(?:^| )trial={re.escape(name)}/(\d+)(?: |$)", overrides)
    return int(match[1]) if match else -1


def _difference(found: dict[str, Any], asked: dict[str, Any]) -> str:
    """What the search has, and what it is now asked to have."""
    said = []
    keys = sorted(found["space"].keys() | asked["space"].keys())
    said += [f"another space of {key}" for key in keys if found["space"].get(key) != asked["space"].get(key)]
    said += [f"{override} only then" for override in found["fixed"] if override not in asked["fixed"]]
    said += [f"{override} only now" for override in asked["fixed"] if override not in found["fixed"]]
    return ", ".join(said)


def _mend(path: Path) -> None:
    """Cut off a last line that was not written to its end: the next one would be appended to it."""
    try:
        with path.open("rb+") as file:
            content = file.read()
            if not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
                os.fsync(file.fileno())
    except FileNotFoundError:
        pass
