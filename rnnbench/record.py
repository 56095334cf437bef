"""The files of a run, and the promise that they are never half written, mixed up or lost.

A run lives in ``<results_dir>/runs/<task>/<cell>/s<seed>-<hash>/``:

=================  =====================================================================================
config.yaml        the resolved config
metrics.jsonl      one line per evaluation: epoch, update, wall seconds, metrics
diagnostics.jsonl  one line per measurement while training, if ``diagnose_every`` asks for it: epoch, update, log10
                   norms of gradients at a few lags, gates, spectral radii
diagnosis.json     what `rnnbench diagnose` measured at the best weights (`rnnbench.diagnosis.Diagnosis.as_dict`)
diagnosis/         its curves for TensorBoard
result.json        how it ended, its scores and its provenance; written last
last.pt, best.pt   the latest checkpoint, to go on from; the weights with the lowest validation loss
run.log            what happened when
origin.json        of a run that was merged from another machine: whose it is
events.out.*       TensorBoard
=================  =====================================================================================

While a run is repeated by force, the new one lives beside the old one, in ``.s<seed>-<hash>.new``, and takes
its place when it is finished.
"""

import io
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rnnbench.compose import defaults_of_a_run
from rnnbench.config import RunConfig, from_record, identity, run_key, study_of
from rnnbench.errors import UserError
from rnnbench.files import write_atomically
from rnnbench.lock import locked

SCHEMA_VERSION = 1
STATUSES = ("done", "diverged", "interrupted", "pruned", "error")
FINISHED = STATUSES[:2]
"""The outcomes that are not repeated. A run that was interrupted or met an error is taken up again, and so is one that
was pruned, unless by the search that gave it up."""


class Record:
    """The directory of one run."""

    def __init__(self, path: Path) -> None:
        """Take the directory of a run, which need not exist."""
        self.path = path

    @classmethod
    def of(cls, config: RunConfig) -> "Record":
        """Where a run of ``config`` lives."""
        name = f"s{config.seed}-{run_key(config)}"
        return cls(Path(config.results_dir).expanduser() / "runs" / config.task["name"] / config.cell["name"] / name)

    @property
    def last(self) -> Path:
        """The latest checkpoint."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """The weights with the lowest validation loss."""
        return self.path / "best.pt"

    @property
    def log(self) -> Path:
        """What happened when."""
        return self.path / "run.log"

    @property
    def metrics_file(self) -> Path:
        """A line for each evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def origin(self) -> Path:
        """Of which study of another machine the run is, if it was merged."""
        return self.path / "origin.json"

    @property
    def diagnostics_file(self) -> Path:
        """A line for each measurement while training."""
        return self.path / "diagnostics.jsonl"

    @property
    def diagnosis_file(self) -> Path:
        """What was measured at the best weights."""
        return self.path / "diagnosis.json"

    @property
    def _result(self) -> Path:
        return self.path / "result.json"

    # ------------------------------------------------------------ one process at a time, one config a directory

    @property
    def lock(self) -> Path:
        """Held while a process trains the run."""
        return self.path.parent / f".{self.path.name}.lock"

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run against other processes; a dead process holds nothing.

        Raises:
            BusyError: on entering, if another process has it.
        """
        return locked(self.lock, str(self.path))

    def open(self, config: RunConfig) -> None:
        """Make the directory, or check that it is this config's.

        Raises:
            UserError: if it belongs to another config.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for left_over in self.path.glob(".*.tmp"):  # by a process that was killed while writing
            left_over.unlink()
        path = self.path / "config.yaml"
        if path.exists():
            self.check(config)
        else:
            write_atomically(path, OmegaConf.to_yaml(OmegaConf.create(config.as_dict())).encode())

    def check(self, config: RunConfig) -> None:
        """Raise `UserError` if the directory belongs to another config."""
        found = self.config()
        if identity(found) != identity(config):
            raise UserError(
                f"{self.path}: holds a run of another config ({_differences(found, config)}). Move it away, or "
                "give another results_dir."
            )

    def config(self) -> RunConfig:
        """The resolved config of the run.

        Raises:
            UserError: if there is none, or it cannot be read.
        """
        path = self.path / "config.yaml"
        if not path.is_file():
            raise UserError(f"{self.path}: is not the directory of a run; it has no config.yaml.")
        try:
            return config_of(path.read_text(encoding="utf-8"))
        except Exception as error:  # whatever is in it
            raise UserError(
                f"{path}: is damaged ({str(error).splitlines()[0]}). Move {self.path} away and run again."
            ) from error

    # ------------------------------------------------------------ what a run writes

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add the line of an evaluation."""
        _append(self.metrics_file, row)

    def append_diagnostics(self, row: Mapping[str, Any]) -> None:
        """Add the line of a measurement."""
        _append(self.diagnostics_file, row)

    def metrics(self) -> list[dict[str, Any]]:
        """The evaluations so far; a last line that was cut short is left out.

        Raises:
            UserError: if the file is damaged.
        """
        return self._rows(self.metrics_file)

    def diagnostics(self) -> list[dict[str, Any]]:
        """The measurements so far; see `metrics`."""
        return self._rows(self.diagnostics_file)

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        if not path.exists():
            return []
        try:
            text = path.read_text(encoding="utf-8")
            rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
            return [{**row, "epoch": int(row["epoch"])} for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is damaged ({error}). Move {self.path} away and run again.") from error

    def keep_until(self, epoch: int) -> None:
        """Drop what was evaluated and measured after ``epoch``: a run goes on from there, and will do it again."""
        for path in (self.metrics_file, self.diagnostics_file):
            if path == self.metrics_file or path.exists():
                kept = [row for row in self._rows(path) if row["epoch"] <= epoch]
                write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write how the run ended."""
        text = json.dumps({"schema_version": SCHEMA_VERSION, **finite(result)}, indent=2)
        write_atomically(self._result, text.encode() + b"\n")

    def clear_result(self) -> None:
        """Take back how the run ended: it goes on, here, wherever it came from."""
        self._result.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def result(self) -> dict[str, Any] | None:
        """How the run ended, or None if it has not.

        Raises:
            UserError: if the file is damaged or of a later version of rnnbench.
        """
        if not self._result.exists():
            return None
        return read_result(self._result)

    def finished(self) -> bool:
        """Whether the run has an outcome that is not to be repeated."""
        result = self.result()
        return result is not None and result["status"] in FINISHED

    def ended(self, config: RunConfig) -> bool:
        """Whether a run of ``config`` is not to be repeated: it is finished, or given up by its own search."""
        result = self.result()
        return result is not None and has_ended(result["status"], result.get("trial"), config)

    # ------------------------------------------------------------ checkpoints

    def save(self, path: Path, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; the lines that it counts on reach the disk before it."""
        import torch

        for lines in (self.metrics_file, self.diagnostics_file):
            if lines.exists():
                with lines.open("rb") as file:
                    os.fsync(file.fileno())
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_atomically(path, buffer.getvalue())

    def load(self, path: Path, key: str, into: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Read a checkpoint of the run whose key is ``key`` and put it ``into`` a member; nothing in it is executed.

        Raises:
            UserError: if it is missing, damaged, or of another config.
        """
        import torch

        if not path.is_file():
            why = "it came without them (rnnbench merge)" if self.origin.exists() else "the run has not come that far"
            raise UserError(f"{path}: there is no such checkpoint; {why}.")
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            found = state["run_key"]
            if found == key:
                into(state)
        except Exception as error:  # whatever a damaged file makes of it
            raise UserError(
                f"{path}: the checkpoint is damaged or cut short ({type(error).__name__}). Delete it to start the run "
                "from the beginning, or put back a copy."
            ) from error
        if found != key:
            raise UserError(
                f"{path}: is a checkpoint of another config (run {found}, here {key}). Put it back where it belongs, "
                "or delete it to start from the beginning."
            )
        return state

    # ------------------------------------------------------------ repetition by force

    def replacement(self) -> "Record":
        """Where the run is repeated while its old result is kept."""
        return Record(self.path.parent / f".{self.path.name}.new")

    @property
    def _old(self) -> Path:
        return self.path.parent / f".{self.path.name}.old"

    def replace_by(self, new: "Record") -> None:
        """Let ``new`` take this one's place; `recover` ends what a crash in here leaves behind."""
        self.path.rename(self._old)
        new.path.rename(self.path)
        shutil.rmtree(self._old)

    def recover(self) -> None:
        """Put a run back whose replacement was cut off between two renamings."""
        if self._old.exists():
            if self.path.exists():
                shutil.rmtree(self._old)
            else:
                self._old.rename(self.path)


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(row)) + "\n")


