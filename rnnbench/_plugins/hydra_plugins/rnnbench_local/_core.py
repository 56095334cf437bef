"""Jobs as processes: started, waited for, stopped.

A job is a command that a person could have given: ``python -m rnnbench.job FILE`` and what follows ``rnnbench run``.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from rnnbench.config import cores_here
from rnnbench.errors import UserError, check_whole
from rnnbench.outcome import JobDiedError, read_outcomes

POLL_S = 0.05
"""Seconds between two looks at the processes."""

OURS = ("hydra.launcher", "hydra/launcher", "hydra.sweep", "hydra/sweep", "hydra.mode")
"""Beginnings of the overrides that are about the sweep, and not about its jobs."""


@dataclass
class Job:
    """A process."""

    overrides: Sequence[str]
    process: subprocess.Popen[bytes]
    log: Path
    outcomes: Path

    def ended(self) -> JobReturn:
        """What became of it."""
        found = read_outcomes(self.outcomes)
        died = JobDiedError(how(self.process.returncode), str(self.log), last_line(self.log))
        self.outcomes.unlink(missing_ok=True)
        return JobReturn(
            overrides=list(self.overrides),
            status=JobStatus.FAILED if found is None else JobStatus.COMPLETED,
            _return_value=died if found is None else found,
        )


def launch(
    config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int, at_a_time: int | None
) -> list[JobReturn]:
    """See `LocalLauncher.launch`."""
    cores = config.threads or cores_here()
    if at_a_time is not None:
        check_whole("hydra.launcher.jobs", at_a_time, 1)
    at_a_time = min(at_a_time or cores, len(job_overrides))
    threads = max(1, cores // max(1, at_a_time))
    directory = new_directory(Path(str(config.hydra.sweep.dir)))
    waiting = list(enumerate(job_overrides))
    running: dict[int, Job] = {}
    ended: dict[int, JobReturn] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                index, overrides = waiting.pop(0)
                running[index] = start(config, overrides, threads, directory / f"job-{first + index}.log")
            for index, job in list(running.items()):
                if job.process.poll() is not None:
                    ended[index] = running.pop(index).ended()
            time.sleep(POLL_S)
    except BaseException:
        stop(list(running.values()))
        raise
    return [ended[index] for index in range(len(job_overrides))]


def start(config: DictConfig, overrides: Sequence[str], threads: int, log: Path) -> Job:
    """Start a job; it stops when its standard input ends, as it does when this process dies."""
    outcomes = log.with_suffix(".json")
    own = [o for o in config.hydra.overrides.hydra if not o.startswith(OURS)]
    command = [sys.executable, "-m", "rnnbench.job", str(outcomes), *config_flags(sys.argv[1:]), *own, "hydra.mode=RUN"]
    command += [*overrides, *([f"threads={threads}"] if config.threads else [])]
    with log.open("ab") as file:
        file.write((" ".join(command) + "\n").encode())
        file.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which hands it on
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
        )
    return Job(overrides, process, log, outcomes)


def stop(jobs: Sequence[Job]) -> None:
    """Let all jobs save themselves and end; again Ctrl-C ends them at once, and once more kills them."""
    signals = iter((signal.SIGINT, signal.SIGINT, signal.SIGKILL))
    _send(jobs, next(signals))
    while any(job.process.poll() is None for job in jobs):
        try:
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            _send(jobs, next(signals, signal.SIGKILL))
    for job in jobs:
        job.outcomes.unlink(missing_ok=True)


def _send(jobs: Sequence[Job], signum: signal.Signals) -> None:
    for job in jobs:
        if job.process.poll() is None:
            job.process.send_signal(signum)


def config_flags(args: Sequence[str]) -> Iterator[str]:
    """The flags of Hydra that say where configs come from; a job needs them too."""
    names = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
    rest = iter(args)
    for arg in rest:
        if arg in names:
            yield from (arg, next(rest, ""))
        elif arg.partition("=")[0] in names:
            yield arg


def new_directory(parent: Path) -> Path:
    """A directory of its own for this sweep's logs, below ``parent``: the time, and a number if that is taken."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    for path in (parent / name, *(parent / f"{name}_{n}" for n in range(2, 1000))):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{path}: cannot be made: {error.strerror}. Give another results_dir.") from error
        return path
    raise UserError(f"{parent}: a thousand sweeps were started in one second.")


def how(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"its process ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    memory = "; perhaps for want of memory" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{memory}"


def last_line(log: Path) -> str:
    """What a process said last, or nothing."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    return lines[-1].strip() if lines else ""
