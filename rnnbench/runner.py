"""What happens around the loop while a run trains: its log, curves, checkpoints, scores and result."""

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rnnbench import provenance
from rnnbench.assemble import Prepared, new_model
from rnnbench.config import RunConfig, identity, run_key
from rnnbench.diagnosis import Probe
from rnnbench.engines import Engines
from rnnbench.events import EventLog
from rnnbench.model import count_parameters
from rnnbench.progress import ProgressBar
from rnnbench.record import Record, finite
from rnnbench.tasks.base import SPLITS, Task
from rnnbench.train import GivenUpError, Member, Metrics, Outcome, finished, training
from rnnbench.trial import Trial

Result = dict[str, Any]


class Shared:
    """What the runs of a population have in common."""

    def __init__(self, keys: Sequence[str], engines: Engines, bar: ProgressBar) -> None:
        """Take the run keys of all members, what computes their updates, and what shows them."""
        self.keys = list(keys)
        self.engines = engines
        self.bar = bar
        self.tasks: dict[str, Task] = {}
        self.stopping = False


def recorded(prepared: Prepared, record: Record, shared: Shared) -> Generator[None, None, Result]:
    """A run in turns, whose end, whatever it is, is written down; its first turn is the construction of the model."""
    log = logging.getLogger(f"rnnbench.{record.path.name}")
    handler = logging.FileHandler(record.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    record.clear_result()
    description = _description(prepared.config)
    try:
        runner = Runner(prepared, record, log, shared)
        yield
        scored = yield from runner.run()
        result = {**description, **scored}
        record.write_result(result)
        log.info("%s", result["status"])
        return result
    except BaseException as error:
        with suppress(OSError):  # the disk may be full, and the first error is the one to tell
            log.exception("the run ended early")
            status = "interrupted" if isinstance(error, KeyboardInterrupt | GeneratorExit) else "error"
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
        "trial": config.trial,
        "config": {group: config.as_dict()[group] for group in ("cell", "task", "train")},
        **provenance.describe(config.device, config.cores()),
    }


class Runner:
    """One run in training: it is the loop's `Recorder`."""

    def __init__(self, prepared: Prepared, record: Record, log: logging.Logger, shared: Shared) -> None:
        """Build the model, and take up the last checkpoint if there is one; the task has its data."""
        config = prepared.config
        self.config, self.task, self.record, self.log, self.shared = config, prepared.task, record, log, shared
        self.key = run_key(config)
        model = new_model(prepared)
        self.member = Member(model, config.train, config.seed)
        self.engine = shared.engines.of(self.member, self.task, prepared.device)
        self.params_recurrent, self.params_total = count_parameters(model.cell), count_parameters(model)
        self.commits = [provenance.commit_text()]
        purge_step = self._resume()
        shown = {"cell": config.cell["name"], "task": config.task["name"], **identity(config)}
        flat = {key: value for key, value in shown.items() if not key.endswith("._target_")}
        self.events = EventLog(record.path, flat, purge_step) if config.tensorboard else None
        self.saved_at = time.monotonic()
        self.best_saved = -1
        self.trial = self._trial() if config.trial else None
        self.probe = Probe(self.task) if config.diagnose_every else None
        shared.bar.add(config, self.member, self.task)

    def _trial(self) -> Trial | None:
        """The trial of a search that this run is, if the search can be asked here."""
        try:
            return Trial(self.config)
        except (ImportError, LookupError) as error:
            self.log.warning("trial %s: nobody can say whether it is hopeless: %s", self.config.trial, error)
            return None

    def _resume(self) -> int | None:
        """Go on from the last checkpoint; returns the first step of the curves that is to be drawn again."""
        how = f"commit {self.commits[-1]}, kernel {self.engine.name}, one of {len(self.shared.keys)}"
        if not self.record.last.exists():
            self.record.keep_until(-1)
            self.log.info("start: run %s, %s", self.key, how)
            return 0
        state = self.record.load(self.record.last, self.key, into=self.member.load_state_dict)
        self.commits = list(dict.fromkeys([*state["commits"], *self.commits]))
        progress = self.member.progress
        self.record.keep_until(progress.evaluated)
        self.log.info("resume: at epoch %d, update %d, %s", progress.epoch, progress.update, how)
        return progress.evaluated_update + 1

    def run(self) -> Generator[None, None, Result]:
        """Train, in turns, and score; returns the content of result.json."""
        try:
            outcome = yield from training(self.member, self.task, self, self.engine)
            self._save()
            budget = self.config.train.max_epochs * self.task.updates_in_epoch(self.config.train.batch_size)
            self.shared.bar.ended(self.member, left=budget - self.member.progress.update)
            scores = {} if outcome in ("interrupted", "pruned") else self._score()
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
            metrics = self.engine.evaluate(self.member, self.task, split)
            scores[split] = {**metrics, "success": self.task.succeeds(metrics, split)}
        return scores

    def _result(self, outcome: Outcome, scores: Mapping[str, Metrics]) -> Result:
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
            "kernel": self.engine.name,
            "population": {"size": len(self.shared.keys), "members": self.shared.keys},
        }
        whole: Result = finite(result)
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
        self._diagnose_sometimes()
        self.shared.bar.evaluated(member, valid[self.task.metric], training)
        self._save_sometimes()
        if self.trial and not finished(member, self.task) and self.trial.hopeless(progress.epoch, progress.best_metric):
            raise GivenUpError

    def _diagnose_sometimes(self) -> None:
        """Measure the present weights in the epochs that ``diagnose_every`` asks for; nothing of the run is touched."""
        progress, every = self.member.progress, self.config.diagnose_every
        if self.probe is None or every is None or progress.epoch % every:
            return
        found = self.probe(self.member.model)
        self.record.append_diagnostics({"epoch": progress.epoch, "update": progress.update, **found.in_short()})
        if self.events:
            self.events.add(found.scalars(), progress.update, found.histograms())

    def updated(self, member: Member) -> None:
        """See `train.Recorder`."""
        self.shared.bar.updated(member)
        self._save_sometimes()

    def stop_requested(self) -> bool:
        """See `train.Recorder`."""
        return self.shared.stopping

    # ------------------------------------------------------------ checkpoints

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
