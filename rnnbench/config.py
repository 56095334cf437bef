"""The config of a run: its types, its checks and its identity.

Values and the prose that explains them are in `configs/`; here is what they must be.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from rnnbench.errors import UserError, check_choice, check_number, check_whole, did_you_mean

NEUTRAL: dict[str, Any] = {}
"""Keys that were added after runs had been recorded, with the value that means what was done before. At that
value a key is left out of a run's identity and of the comparison of runs, and where a record lacks it, it is
taken to have that value: so old records keep their directories, resume, and are pooled with new ones."""

NAMES = ("cell.name", "task.name", "train.name")
"""The names of the config files, which decide nothing."""

TRIAL = re.compile(r"\w[\w.-]*/\d+")
"""The name of a search with Optuna, which is that of a file too, and the number of a trial."""

RESERVED = ("name", "source")
"""Keys that rnnbench itself adds to the config of a cell or a task."""


@dataclass
class TrainConfig:
    """A protocol; `configs/train/` explains each key and gives its source."""

    optimizer: dict[str, Any]
    lr: float
    lr_final: float
    batch_size: int
    reduction: str
    clip_norm: float | None
    weight_noise: float
    readout_bias: str
    max_epochs: int
    patience: int | None
    eval_every: int
    stop_when_solved: bool
    dtype: str
    name: str = ""
    """Of the config file."""

    def check(self) -> None:
        """Raise `UserError` for a value out of range."""
        check_number("train.lr", self.lr, above=0)
        check_number("train.lr_final", self.lr_final, least=0.0)
        check_whole("train.batch_size", self.batch_size, 1)
        check_choice("train.reduction", self.reduction, ("sum", "mean"))
        if self.clip_norm is not None:
            check_number("train.clip_norm", self.clip_norm, above=0)
        check_number("train.weight_noise", self.weight_noise, least=0.0)
        check_choice("train.readout_bias", self.readout_bias, ("zero", "log_odds"))
        check_whole("train.max_epochs", self.max_epochs, 1)
        if self.patience is not None:
            check_whole("train.patience", self.patience, 1)
        check_whole("train.eval_every", self.eval_every, 1)
        check_choice("train.dtype", self.dtype, ("float32", "float64"))


@dataclass
class RunConfig:
    """All of one run; `configs/config.yaml` explains each key."""

    cell: dict[str, Any]
    task: dict[str, Any]
    train: TrainConfig
    seed: int
    match_params: int | None
    match_count: str
    device: str
    threads: int | None
    kernel: str
    data_dir: str | None
    results_dir: str
    force: bool
    checkpoint_every_s: float
    tensorboard: bool
    progress: str
    search: dict[str, Any] | None = None
    """Of which search this is a candidate (name, index, candidates, log_low, log_high); decides nothing."""
    trial: str | None = None
    """Of which search with Optuna this is which trial, as ``name/number``; decides nothing but when to give up."""
    diagnose_every: int | None = None
    """Epochs from one measurement of gates and gradients to the next; null for none."""

    def check(self) -> None:
        """Raise `UserError` for a value out of range."""
        for group, part in (("cell", self.cell), ("task", self.task)):
            if not isinstance(part.get("_target_"), str):
                raise UserError(f"{group}: its config needs a _target_, the class to use, as module.Class.")
        self.train.check()
        check_whole("seed", self.seed, 0)
        if self.match_params is not None:
            check_whole("match_params", self.match_params, 1)
        check_choice("match_count", self.match_count, ("recurrent", "all"))
        if self.threads is not None:
            check_whole("threads", self.threads, 1)
        check_choice("kernel", self.kernel, ("auto", "compiled", "reference"))
        check_number("checkpoint_every_s", self.checkpoint_every_s, least=0.0)
        if self.diagnose_every is not None:
            check_whole("diagnose_every (null for never)", self.diagnose_every, 1)
        self.progress = self.progress.lower()
        check_choice("progress", self.progress, ("auto", "true", "false"))
        if self.trial is not None and not TRIAL.fullmatch(self.trial):
            raise UserError(f"trial={self.trial}: must be the name of a search and a number, as in trial=gru-jsb/3.")

    @property
    def study(self) -> str | None:
        """The name of the search with Optuna that the run belongs to."""
        return study_of(self.trial)

    def options(self, group: str) -> dict[str, Any]:
        """The keyword arguments of the cell or the task: what is left when the keys of ours are taken out."""
        part: dict[str, Any] = getattr(self, group)
        ours = {*RESERVED, "_target_"} | ({"hidden_size"} if group == "cell" else set())
        return {key: value for key, value in part.items() if key not in ours}

    def cores(self) -> int:
        """How many cores to use: ``threads``, or as many as this process may."""
        return self.threads or cores_here()

    def as_dict(self) -> dict[str, Any]:
        """The config as plain containers."""
        return asdict(self)


def cores_here() -> int:
    """How many cores this process may use: those it has, and fewer where a launcher or a cluster says so."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = (os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"))
    return min([here, *(int(text) for text in said if text.isdecimal() and int(text) > 0)])


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """A checked config from plain containers.

    Raises:
        UserError: for an unknown or missing key, or a value of the wrong type or out of range.
    """
    known = [f.name for f in fields(RunConfig)]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), dict(values))
        config = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        key = str(error.full_key)
        near = [f"train.{f.name}" for f in fields(TrainConfig)] if key.startswith("train.") else known
        raise UserError(f"{key}: there is no such key. Known: {', '.join(near)}.{did_you_mean(key, near)}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error.msg).splitlines()[0]}.") from error
    assert isinstance(config, RunConfig)
    config.check()
    return config


def from_record(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> RunConfig:
    """A checked config from a record, which may be older than some of the keys.

    Args:
        values: what was recorded.
        defaults: values for what decides no result, where the record lacks it.
    """
    filled = {**defaults, **values}
    for key, value in NEUTRAL.items():
        group, _, name = key.partition(".")
        if group in ("task", "train"):  # a cell's own default is its neutral value
            filled[group] = {name: value, **filled[group]}
    return from_dict(filled)


def identity(config: RunConfig) -> dict[str, Any]:
    """What decides the result of a run, and nothing else: cell, task, train and seed."""
    parts = {"cell": config.cell, "task": config.task, "train": asdict(config.train)}
    flat = {
        key: _canonical(value)
        for group, part in parts.items()
        for key, value in flatten(part, group)
        if key not in NAMES
    }
    return {**{key: value for key, value in flat.items() if not is_neutral(key, value)}, "seed": config.seed}


def is_neutral(key: str, value: Any) -> bool:  # noqa: ANN401 - a leaf of a config
    """Whether a dotted key has the value that means what was done before there was that key."""
    return key in NEUTRAL and _canonical(value) == _canonical(NEUTRAL[key])


def run_key(config: RunConfig) -> str:
    """Ten hexadecimal digits of the sha256 of a run's identity."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:10]


def study_of(trial: str | None) -> str | None:
    """The name of the search that a trial belongs to."""
    return None if trial is None else trial.rpartition("/")[0]


def flatten(part: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, under dotted keys."""
    for name, value in part.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            yield from flatten(value, key)
        else:
            yield key, value


def _canonical(value: Any) -> Any:  # noqa: ANN401 - a leaf of a config
    """1.0 and 1 are the same number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
