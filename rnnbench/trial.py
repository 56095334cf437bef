"""A run as a trial of a search with Optuna: where the search is kept, and when the run is not worth its time.

A search is an Optuna study in a journal, ``<results_dir>/searches/<name>.journal``, a line for everything that happens
in it. The sweeper (`_plugins/hydra_plugins/rnnbench_optuna`) draws the trials and tells how they ended; a run that
trains, in whatever process, tells how far it has come, and asks whether it is hopeless.
"""

import fcntl
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rnnbench.config import RunConfig

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import JournalStorage

PRUNERS = ("median", "halving", "none")
PRUNER, LOOK_EVERY = "pruner", "look_every"
"""Attributes of a study: one of `PRUNERS`, and the number of epochs between two looks at a run."""


def journal(results_dir: str, name: str) -> Path:
    """The file of the search ``name``."""
    return Path(results_dir).expanduser() / "searches" / f"{name}.journal"


class AppendLock:
    """Held while a process adds to a journal: the kernel's own, for a dead process can hold those of Optuna."""

    def __init__(self, path: Path) -> None:
        """Take the journal, which need not exist."""
        self._path = path.parent / f".{path.name}.lock"
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Wait for it."""
        file = self._path.open("a")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file
        return True

    def release(self) -> None:
        """Let it go."""
        assert self._file is not None
        self._file.close()


@functools.cache
def storage_of(path: Path) -> "JournalStorage":
    """The journal ``path``, made if it is not there; read once by each process, and then only what is new in it."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    lock: Any = AppendLock(path)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def pruner_of(attributes: Mapping[str, Any]) -> "BasePruner | None":
    """Optuna's pruner that a study's attributes name."""
    from optuna.pruners import MedianPruner, SuccessiveHalvingPruner

    if attributes[PRUNER] == "median":
        return MedianPruner()
    return SuccessiveHalvingPruner(attributes[LOOK_EVERY]) if attributes[PRUNER] == "halving" else None


def looks(evaluations: Iterable[tuple[int, float]], every: int) -> Iterator[tuple[int, float]]:
    """The steps at which runs are compared, multiples of ``every`` epochs, and the best validation until then.

    Args:
        evaluations: epoch and validation metric.
        every: epochs; the first evaluation at or after a multiple stands for it.
    """
    best, last = float("inf"), 0
    for epoch, value in evaluations:
        best = min(best, value)
        if (step := epoch // every * every) > last:
            last = step
            yield step, best


class Trial:
    """What a run in training knows of its search."""

    def __init__(self, config: RunConfig) -> None:
        """Open the search.

        Raises:
            ImportError: without Optuna.
            LookupError: if there is no such search or trial.
        """
        import optuna

        assert config.trial is not None
        assert config.study is not None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path = journal(config.results_dir, config.study)
        if not path.exists():
            raise LookupError(f"{path}: there is no such search")
        self._storage = storage_of(path)
        study_id = self._storage.get_study_id_from_name(config.study)
        number = int(config.trial.rpartition("/")[2])
        self._id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        attributes = self._storage.get_study_user_attrs(study_id)
        self._every: int = attributes[LOOK_EVERY]
        self._pruner = pruner_of(attributes)
        self._study = optuna.load_study(study_name=config.study, storage=self._storage)
        self._looked_at = 0

    def hopeless(self, epoch: int, best: float) -> bool:
        """Whether a run that has come to ``epoch`` with the validation metric ``best`` should end there."""
        step = epoch // self._every * self._every
        if self._pruner is None or step <= self._looked_at:
            return False
        self._looked_at = step
        trial = self._storage.get_trial(self._id)
        if trial.state.is_finished():  # the search has gone on without this run
            return False
        if step not in trial.intermediate_values:
            self._storage.set_trial_intermediate_value(self._id, step, best)
        return bool(self._pruner.prune(self._study, self._storage.get_trial(self._id)))
