"""One run, from its config to its record: assemble, train (or go on training), score once, write down."""

import importlib
import inspect
import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from rnnbench import provenance
from rnnbench.config import RunConfig, identity, run_key
from rnnbench.errors import UserError, did_you_mean
from rnnbench.events import EventLog
from rnnbench.model import Model, build_cell, build_model, count_parameters, match_hidden_size
from rnnbench.progress import ProgressBar
from rnnbench.record import Record
from rnnbench.seeding import torch_seed
from rnnbench.tasks.base import SPLITS, Task
from rnnbench.train import Member, Metrics, Outcome, evaluate, train


@dataclass
class Prepared:
    """A config whose classes are found, whose sizes are known, and whose device is there."""

    config: RunConfig
    cell: nn.Module
    """With its initial parameters."""
    task: Task
    device: torch.device


def prepare(config: RunConfig) -> Prepared:
    """Find the classes, settle the hidden size, check the device; no data is loaded.

    Raises:
        UserError: for a class that cannot be found, an option it does not have, or a device that is not there.
    """
    cell_class = find_class(config.cell["_target_"], nn.Module, "cell")
    task_class = find_class(config.task["_target_"], Task, "task")
    for part, found in ((config.cell, cell_class), (config.task, task_class)):
        if (source := provenance.source_digest(found)) is not None:
            part["source"] = source  # one's own class: what it computes is decided by its file
    task = build_task(task_class, config.options("task"))
    if config.match_params is not None:
        config.cell["hidden_size"] = match_hidden_size(
            cell_class,
            task.input_size,
            task.output_size,
            config.options("cell"),
            config.match_params,
            config.match_count,
        )
    elif config.cell.get("hidden_size") is None:
        raise UserError("cell.hidden_size: not set. Give it, or match_params=20000 to have it solved for.")
    cell_seed = torch_seed(config.seed, "init")
    cell = build_cell(cell_class, task.input_size, config.cell["hidden_size"], config.options("cell"), cell_seed)
    return Prepared(config, cell, task, find_device(config.device))


