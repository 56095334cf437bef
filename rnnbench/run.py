"""One run, from its config to its record: assemble, train (or go on training), score once, write down."""

import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from rnnbench import provenance
from rnnbench.assemble import Prepared, new_model, prepare
from rnnbench.config import RunConfig, identity, run_key
from rnnbench.errors import UserError
from rnnbench.events import EventLog
from rnnbench.model import count_parameters
from rnnbench.progress import ProgressBar
from rnnbench.record import Record, finite
from rnnbench.tasks.base import SPLITS
from rnnbench.train import Member, Metrics, Outcome, evaluate, train


def run(config: RunConfig) -> dict[str, Any]:
    """Train, or go on training, or take what is there already.

    Returns:
        The content of result.json, the run's ``path``, and whether it was ``trained_now``.

    Raises:
        UserError: for anything the user can mend; what was computed until then is kept.
    """
    prepared = prepare(config)
    record = Record.of(config)
    try:
        if record.finished() and not config.force:
            return _found(record, config)
        prepared.task.prepare(Path(config.data_dir).expanduser() if config.data_dir else None)
        with record.locked():
            record.recover()
            done = record.finished()
            if done and not config.force:  # by a process that held the lock until now
                return _found(record, config)
            target = record.replacement() if done else record
            target.open(config)
            result = _recorded(prepared, target)
            if target is not record and result["status"] != "interrupted":
                record.replace_by(target)
            return {**result, "path": str(record.path), "trained_now": True}
    except OSError as error:
        if not _is_of_writing(error, Path(config.results_dir).expanduser()):
            raise
        raise UserError(
            f"{error.filename or record.path}: cannot be written: {error.strerror or error}. What was computed up to "
            "the last checkpoint is kept: mend this and give the same command again, or give another results_dir."
        ) from error


def _found(record: Record, config: RunConfig) -> dict[str, Any]:
    record.check(config)
    result = record.result()
    assert result is not None
    return {**result, "path": str(record.path), "trained_now": False}


