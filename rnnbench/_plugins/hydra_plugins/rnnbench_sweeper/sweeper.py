"""A sweeper that hands the launcher one job for all runs that can train together, and none for what is done.

Hydra imports this file whenever it starts: nothing heavy may be imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

from rnnbench.members import TOGETHER


@dataclass
class PopulationSweeperConf:
    """The keys of ``hydra.sweeper``: those of Hydra's own sweeper, and two of ours."""

    _target_: str = "hydra_plugins.rnnbench_sweeper.sweeper.PopulationSweeper"
    max_batch_size: int | None = None
    """Jobs that the launcher is given at a time; null: all."""
    params: dict[str, str] | None = None
    max_members: int | None = 50
    """Runs that train together in a job, at most."""
    retries: int = 2
    """How often a run whose process dies is taken up again, in a job of its own."""


ConfigStore.instance().store(group="hydra/sweeper", name="rnnbench", node=PopulationSweeperConf, provider="rnnbench")


class PopulationSweeper(BasicSweeper):
    """The product of the overrides, as Hydra's own sweeper makes it, less what is done, grouped into populations."""

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        max_members: int | None = 50,
        retries: int = 2,
    ) -> None:
        """Take the values of `PopulationSweeperConf`."""
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.max_members, self.retries = max_members, retries

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Run what is missing or unfinished; returns the outcomes of all runs.

        Raises:
            UserError: for a config that cannot be composed, before anything is run.
            RunsFailedError: at the end, if runs failed.
        """
        from hydra_plugins.rnnbench_sweeper._core import conduct

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        (jobs,) = self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)
        outcomes: list[Any] = conduct(self, populations(jobs))
        return outcomes


def populations(jobs: Sequence[Sequence[str]]) -> list[tuple[list[str], list[list[str]]]]:
    """The jobs that differ in nothing but keys of `TOGETHER`, as what they share, and what each has of its own.

    Populations stand in the order of their first runs, and members in the order of the jobs.
    """
    groups: dict[tuple[str, ...], list[Sequence[str]]] = {}
    for job in jobs:
        groups.setdefault(tuple(o for o in job if o.partition("=")[0] not in TOGETHER), []).append(job)
    found = []
    for group in groups.values():
        shared = [override for override in group[0] if all(override in job for job in group)]
        found.append((shared, [[o for o in job if o not in shared] for job in group]))
    return found
