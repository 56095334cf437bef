"""What a person sees of a sweep while it runs: one bar for all of it, and each group's scores as soon as it has ended.

It looks at the records, every second, and so shows the same whatever runs the jobs, here or on other machines.
"""

import sys
import threading
from contextlib import suppress
from typing import NoReturn, Self

from tqdm import tqdm

from rnnbench.progress import DISABLED
from rnnbench.state import state_of
from rnnbench.summary import summarise_population
from rnnbench.sweep import Run, Sweep

LOOK_S = 1.0
"""Seconds between two looks."""


class Watch:
    """One bar whose whole is the training that the sweep has to do, and whose unit is a run."""

    def __init__(self, sweep: Sweep, progress: str) -> None:
        """Show nothing yet."""
        self._sweep = sweep
        self._waiting = [group for group in sweep.groups if any(run.to_do for run in group)]
        """The groups whose scores have not been told."""
        self._todo = [run for run in sweep.runs() if run.to_do]
        self._seen: dict[int, tuple[float, str]] = {}
        self._ended_runs: set[int] = set()
        self._disable = DISABLED[progress]
        self._bar: tqdm[NoReturn] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def tell(self, text: str) -> None:
        """A line for the person, beside the bar."""
        tqdm.write(f"rnnbench: {text}", file=sys.stderr)

    def __enter__(self) -> Self:
        """Begin to look."""
        if self._todo:
            self._look()
            done = sum(fraction for fraction, _ in self._seen.values())
            self._bar = tqdm(
                total=len(self._todo),
                initial=done,
                disable=self._disable,
                dynamic_ncols=True,
                smoothing=0,
                bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
            )
            self._show()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show what is there at the end."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
            self._look()
            self._show()
        for group in self._waiting:
            self._summarise(group)
        if self._bar is not None:
            self._bar.close()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._look()
            self._show()

    def _look(self) -> None:
        """See how far each run is, and tell the scores of groups that have ended."""
        for run in self._todo:
            if id(run) not in self._ended_runs:
                state = state_of(run.record)
                if ended := state.ended(run.config) and not run.config.force:
                    self._ended_runs.add(id(run))
                share = 1.0 if ended else min(1.0, state.epochs / run.config.train.max_epochs)
                self._seen[id(run)] = share, state.status
        for group in list(self._waiting):
            if all(not run.to_do or id(run) in self._ended_runs for run in group):
                self._waiting.remove(group)
                self._summarise(group)

    def _summarise(self, group: list[Run]) -> None:
        configs, results = self._sweep.results(group)
        if any(result["status"] != "error" for result in results):
            with suppress(BrokenPipeError):  # the reader of our output may have gone
                tqdm.write(summarise_population(configs, results))
                sys.stdout.flush()

    def _show(self) -> None:
        if self._bar is None or self._bar.disable:
            return
        states = [status for _, status in self._seen.values()]
        shown = {"running": "running", "done": "done", "diverged": "diverged", "pruned": "pruned", "error": "in error"}
        counts = ((states.count(status), word) for status, word in shown.items())
        self._bar.set_description_str(", ".join(f"{n} {word}" for n, word in counts if n) + " ", refresh=False)
        self._bar.n = sum(fraction for fraction, _ in self._seen.values())
        self._bar.refresh()
