"""``hydra/launcher=rnnbench``, the default: each job a process of its own, as many at a time as there are cores.

Hydra imports this file whenever it starts: nothing heavy may be imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LocalLauncherConf:
    """The keys of ``hydra.launcher``."""

    _target_: str = "hydra_plugins.rnnbench_local.local.LocalLauncher"
    jobs: int | None = None
    """At a time; null: as many as the cores that `threads` allows."""


ConfigStore.instance().store(group="hydra/launcher", name="rnnbench", node=LocalLauncherConf, provider="rnnbench")


class LocalLauncher(Launcher):
    """Places jobs on the cores of this machine; what happens in one's process is nothing to the others."""

    def __init__(self, jobs: int | None = None) -> None:
        """Take the values of `LocalLauncherConf`."""
        self.jobs = jobs
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember the config; a job needs nothing else, since it is a command."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, and come back when all have ended.

        Returns:
            For each job its outcomes, or a `JobDiedError`.

        Raises:
            KeyboardInterrupt: when all jobs have stopped; the first Ctrl-C lets them save themselves.
        """
        from hydra_plugins.rnnbench_local._core import launch

        assert self.config is not None
        returns: list[JobReturn] = launch(self.config, job_overrides, initial_job_idx, self.jobs)
        return returns