def _is_of_writing(error: OSError, results_dir: Path) -> bool:
    """Whether an error is about the files of the run, and not one that a cell or task of one's own raised."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
    return Path(os.fsdecode(error.filename)).absolute().is_relative_to(results_dir.absolute())


def _recorded(prepared: Prepared, record: Record) -> dict[str, Any]:
    """A run whose end, whatever it is, is written down."""
    log = logging.getLogger(f"rnnbench.{record.path.name}")
    handler = logging.FileHandler(record.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    record.clear_result()
    description = _description(prepared.config)
    try:
        result = {**description, **Runner(prepared, record, log).run()}
        record.write_result(result)
        log.info("%s", result["status"])
        return result
    except BaseException as error:
        with suppress(OSError):  # the disk may be full, and the first error is the one to tell
            log.exception("the run ended early")
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            record.write_result({**description, "status": status, "error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()


def _description(config: RunConfig) -> dict[str, Any]:
    """What is known of a run before it begins."""
    return {
        "run_key": run_key(config),
        "task": config.task["name"],
        "cell": config.cell["name"],
        "seed": config.seed,
        "search": config.search,
        "config": {group: config.as_dict()[group] for group in ("cell", "task", "train")},
        **provenance.describe(config.device, config.threads),
    }


class Runner:
    """What happens around the loop while a run trains: it is the loop's `Recorder`."""

    def __init__(self, prepared: Prepared, record: Record, log: logging.Logger) -> None:
        """Build the model, and take up the last checkpoint if there is one; the task has its data."""
        config = prepared.config
        self.config, self.task, self.record, self.log = config, prepared.task, record, log
        self.key = run_key(config)
        self.stopping = False
        model = new_model(prepared)
        self.member = Member(model, config.train, config.seed)
        self.params_recurrent, self.params_total = count_parameters(model.cell), count_parameters(model)
        self.commits = [provenance.commit_text()]
        purge_step = self._resume()
        shown = {"cell": config.cell["name"], "task": config.task["name"], **identity(config)}
        flat = {key: value for key, value in shown.items() if not key.endswith("._target_")}
        self.events = EventLog(record.path, flat, purge_step) if config.tensorboard else None
        self.saved_at = time.monotonic()
        self.best_saved = -1

    def _resume(self) -> int | None:
        """Go on from the last checkpoint; returns the first step of the curves that is to be drawn again."""
        if not self.record.last.exists():
            self.record.keep_metrics_until(-1)
            self.log.info("start: run %s, commit %s", self.key, self.commits[-1])
            return 0
        state = self.record.load(self.record.last, self.key, into=self.member.load_state_dict)
        self.commits = list(dict.fromkeys([*state["commits"], *self.commits]))
        progress = self.member.progress
        self.record.keep_metrics_until(progress.evaluated)
        self.log.info("resume: at epoch %d, update %d, commit %s", progress.epoch, progress.update, self.commits[-1])
        return progress.evaluated_update + 1

    def run(self) -> dict[str, Any]:
        """Train and score; returns the content of result.json."""
        try:
            with self._signals(), ProgressBar(self.config, self.member, self.task) as self.bar:
                outcome = train(self.member, self.task, self)
            self._save()
            scores = {} if outcome == "interrupted" else self._score()
            if self.events and scores:
                self.events.end(scores, self.task.metric, self.member.progress.update)
        finally:
            if self.events:
                self.events.close()
        return self._result(outcome, scores)

    def _score(self) -> dict[str, Metrics]:
        """Train, valid and test at the weights that are best on validation: the one time test is touched."""
        self.member.set_weights(**self.member.best_weights())
        scores: dict[str, Metrics] = {}
        for split in SPLITS:
            metrics = evaluate(self.member.model, self.task.loss, self.task.evaluation_batches(split))
            scores[split] = {**metrics, "success": self.task.succeeds(metrics, split)}
        return scores

    def _result(self, outcome: Outcome, scores: Mapping[str, Metrics]) -> dict[str, Any]:
        progress = self.member.progress
        result = {
            "status": outcome,
            "metric": self.task.metric,
            "unit": self.task.loss.unit,
            **scores,
            "baselines": {split: self.task.baselines(split) for split in SPLITS},
            "best_epoch": progress.best_epoch,
            "best_update": progress.best_update,
            "best_valid": progress.best_metric,
            "epochs": progress.epoch,
            "updates": progress.update,
            "params_recurrent": self.params_recurrent,
            "params_total": self.params_total,
            "seconds": progress.wall_s,
            "data_checksum": self.task.checksum,
            "commits": self.commits,
            "population": {"size": 1, "members": [self.key]},
        }
        whole: dict[str, Any] = finite(result)
        return whole

    # ------------------------------------------------------------ what the loop tells

    def evaluated(self, member: Member, valid: Metrics, training: Metrics) -> None:
        """See `train.Recorder`."""
        progress = member.progress
        row = {"epoch": progress.epoch, "update": progress.update, "wall_s": progress.wall_s}
        points = {f"train/{k}": v for k, v in training.items()} | {f"valid/{k}": v for k, v in valid.items()}
        self.record.append_metrics({**row, **points})
        if self.events:
            baseline = next(iter(self.task.baselines("valid").values()))
            self.events.add({**points, **{f"baseline/{k}": v for k, v in baseline.items()}}, progress.update)
        self.bar.evaluated(valid[self.task.metric], training)
        self._save_sometimes()

    def updated(self, member: Member) -> None:
        """See `train.Recorder`."""
        self.bar.updated()
        self._save_sometimes()

    def stop_requested(self) -> bool:
        """See `train.Recorder`."""
        return self.stopping

    # ------------------------------------------------------------ checkpoints and signals

    def _save_sometimes(self) -> None:
        if time.monotonic() - self.saved_at >= self.config.checkpoint_every_s:
            self._save()

    def _save(self) -> None:
        """Write the best weights, if they are new, and then the checkpoint, which holds them too."""
        state = self.member.state_dict()
        progress = self.member.progress
        if progress.best_update != self.best_saved:
            best = {"run_key": self.key, **self.member.best_weights(), "epoch": progress.best_epoch}
            self.record.save(self.record.best, best)
            self.best_saved = progress.best_update
        self.record.save(self.record.last, {"run_key": self.key, "commits": self.commits, **state})
        self.saved_at = time.monotonic()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the update under way; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: FrameType | None) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            os.write(2, b"\nstopping after this update; once more to stop at once\n")  # print may be under way

        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def run_population(configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """Run all of ``configs``; one that fails does not keep the others from running.

    Returns:
        For each config, in order, what `run` returns; or its status "error" with the text of the ``error`` and the
        ``exception``. After an interruption those that were not begun are missing.
    """
    results: list[dict[str, Any]] = []
    for config in configs:
        try:
            results.append(run(config))
        except Exception as error:  # noqa: BLE001 - it is handed over, and told with those of the other runs
            results.append({"status": "error", "error": f"{type(error).__name__}: {error}", "exception": error})
        if results[-1]["status"] == "interrupted":
            break
    return results
