"""What the sweeper does when there is something to sweep."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import open_dict

from rnnbench.compose import members_of, together, user_dir
from rnnbench.errors import UserError, check_whole
from rnnbench.members import key_of
from rnnbench.outcome import Outcome, RunsFailedError
from rnnbench.summary import next_steps
from rnnbench.sweep import End, Options, Sweep
from rnnbench.watch import Watch

if TYPE_CHECKING:
    from hydra_plugins.rnnbench_sweeper.sweeper import PopulationSweeper


def conduct(sweeper: "PopulationSweeper", groups: Sequence[tuple[list[str], list[list[str]]]]) -> list[Outcome]:
    """Plan, tell the plan, run it, and tell how it ended; see `PopulationSweeper.sweep`."""
    options = options_of(sweeper)
    sweep = Sweep()
    plans = [plan(sweeper, sweep, shared, owns) for shared, owns in groups]
    if any(plans):
        print(sweep.table(options.max_members))
        return []
    run(sweeper, sweep, options)
    if configs := [run.config for run in sweep.runs()]:
        print(next_steps(configs[0].results_dir), flush=True)
    outcomes = sweep.outcomes()
    if any(outcome.failed for outcome in outcomes):
        raise RunsFailedError(outcomes)
    return outcomes


def options_of(sweeper: "PopulationSweeper") -> Options:
    """The keys of ``hydra.sweeper`` that say how a sweep is conducted, checked."""
    options = Options(sweeper.retries, sweeper.max_members, sweeper.max_batch_size)
    check_whole("hydra.sweeper.retries", options.retries, 0)
    for key in ("max_members", "max_batch_size"):
        if (value := getattr(options, key)) is not None:
            check_whole(f"hydra.sweeper.{key}", value, 1)
    return options


def run(sweeper: "PopulationSweeper", sweep: Sweep, options: Options) -> None:
    """Tell the counts, and run what is to be done; its scores are told as they come."""
    print(sweep.counts(), flush=True)
    configs = [run.config for run in sweep.runs()]
    progress = configs[0].progress if configs else "false"
    in_process = isinstance(sweeper.launcher, BasicLauncher)  # its runs have a bar of their own
    try:
        with Watch(sweep, "false" if in_process else progress) as watch:
            launch = _launcher(sweeper, [] if in_process else ["progress=false"])
            sweep.conduct(launch, options, watch.tell)
    except KeyboardInterrupt:
        print("rnnbench: the sweep was interrupted; the same command goes on with it", file=sys.stderr)
        raise


def plan(sweeper: "PopulationSweeper", sweep: Sweep, shared: list[str], owns: list[list[str]]) -> bool:
    """Add the runs of a group to the sweep; returns whether they are only to be told."""
    assert sweeper.hydra_context is not None
    overrides = together(shared, owns)
    cfg = sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, overrides)
    choices = {key: None if value is None else str(value) for key, value in cfg.hydra.runtime.choices.items()}
    with open_dict(cfg):
        del cfg["hydra"]
    dry_run = bool(cfg.dry_run)
    members, failures = members_of(cfg, choices, overrides, user_dir(sys.argv[1:]))
    kept = [o for o in shared if key_of(o) not in ("members", "dry_run")]
    if any(owns) and len(kept) < len([o for o in shared if key_of(o) != "dry_run"]):
        raise UserError("members and a sweep over what runs of a population may differ in: give one of them.")
    sweep.add(kept, members, failures)
    return dry_run


def _launcher(sweeper: "PopulationSweeper", more: list[str]) -> Callable[[list[list[str]]], list[End]]:
    """The launcher as `Sweep.conduct` wants it."""
    launched = 0

    def launch(jobs: list[list[str]]) -> list[End]:
        nonlocal launched
        assert sweeper.launcher is not None
        first, launched = launched, launched + len(jobs)
        returns = sweeper.launcher.launch([[*job, *more] for job in jobs], initial_job_idx=first)
        return [_end(job, r) for job, r in zip(jobs, returns, strict=True)]

    return launch


def _end(job: list[str], ended: JobReturn) -> End:
    value = ended._return_value
    if ended.status == JobStatus.COMPLETED and isinstance(value, list):
        return value
    if isinstance(value, RunsFailedError):
        return value.outcomes
    return value if isinstance(value, Exception) else RuntimeError(f"the job came back with {value!r}")