def find_class(path: str, base: type, key: str) -> type:
    """The class called ``path`` (module.Class), which must derive from ``base``; nothing is called.

    Raises:
        UserError: if there is none.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{key}._target_={path}: cannot import {module_name or path!r} ({error}). It is looked for in the "
            "installed packages and in the working directory."
        ) from error
    found = getattr(module, name, None)
    if not inspect.isclass(found) or not issubclass(found, base):
        classes = [
            n
            for n, c in vars(module).items()
            if inspect.isclass(c) and issubclass(c, base) and not inspect.isabstract(c)
        ]
        raise UserError(
            f"{key}._target_={path}: {name!r} is not a {base.__module__}.{base.__qualname__} in {module_name}. There: "
            f"{', '.join(classes) or 'none'}.{did_you_mean(name, classes)}"
        )
    return found


def build_task(task_class: type[Task], options: Mapping[str, Any]) -> Task:
    """The task with its options.

    Raises:
        UserError: for an option it does not have, or lacks.
    """
    allowed = inspect.signature(task_class).parameters
    for name in options:
        if name not in allowed:
            raise UserError(
                f"task.{name}: {task_class.__qualname__} has no such option. Allowed: {', '.join(allowed)}."
                f"{did_you_mean(name, allowed)}"
            )
    missing = [n for n, p in allowed.items() if p.default is inspect.Parameter.empty and n not in options]
    if missing:
        raise UserError(f"task: {task_class.__qualname__} needs {', '.join(missing)}; add it to the task's config.")
    return task_class(**options)


def find_device(name: str) -> torch.device:
    """The torch device called ``name``.

    Raises:
        UserError: if it is unknown, or not there.
    """
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UserError(f"device={name}: not known. Allowed: cpu, cuda, cuda:0 and so on, mps.")
    device = torch.device(name)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"device={name}: is not to be had here ({reason}). Use device=cpu.") from error
    return device


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
        with record.locked():
            record.recover()
            done = record.finished()
            if done and not config.force:
                record.open(config)
                result = record.result()
                assert result is not None
                return {**result, "path": str(record.path), "trained_now": False}
            target = record.replacement() if done else record
            target.open(config)
            result = _recorded(prepared, target)
            if target is not record and result["status"] != "interrupted":
                record.replace_by(target)
            return {**result, "path": str(record.path), "trained_now": True}
    except OSError as error:
        raise UserError(
            f"{error.filename or record.path}: cannot be written: {error.strerror or error}. What was computed up to "
            "the last checkpoint is kept: mend this and give the same command again, or give another results_dir."
        ) from error


def _recorded(prepared: Prepared, record: Record) -> dict[str, Any]:
    """A run whose end, whatever it is, is written down."""
    log = logging.getLogger(f"rnnbench.{record.path.name}")
    handler = logging.FileHandler(record.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    record.clear_result()
    try:
        result = Runner(prepared, record, log).run()
        record.write_result(result)
        log.info("%s", result["status"])
        return result
    except BaseException as error:
        with suppress(OSError):  # the disk may be full, and the first error is the one to tell
            log.exception("the run ended in an error")
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            result = {"status": status, "error": f"{type(error).__name__}: {error}"}
            record.write_result({**_description(prepared.config, record), **result})
        raise
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()


def _description(config: RunConfig, record: Record) -> dict[str, Any]:
    """What is known of a run before it begins."""
    return {
        "run_key": run_key(config),
        "task": config.task["name"],
        "cell": config.cell["name"],
        "seed": config.seed,
        "config": {group: config.as_dict()[group] for group in ("cell", "task", "train")},
        **provenance.describe(config.device, config.threads),
    }


class Runner:
    """What happens around the loop while a run trains: it is the loop's `Recorder`."""

    def __init__(self, prepared: Prepared, record: Record, log: logging.Logger) -> None:
        """Load the data, build the model, and take up the last checkpoint if there is one."""
        config = prepared.config
        torch.set_num_threads(config.threads)
        self.config, self.task, self.record, self.log = config, prepared.task, record, log
        self.key = run_key(config)
        self.stopping = False
        self.task.prepare(Path(config.data_dir) if config.data_dir else None)
        model = _new_model(prepared).to(prepared.device, getattr(torch, config.train.dtype))
        self.member = Member(model, config.train, config.seed)
        self.params_recurrent, self.params_total = count_parameters(model.cell), count_parameters(model)
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
            self.log.info("start: run %s", self.key)
            return 0
        self.member.load_state_dict(self.record.load(self.record.last, self.key))
        progress = self.member.progress
        self.record.keep_metrics_until(progress.evaluated)
        self.log.info("resume: run %s at epoch %d, update %d", self.key, progress.epoch, progress.update)
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
        self.member.theta.copy_(self.member.best_theta)
        scores: dict[str, Metrics] = {}
        for split in SPLITS:
            metrics = evaluate(self.member.model, self.task.loss, self.task.evaluation_batches(split))
            scores[split] = {**metrics, "success": self.task.succeeds(metrics, split)}
        return scores

    def _result(self, outcome: Outcome, scores: Mapping[str, Metrics]) -> dict[str, Any]:
        progress = self.member.progress
        return {
            "status": outcome,
            **_description(self.config, self.record),
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
            "population": {"size": 1, "members": [self.key]},
        }

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
            best = {"run_key": self.key, "theta": state["best_theta"], "epoch": progress.best_epoch}
            self.record.save(self.record.best, best)
            self.best_saved = progress.best_update
        self.record.save(self.record.last, {"run_key": self.key, **state})
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
            print("\nstopping after this update; once more to stop at once", file=sys.stderr)

        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _new_model(prepared: Prepared) -> Model:
    config, task = prepared.config, prepared.task
    prior = task.output_prior() if config.train.readout_bias == "log_odds" else None
    hidden_size = config.cell["hidden_size"]
    return build_model(
        prepared.cell, hidden_size, task.output_size, prior, torch_seed(config.seed, "readout"), task.loss.link
    )


def load(path: Path, weights: str = "best") -> tuple[Model, RunConfig]:
    """See `rnnbench.load`."""
    if weights not in ("best", "last"):
        raise UserError(f"weights={weights}: must be best or last.")
    record = Record(path)
    config = record.config()
    key = run_key(config)
    cell_class = find_class(config.cell["_target_"], nn.Module, "cell")
    task = build_task(find_class(config.task["_target_"], Task, "task"), config.options("task"))
    hidden_size = config.cell["hidden_size"]
    cell = build_cell(cell_class, task.input_size, hidden_size, config.options("cell"))
    model = build_model(cell, hidden_size, task.output_size, None, 0, task.loss.link).to(
        getattr(torch, config.train.dtype)
    )
    member = Member(model, config.train, config.seed)
    member.theta.copy_(record.load(record.best if weights == "best" else record.last, key)["theta"])
    return model.eval(), config
