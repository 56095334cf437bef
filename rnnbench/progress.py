"""The progress bar of a run: epoch, loss, validation, speed, time left."""

from typing import TYPE_CHECKING, Self

from tqdm import tqdm

from rnnbench.config import RunConfig

if TYPE_CHECKING:
    from rnnbench.tasks.base import Task
    from rnnbench.train import Member, Metrics

DISABLED = {"auto": None, "true": False, "false": True}
"""For tqdm, None is: where there is no terminal."""


class ProgressBar:
    """A bar over the updates of the whole budget; a run that stops early leaves it unfilled."""

    def __init__(self, config: RunConfig, member: "Member", task: "Task") -> None:
        """Count from the updates already made."""
        total = config.train.max_epochs * task.updates_in_epoch(config.train.batch_size)
        self._member = member
        self._bar = tqdm(
            total=total,
            initial=member.progress.update,
            desc=f"{config.cell['name']} {config.task['name']} s{config.seed}",
            unit="upd",
            dynamic_ncols=True,
            disable=DISABLED[config.progress],
        )

    def updated(self) -> None:
        """Another update was made."""
        self._bar.update()

    def evaluated(self, valid: float, training: "Metrics") -> None:
        """Show the newest figures."""
        progress = self._member.progress
        loss = f"{training['loss']:.4g}" if training else "-"
        best = f"{progress.best_metric:.4g}@{progress.best_epoch}"
        self._bar.set_postfix_str(f"epoch {progress.epoch}, loss {loss}, valid {valid:.4g}, best {best}", refresh=False)

    def __enter__(self) -> Self:
        """Show the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it as it is."""
        self._bar.close()
