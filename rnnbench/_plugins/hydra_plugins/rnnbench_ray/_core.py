"""What the launcher does: it makes the jobs, places them, waits for them, and stops them."""

import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from rnnbench.errors import UserError, check_number

if TYPE_CHECKING:
    from .launcher import RayLauncher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What a job finds at home, wherever it runs; it travels once for all jobs."""

    hydra_context: HydraContext
    task_function: TaskFunction
    singletons: Any
    directory: Path
    environment: Mapping[str, str]


def launch(launcher: "RayLauncher", job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """See `RayLauncher.launch`."""
    check_number("hydra.launcher.num_cpus", launcher.resources["num_cpus"], above=0)
    setup_globals()
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    ray = _connected(launcher)
    _check_that_a_job_fits(ray.nodes(), **launcher.resources)
    configs = [_config(launcher, overrides, first + i) for i, overrides in enumerate(job_overrides)]
    ours = {key: value for key, value in os.environ.items() if key.startswith("RNNBENCH_")}
    state = Singleton.get_state()
    here = Surroundings(launcher.hydra_context, launcher.task_function, state, Path.cwd(), ours)
    task = ray.remote(**launcher.resources, max_retries=launcher.max_retries)(run_here)
    shared = ray.put(here)
    refs: list[Any] = []
    try:
        refs += [task.remote(shared, config) for config in configs]
        return [_returned(ray, ref, config) for ref, config in zip(refs, configs, strict=True)]
    except (KeyboardInterrupt, SystemExit):  # Ray makes a SystemExit of SIGTERM
        print("stopping the jobs after their updates; once more to stop at once", file=sys.stderr, flush=True)
        for ref in refs:
            ray.cancel(ref, force=False)
        ray.wait(refs, num_returns=len(refs))
        raise KeyboardInterrupt from None


def _connected(launcher: "RayLauncher") -> ModuleType:
    """The module of Ray, connected to the cluster; stays so until the process ends, for what is launched later."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # it would leave out lines that differ in numbers only
    if launcher.address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # its default, which it else warns of
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError("hydra/launcher=rnnbench_ray: needs Ray. pip install 'rnnbench[ray]'") from error
    if not ray.is_initialized():
        address = launcher.address
        own = {"include_dashboard": False} if address == "local" else {}
        try:
            _check_that_one_answers(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
            ray.init(address=address, **{"logging_level": logging.WARNING, **own, **launcher.init})
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"hydra.launcher.address={address} init={launcher.init}: Ray cannot be used with these ({error}). "
                "Allowed: local; after `ray start --head`, auto there and host:port elsewhere, with the same "
                "`ray get-auth-token`; and in init the arguments of ray.init."
            ) from error
    module: ModuleType = ray
    return module


def _check_that_one_answers(address: str) -> None:
    """Raise OSError if nobody listens at ``host:port``: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _check_that_a_job_fits(nodes: Sequence[Mapping[str, Any]], num_cpus: float, num_gpus: float) -> None:
    """Raise `UserError` where Ray would wait for ever."""
    sizes = [(n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0)) for n in nodes if n["Alive"]]
    if not any(cpus >= num_cpus and gpus >= num_gpus for cpus, gpus in sizes):
        there = ", ".join(f"{cpus:g} and {gpus:g}" for cpus, gpus in sizes)
        raise UserError(
            f"hydra.launcher.num_cpus={num_cpus:g} num_gpus={num_gpus:g}: no node of this Ray is so large. Cores and "
            f"GPUs of its nodes: {there}."
        )


def _config(launcher: "RayLauncher", overrides: Sequence[str], number: int) -> DictConfig:
    """The config of one job."""
    log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
    config: DictConfig = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id, config.hydra.job.num = f"job_{number}", number
        if "threads" in config and config.threads is None:
            config.threads = max(1, int(launcher.resources["num_cpus"]))
    return config


def run_here(home: Surroundings, config: DictConfig) -> JobReturn:
    """Run a job in a process of Ray's, on whatever machine, as if in the directory and the process it comes from."""
    try:
        os.chdir(home.directory)
    except OSError as error:
        raise UserError(
            f"{home.directory}: cannot be entered on {os.uname().nodename}: {error.strerror}. Runs on several machines "
            "need a directory that all of them share."
        ) from error
    if str(home.directory) not in sys.path:
        sys.path.append(str(home.directory))  # for cells and tasks of one's own
    os.environ.update(home.environment)
    setup_globals()
    Singleton.set_state(home.singletons)
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=home.hydra_context,
        task_function=home.task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _returned(ray: ModuleType, ref: Any, config: DictConfig) -> JobReturn:  # noqa: ANN401 - an ObjectRef
    """What a job returned, when it has; its failure, if Ray has nothing else to give."""
    try:
        returned: JobReturn = ray.get(ref)
        return returned
    except ray.exceptions.RayError as error:  # died too often, cancelled from elsewhere, not to be pickled
        cause = getattr(error, "cause", None)  # of an error in `run_here`
        failed = JobReturn(overrides=list(config.hydra.overrides.task), status=JobStatus.FAILED)
        failed.return_value = cause if isinstance(cause, Exception) else error
        return failed
