"""A sweeper that has Optuna say what to try next, and runs each batch of trials as one population.

Hydra imports this file whenever it starts: nothing heavy may be imported here.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra_plugins.rnnbench_sweeper.sweeper import PopulationSweeper

from rnnbench.errors import UserError


@dataclass
class SearchSweeperConf:
    """The keys of ``hydra.sweeper``."""

    _target_: str = "hydra_plugins.rnnbench_optuna.sweeper.SearchSweeper"
    trials: int = 40
    """Of the whole search, those of former commands among them."""
    batch: int = 10
    """Trials that are drawn, and run, at a time."""
    name: str | None = None
    """Of the search; null: made of cell, task, space and what is fixed, so that the same command goes on with it."""
    sampler: str = "tpe"
    """tpe (tree-structured Parzen estimator) or random."""
    pruner: str = "median"
    """When to give a run up: median (worse than half of those that have ended), halving (not among the best quarter at
    1, 4, 16, … looks) or none."""
    look_every: int = 10
    """Epochs between two looks at a run."""
    max_batch_size: int | None = None
    """See the sweeper ``rnnbench``, as for the rest."""
    params: dict[str, str] | None = None
    max_members: int | None = 50
    retries: int = 2


ConfigStore.instance().store(
    group="hydra/sweeper", name="rnnbench_optuna", node=SearchSweeperConf, provider="rnnbench_optuna"
)


class SearchSweeper(PopulationSweeper):  # type: ignore[misc] # mypy knows it by another name
    """The overrides of a sweep are a space, and its jobs are drawn from there."""

    def __init__(
        self,
        trials: int,
        batch: int,
        name: str | None,
        sampler: str,
        pruner: str,
        look_every: int,
        **others: Any,  # noqa: ANN401 - those of PopulationSweeper
    ) -> None:
        """Take the values of `SearchSweeperConf`."""
        super().__init__(**others)
        self.trials, self.batch, self.name = trials, batch, name
        self.sampler, self.pruner, self.look_every = sampler, pruner, look_every

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Go on with the search until it has as many trials as asked; returns the outcomes of the runs of now.

        Raises:
            UserError: without Optuna; for a space or a config that cannot be; before anything is run.
            RunsFailedError: at the end, if runs failed.
        """
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=rnnbench_optuna: needs Optuna. Install it: pip install 'rnnbench[optuna]'")
        from hydra_plugins.rnnbench_optuna._core import conduct

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        outcomes: list[Any] = conduct(self, parser.parse_overrides([*self._parse_config(), *arguments]))
        return outcomes
