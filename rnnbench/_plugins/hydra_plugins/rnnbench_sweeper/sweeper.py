"""A sweeper that hands the launcher one job for all runs that can train together.

Hydra imports this file whenever it starts: nothing heavy may be imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override, Quote, QuotedString

from rnnbench.members import TOGETHER


@dataclass
class PopulationSweeperConf:
    """The keys of ``hydra.sweeper``, those of Hydra's own sweeper."""

    _target_: str = "hydra_plugins.rnnbench_sweeper.sweeper.PopulationSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="rnnbench", node=PopulationSweeperConf, provider="rnnbench")


class PopulationSweeper(BasicSweeper):
    """The product of the overrides, as Hydra's own sweeper makes it, then grouped into populations."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """The launcher's jobs, in batches of at most ``max_batch_size`` populations."""
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        return list(BasicSweeper.split_overrides_to_chunks(populations(jobs), max_batch_size))


def populations(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """One job for all that differ in nothing but keys of `TOGETHER`: what they share, and the list of its members.

    Populations stand in the order of their first runs, and members in the order of the jobs.
    """
    groups: dict[tuple[str, ...], list[Sequence[str]]] = {}
    for job in jobs:
        groups.setdefault(tuple(o for o in job if o.partition("=")[0] not in TOGETHER), []).append(job)
    return [_population(group) for group in groups.values()]


def _population(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The job of a group; a group of one is that job."""
    first, *others = jobs
    shared = [override for override in first if all(override in job for job in others)]
    if not others:
        return shared
    lists = [",".join(_quoted(o) for o in job if o not in shared) for job in jobs]
    return [*shared, f"members=[{','.join(f'[{own}]' for own in lists)}]"]


def _quoted(override: str) -> str:
    return QuotedString(override, Quote.single).with_quotes()
