"""The progress bar of a run or of a population: updates, epoch, loss, validation, speed, time left."""

import threading
from typing import TYPE_CHECKING, NoReturn, Self

from tqdm import tqdm

from rnnbench.config import RunConfig

if TYPE_CHECKING:
    from rnnbench.tasks.base import Task
    from rnnbench.train import Member, Metrics

DISABLED = {"auto": None, "true": False, "false": True}
"""For tqdm, None is: where there is no terminal."""


class ProgressBar:
    """One bar over the updates of all members' budgets; what a member leaves of its own is taken out of the total."""

    def __init__(self, progress: str) -> None:
        """Show nothing yet: the bar appears with the first update."""
        self._disable = DISABLED[progress]
        self._bar: tqdm[NoReturn] | None = None
        self._names: list[str] = []
        self._total = self._initial = 0
        self._seen: dict[Member, int] = {}
        """The updates of each member that the bar has been told of."""
        self._lock = threading.Lock()  # members are told of by several threads

    def add(self, config: RunConfig, member: "Member", task: "Task") -> None:
        """Count a member in, from the updates that it has made already."""
        self._names.append(f"{config.cell['name']} {config.task['name']} s{config.seed}")
        self._total += config.train.max_epochs * task.updates_in_epoch(config.train.batch_size)
        self._seen[member] = member.progress.update
        self._initial += member.progress.update

    def updated(self, member: "Member") -> None:
        """Some updates of ``member`` were made."""
        with self._lock:
            if self._bar is None:
                more = f" and {len(self._names) - 1} more" if len(self._names) > 1 else ""
                self._bar = tqdm(
                    total=self._total,
                    initial=self._initial,
                    desc=self._names[0] + more,
                    unit="upd",
                    dynamic_ncols=True,
                    disable=self._disable,
                )
            self._bar.update(member.progress.update - self._seen[member])
            self._seen[member] = member.progress.update

    def evaluated(self, member: "Member", valid: float, training: "Metrics") -> None:
        """Show the newest figures."""
        progress = member.progress
        loss = f"{training['loss']:.4g}" if training else "-"
        best = f"{progress.best_metric:.4g}@{progress.best_epoch}"
        if self._bar is not None:
            text = f"epoch {progress.epoch}, loss {loss}, valid {valid:.4g}, best {best}"
            self._bar.set_postfix_str(text, refresh=False)

    def ended(self, member: "Member", left: int) -> None:
        """``member`` has ended with ``left`` updates of its budget to spare."""
        with self._lock:
            if self._bar is not None and self._bar.total is not None and len(self._names) > 1:
                self._bar.total -= left

    def __enter__(self) -> Self:
        """Show the bar as soon as there is something to show."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it as it is."""
        if self._bar is not None:
            self._bar.close()
