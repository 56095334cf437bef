"""How far a run is, read from its files: also while it trains, from another process, without torch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from rnnbench.config import RunConfig
from rnnbench.errors import UserError
from rnnbench.lock import holder
from rnnbench.record import FINISHED, Record, has_ended

STATES = ("new", "running", "done", "diverged", "interrupted", "pruned", "error")
"""What a run may be in: "pruned" is what a search gave up, and whatever ended without a word, killed or with its
machine, is "interrupted"."""

TAIL_BYTES = 4096
"""Of metrics.jsonl: more than its longest line."""


@dataclass(frozen=True)
class State:
    """How far a run is."""

    status: str
    """Of `STATES`."""
    epochs: int = 0
    updates: int = 0
    seconds: float = 0.0
    """Of training, until the last evaluation."""
    error: str | None = None
    """Why it failed, in a line."""
    holder: str | None = None
    """Which process trains it."""
    checkpoint: bool = False
    """Whether there is something to go on from."""
    trial: str | None = None
    """Of which search it is a trial, and which, if it was given up."""

    @property
    def finished(self) -> bool:
        """Whether it is not to be repeated."""
        return self.status in FINISHED

    def ended(self, config: RunConfig) -> bool:
        """Whether a run of ``config`` is not to be repeated; see `Record.ended`."""
        return has_ended(self.status, self.trial, config)

    @property
    def updates_per_s(self) -> float | None:
        """Its speed so far."""
        return self.updates / self.seconds if self.seconds else None


def state_of(record: Record) -> State:
    """The state of a run whose directory need not be there."""
    if (process := holder(record.lock)) is not None:
        return State("running", *_last_evaluation(record), holder=process)
    if not record.path.is_dir():
        return State("new")
    try:
        result = record.result()
    except (UserError, OSError) as error:
        return State("error", *_last_evaluation(record), error=str(error), checkpoint=record.last.exists())
    if result is not None and result["status"] in FINISHED:
        epochs, updates, seconds = (result.get(key) or 0 for key in ("epochs", "updates", "seconds"))
        return State(result["status"], int(epochs), int(updates), float(seconds))
    return State(
        "interrupted" if result is None else result["status"],
        *_last_evaluation(record),
        error=None if result is None else _first_line(result.get("error")),
        checkpoint=record.last.exists(),
        trial=None if result is None else result.get("trial"),
    )


def run_dirs(runs_dir: Path) -> Iterator[Path]:
    """The directories of all runs, ``<task>/<cell>/s<seed>-<hash>/``."""
    for cell in sorted(runs_dir.glob("*/*/")):
        yield from runs_of(cell)


def runs_of(cell: Path) -> Iterator[Path]:
    """The directories of the runs of one cell on one task; what begins with a dot replaces a run, or is replaced."""
    for path in sorted(cell.glob("s*-*")):
        seed, _, key = path.name.removeprefix("s").partition("-")
        if path.is_dir() and seed.isdigit() and key and set(key) <= set("0123456789abcdef"):
            yield path


def max_epochs(path: Path) -> int | None:
    """The budget of the run in ``path``, or None where its config cannot be read."""
    try:
        return int(OmegaConf.select(OmegaConf.load(path / "config.yaml"), "train.max_epochs"))
    except Exception:  # noqa: BLE001 - whatever a damaged file makes of it
        return None


def _last_evaluation(record: Record) -> tuple[int, int, float]:
    """Epoch, update and seconds of the last whole line of metrics.jsonl; zeros if there is none."""
    try:
        with record.metrics_file.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
    except OSError:
        return 0, 0, 0.0
    for line in reversed(tail[: tail.rfind(b"\n") + 1].splitlines()):
        try:
            row = json.loads(line)
            return int(row["epoch"]), int(row["update"]), float(row["wall_s"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0, 0, 0.0


def _first_line(text: object) -> str | None:
    return str(text).splitlines()[0] if text else None