def has_ended(status: str, trial: str | None, config: RunConfig) -> bool:
    """Whether what ended with ``status``, as ``trial`` of a search, is not to be repeated for ``config``."""
    return status in FINISHED or (status == "pruned" and config.study is not None and config.study == study_of(trial))


def config_of(text: str) -> RunConfig:
    """The config in the ``text`` of a config.yaml, which may be older than some of the keys. Nothing in it is executed.

    Raises:
        Exception: of many kinds, if it is damaged.
    """
    content = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(content, dict)
    return from_record({str(key): value for key, value in content.items()}, defaults_of_a_run())


def read_result(path: Path) -> dict[str, Any]:
    """The content of a result.json; see `result_of`."""
    return result_of(path.read_bytes(), str(path))


def result_of(content: bytes, path: str, advice: str = "Delete it and run again.") -> dict[str, Any]:
    """What is in the ``content`` of the result.json at ``path``; ``advice`` is what to do if it is damaged.

    Raises:
        UserError: if it is damaged, or of a later version of rnnbench.
    """
    try:
        result: dict[str, Any] = json.loads(content.decode("utf-8"))
        version, status, config = int(result["schema_version"]), result["status"], result["config"]
        if status not in STATUSES or not isinstance(config, dict):
            raise ValueError(f"status {status}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}). {advice}") from error
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: has schema_version {version}, from a later rnnbench; this one reads up to {SCHEMA_VERSION}. "
            "Update rnnbench."
        )
    return result


def finite(value: Any) -> Any:  # noqa: ANN401 - JSON
    """``value`` with None for what JSON cannot say: infinity and not-a-number."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _differences(found: RunConfig, asked: RunConfig) -> str:
    a, b = identity(found), identity(asked)
    keys = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    return ", ".join(f"{key}={a.get(key)} instead of {b.get(key)}" for key in keys[:3])
