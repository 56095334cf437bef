"""Which runs a sweep has to do, and what it makes of jobs that end in any way: the launchers here are functions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rnnbench.compose import Asked, compose_population, hydra_run
from rnnbench.config import RunConfig
from rnnbench.errors import UserError
from rnnbench.outcome import JobDiedError, Outcome
from rnnbench.record import Record
from rnnbench.state import state_of
from rnnbench.sweep import End, Options, Sweep, members_after
from tests.conftest import TINY


def sweep_of(tmp_path: Path, *overrides: str) -> Sweep:
    """The plan of ``rnnbench run`` with these overrides."""
    found: list[Asked] = []

    def job(asked: Asked) -> list[Outcome]:
        found.append(asked)
        return []

    hydra_run(job, ["task=adding", *TINY, "tensorboard=false", f"results_dir={tmp_path}", *overrides], [])
    sweep = Sweep()
    shared = ["task=adding", *TINY, "tensorboard=false", f"results_dir={tmp_path}"]
    sweep.add([*shared, *(o for o in overrides if not o.startswith("seed="))], found[0].members, found[0].failures)
    return sweep


def trained(job: list[str]) -> list[Outcome]:
    """A job that is run as it should be."""
    from rnnbench.run import run_population

    results = run_population(compose_population(*job))
    return [Outcome("", result["status"], result.get("error")) for result in results]


class Launcher:
    """Runs jobs in this process, each by what ``ends`` says of it, one after another; the last of them for all more."""

    def __init__(self, *ends: Callable[[list[str]], End]) -> None:
        self.ends = list(ends)
        self.jobs: list[list[str]] = []

    def __call__(self, jobs: list[list[str]]) -> list[End]:
        found = []
        for job in jobs:
            self.jobs.append(job)
            found.append((self.ends.pop(0) if len(self.ends) > 1 else self.ends[0])(job))
        return found


def conducted(sweep: Sweep, launcher: Launcher, options: Options | None = None) -> list[str]:
    """What was told while ``sweep`` was run."""
    told: list[str] = []
    sweep.conduct(launcher, options or Options(), told.append)
    return told


def statuses(sweep: Sweep) -> list[str | None]:
    return [None if run.outcome is None else run.outcome.status for run in sweep.runs()]


def died(job: list[str]) -> End:
    """A job whose process is killed before it has done anything."""
    return JobDiedError("its process was killed by SIGKILL", "job-0.log", "")


def seeds(job: list[str]) -> list[int]:
    return [config.seed for config in compose_population(*job)]


@pytest.mark.needs_torch
def test_only_what_is_missing_or_unfinished_is_launched(tmp_path: Path) -> None:
    from rnnbench.run import run_population

    first = sweep_of(tmp_path, "seed=[0,1]")
    assert first.counts() == "2 runs: 2 to run, 0 to resume, 0 done"
    conducted(first, Launcher(trained))
    interrupted = Record.of(compose_config_of(tmp_path, 2))
    run_population([compose_config_of(tmp_path, 2)])
    interrupted.clear_result()
    grown = sweep_of(tmp_path, "seed=[0,1,2,3]")
    assert grown.counts() == "4 runs: 1 to run, 1 to resume, 2 done"
    launcher = Launcher(trained)
    conducted(grown, launcher)
    assert [seeds(job) for job in launcher.jobs] == [[2, 3]]
    again = sweep_of(tmp_path, "seed=[0,1,2,3]")
    assert again.counts() == "4 runs: 0 to run, 0 to resume, 4 done"
    nothing = Launcher(trained)
    conducted(again, nothing)
    assert nothing.jobs == []


def compose_config_of(tmp_path: Path, seed: int) -> RunConfig:
    (config,) = compose_population("task=adding", *TINY, "tensorboard=false", f"results_dir={tmp_path}", f"seed={seed}")
    return config


@pytest.mark.needs_torch
def test_force_repeats_what_is_done(tmp_path: Path) -> None:
    conducted(sweep_of(tmp_path, "seed=[0,1]"), Launcher(trained))
    forced = sweep_of(tmp_path, "seed=[0,1]", "force=true")
    assert forced.counts() == "2 runs: 2 to run, 0 to resume, 0 done"


@pytest.mark.needs_torch
def test_the_candidates_of_a_search_that_are_done_are_left_out(tmp_path: Path) -> None:
    few = sweep_of(tmp_path, "search=chung2014", "search.candidates=2")
    conducted(few, Launcher(trained))
    more = sweep_of(tmp_path, "search=chung2014", "search.candidates=4")
    assert more.counts() == "4 runs: 2 to run, 0 to resume, 2 done"
    launcher = Launcher(trained)
    conducted(more, launcher)
    (job,) = launcher.jobs
    assert job[-1] == "members=[['search.index=2'],['search.index=3']]"
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/*/result.json")]
    assert sorted(result["search"]["index"] for result in results) == [0, 1, 2, 3]


@pytest.mark.needs_torch
def test_a_population_that_dies_costs_only_the_run_that_kills_it(tmp_path: Path) -> None:
    """Seed 1 kills whatever process it is in."""

    def deadly(job: list[str]) -> End:
        return died(job) if 1 in seeds(job) else trained(job)

    sweep = sweep_of(tmp_path, "seed=[0,1,2,3,4]")
    launcher = Launcher(deadly)
    told = conducted(sweep, launcher, Options(retries=2))
    assert told == [
        "not finished: 5 runs; to go on in 2 jobs",
        "not finished: 3 runs; to go on in 3 jobs",
    ]
    assert [seeds(job) for job in launcher.jobs] == [[0, 1, 2, 3, 4], [0, 1, 2], [3, 4], [0], [1], [2]]
    assert statuses(sweep) == ["done", "error", "done", "done", "done"]
    (failed,) = [outcome for outcome in sweep.outcomes() if outcome.failed]
    assert failed.name == "seed=1"
    assert failed.error == "its process was lost 3 times, lastly: its process was killed by SIGKILL"
    assert failed.log == "job-0.log"


@pytest.mark.needs_torch
def test_a_launcher_that_gives_up_at_a_dead_job_does_not_lose_the_others(tmp_path: Path) -> None:
    """As joblib and submitit do: the first of three jobs dies, and what they had been given with it is never begun."""
    launched: list[list[list[int]]] = []

    def launch(jobs: list[list[str]]) -> list[End]:
        launched.append([seeds(job) for job in jobs])
        if seeds(jobs[0]) == [0]:
            raise RuntimeError("a worker was terminated")
        return [trained(job) for job in jobs]

    sweep = sweep_of(tmp_path, "seed=[0,1,2]")
    told: list[str] = []
    sweep.conduct(launch, Options(max_members=1, retries=1), told.append)
    assert launched == [[[0], [1], [2]], [[0]], [[0]], [[1]], [[2]]]
    assert told[0] == "the launcher gave up: RuntimeError: a worker was terminated"
    assert statuses(sweep) == ["error", "done", "done"]


def test_the_last_retry_is_alone() -> None:
    assert [members_after(rounds, 50, 2) for rounds in range(3)] == [50, 8, 1]
    assert [members_after(rounds, 50, 3) for rounds in range(4)] == [50, 14, 4, 1]
    assert [members_after(rounds, 50, 1) for rounds in range(2)] == [50, 1]


@pytest.mark.needs_torch
def test_what_a_dead_job_had_finished_is_not_run_again(tmp_path: Path) -> None:
    from rnnbench.run import run_population

    def half(job: list[str]) -> End:
        run_population(compose_population(*job)[:1])
        return died(job)

    sweep = sweep_of(tmp_path, "seed=[0,1]")
    launcher = Launcher(half, trained)
    conducted(sweep, launcher)
    assert [seeds(job) for job in launcher.jobs] == [[0, 1], [1]]
    assert statuses(sweep) == ["done", "done"]


@pytest.mark.parametrize(("retries", "jobs"), [(0, 1), (1, 2), (3, 4)])
def test_retries_are_bounded(retries: int, jobs: int, tmp_path: Path) -> None:
    launcher = Launcher(died)
    sweep = sweep_of(tmp_path)
    conducted(sweep, launcher, Options(retries=retries))
    assert len(launcher.jobs) == jobs
    assert statuses(sweep) == ["error"]


def test_a_run_that_raises_is_not_tried_again_and_its_reason_is_kept(tmp_path: Path) -> None:
    def raised(job: list[str]) -> End:
        return [Outcome("", "error", "ValueError: boom", "run.log"), Outcome("", "done")]

    sweep = sweep_of(tmp_path, "seed=[0,1]")
    launcher = Launcher(raised)
    conducted(sweep, launcher)
    assert len(launcher.jobs) == 1
    assert sweep.outcomes() == [Outcome("seed=0", "error", "ValueError: boom", "run.log"), Outcome("seed=1", "done")]


@pytest.mark.needs_torch
def test_a_job_that_a_cluster_stops_goes_on(tmp_path: Path) -> None:
    def stopped(job: list[str]) -> End:
        return [Outcome("", "interrupted")] * len(seeds(job))

    sweep = sweep_of(tmp_path, "seed=[0,1]")
    launcher = Launcher(stopped, trained)
    conducted(sweep, launcher)
    assert statuses(sweep) == ["done", "done"]


@pytest.mark.needs_torch
def test_what_another_process_trains_is_waited_for_and_not_repeated(tmp_path: Path) -> None:
    """The other process ends one run while we wait, and leaves the other one unfinished."""
    from rnnbench.run import run_population

    sweep = sweep_of(tmp_path, "seed=[0,1]")
    taken, left = (run.record for run in sweep.runs())

    def busy(job: list[str]) -> End:
        with taken.locked():
            assert state_of(taken).status == "running"
            found = run_population(compose_population(*job))
        assert [result["status"] for result in found] == ["busy", "done"]
        run_population([compose_config_of(tmp_path, 0)])
        left.clear_result()
        return [Outcome("", "busy"), Outcome("", "busy")]

    launcher = Launcher(busy, trained)
    told = conducted(sweep, launcher)
    assert told == ["waiting for 2 runs that another process trains"]
    assert [seeds(job) for job in launcher.jobs] == [[0, 1], [1]]
    assert statuses(sweep) == ["done", "done"]


def test_jobs_have_no_more_members_than_asked_and_come_in_batches(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "seed=[0,1,2,3,4]")
    batches: list[list[list[int]]] = []

    def launch(jobs: list[list[str]]) -> list[End]:
        batches.append([seeds(job) for job in jobs])
        return [[Outcome("", "done")] * len(seeds(job)) for job in jobs]

    sweep.conduct(launch, Options(max_members=2, max_batch_size=2), print)
    assert batches == [[[0, 1], [2, 3]], [[4]]]


def test_the_same_run_twice_is_one(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "seed=[0,1]")
    before = sweep.runs()
    other = sweep_of(tmp_path, "seed=1")
    assert [run.record.path for run in other.runs()] == [before[1].record.path]
    (asked,) = asked_by(tmp_path, "seed=1")
    sweep.add([], asked.members, [])
    assert sweep.runs() == before


def asked_by(tmp_path: Path, *overrides: str) -> list[Asked]:
    found: list[Asked] = []

    def job(asked: Asked) -> list[Outcome]:
        found.append(asked)
        return []

    hydra_run(job, ["task=adding", *TINY, "tensorboard=false", f"results_dir={tmp_path}", *overrides], [])
    return found


@pytest.mark.needs_torch
def test_the_plan_names_state_size_time_and_job_of_each_run(tmp_path: Path) -> None:
    conducted(sweep_of(tmp_path, "seed=0"), Launcher(trained))
    sweep = sweep_of(tmp_path, "seed=[0,1]")
    sweep.failures.append(Outcome("seed=-1", "error", "seed=-1: must be"))
    head, done, new, *failed, last = sweep.table().splitlines()
    assert head.split() == ["job", "state", "parameters", "at", "most", "run", "overrides"]
    assert done.split()[:3] == ["-", "done", "120"]
    assert done.endswith("seed=0")
    assert new.split()[:5] == ["1", "new", "120", "0", "s"]
    assert failed == ["cannot be run: seed=-1", "    seed=-1: must be"]
    assert last.startswith("3 runs: 1 to run, 0 to resume, 1 done, 1 that cannot be; 1 job; at most")


def test_without_past_records_no_time_is_made_up(tmp_path: Path) -> None:
    (line,) = [line for line in sweep_of(tmp_path).table().splitlines() if " new " in line]
    assert line.split()[3] == "?"


@pytest.mark.needs_torch
def test_a_class_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    (asked,) = asked_by(tmp_path, "cell._target_=nowhere.Cell")
    sweep = Sweep()
    sweep.add([], asked.members, [])
    assert sweep.runs() == []
    ((error,),) = [[outcome.error] for outcome in sweep.outcomes()]
    assert error is not None
    assert "cannot import 'nowhere'" in error


@pytest.mark.needs_torch
def test_a_damaged_record_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    conducted(sweep_of(tmp_path), Launcher(trained))
    sweep = sweep_of(tmp_path)
    path = sweep.runs()[0].record.path / "result.json"
    path.write_text(path.read_text()[:50])
    again = sweep_of(tmp_path)
    assert again.runs()[0].found.status == "error"
    conducted(again, Launcher(trained))
    ((outcome),) = again.outcomes()
    assert outcome.failed
    assert "Delete it and run again" in str(outcome.error)
    with pytest.raises(UserError, match="is damaged"):
        again.runs()[0].record.result()
