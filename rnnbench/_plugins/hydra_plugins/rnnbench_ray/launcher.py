"""`hydra/launcher=rnnbench_ray`: each job of a sweep is a task of Ray, which has a process of its own.

Hydra imports this file whenever it starts: nothing heavy may be imported here. What is done is in `_core`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class RayConf:
    """The keys of ``hydra.launcher``."""

    _target_: str = "hydra_plugins.rnnbench_ray.launcher.RayLauncher"
    address: str = "local"
    """A Ray of our own on this machine; ``auto``: the one that runs here; ``host:port``: of which that is the head."""
    num_cpus: float = 1
    """Cores of a job, which are its ``threads`` too."""
    num_gpus: float = 0
    """GPUs of a job; 0.25: four jobs share one."""
    max_retries: int = 3
    """How often a job is started again whose process or machine has died; one that raises an error is not."""
    init: dict[str, Any] = field(default_factory=dict)
    """More arguments of ``ray.init``."""


ConfigStore.instance().store(group="hydra/launcher", name="rnnbench_ray", node=RayConf, provider="rnnbench")


class RayLauncher(Launcher):
    """Hands jobs to Ray, and waits for them. A job that fails or dies takes none of the others with it."""

    def __init__(self, address: str, num_cpus: float, num_gpus: float, max_retries: int, init: DictConfig) -> None:
        """Take the keys of `RayConf`."""
        self.address = address
        self.resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self.max_retries = max_retries
        self.init: Any = OmegaConf.to_container(OmegaConf.create(init), resolve=True)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See `hydra.plugins.launcher.Launcher`."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs.

        Args:
            job_overrides: the overrides of each job.
            initial_job_idx: the number of the first.

        Returns:
            What each job returned or failed with, in order; of one that died too often, what Ray says of that.

        Raises:
            UserError: if there is no Ray, or none of its nodes is as large as one job.
            KeyboardInterrupt: at Ctrl-C, when the runs under way have saved themselves; at the second one, at once.
        """
        from ._core import launch

        return launch(self, job_overrides, initial_job_idx)
