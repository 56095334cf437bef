"""The config of a run: its types, its checks, its identity, and where it comes from.

Values and the prose that explains them are in `configs/`; here is what they must be.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from rnnbench.errors import UserError, check_at_least, check_choice, did_you_mean

GROUPS = ("cell", "task", "train", "experiment")

NEUTRAL: dict[str, Any] = {}
"""Keys that were added after runs had been recorded, with the value that means what was done before. At that
value a key is left out of a run's identity, so that old records keep their directories and are pooled with new
ones."""


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

    def check(self) -> None:
        """Raise `UserError` for a value out of range."""
        check_positive("train.lr", self.lr)
        check_at_least("train.lr_final", self.lr_final, 0.0)
        check_at_least("train.batch_size", self.batch_size, 1, whole=True)
        check_choice("train.reduction", self.reduction, ("sum", "mean"))
        if self.clip_norm is not None:
            check_positive("train.clip_norm", self.clip_norm)
        check_at_least("train.weight_noise", self.weight_noise, 0.0)
        check_choice("train.readout_bias", self.readout_bias, ("zero", "log_odds"))
        check_at_least("train.max_epochs", self.max_epochs, 1, whole=True)
        if self.patience is not None:
            check_at_least("train.patience", self.patience, 1, whole=True)
        check_at_least("train.eval_every", self.eval_every, 1, whole=True)
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
    threads: int
    data_dir: str | None
    results_dir: str
    force: bool
    checkpoint_every_s: float
    tensorboard: bool
    progress: str

    def check(self) -> None:
        """Raise `UserError` for a value out of range."""
        for group, part in (("cell", self.cell), ("task", self.task)):
            if not isinstance(part.get("_target_"), str):
                raise UserError(f"{group}: its config needs a _target_, the class to use, as module.Class.")
        self.train.check()
        check_at_least("seed", self.seed, 0, whole=True)
        if self.match_params is not None:
            check_at_least("match_params", self.match_params, 1, whole=True)
        check_choice("match_count", self.match_count, ("recurrent", "all"))
        check_at_least("threads", self.threads, 1, whole=True)
        check_at_least("checkpoint_every_s", self.checkpoint_every_s, 0.0)
        self.progress = self.progress.lower()
        check_choice("progress", self.progress, ("auto", "true", "false"))

    def options(self, group: str) -> dict[str, Any]:
        """The keyword arguments of the cell or the task: what is left when the keys of ours are taken out."""
        part: dict[str, Any] = getattr(self, group)
        ours = {"name", "_target_", "source"} | ({"hidden_size"} if group == "cell" else set())
        return {key: value for key, value in part.items() if key not in ours}

    def as_dict(self) -> dict[str, Any]:
        """The config as plain containers."""
        return asdict(self)


def check_positive(key: str, value: float) -> None:
    """Raise `UserError` unless ``value`` is above zero."""
    if not value > 0.0:
        raise UserError(f"{key}={value}: must be above 0.")


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """A checked config from plain containers.

    Raises:
        UserError: for an unknown or missing key, or a value of the wrong type or out of range.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), dict(values))
        config = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        raise UserError(_unknown_key(str(error.full_key), config_keys())) from error
    except ValidationError as error:
        reason = str(error.msg).splitlines()[0]
        raise UserError(f"{error.full_key}: {reason}.") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from error
    assert isinstance(config, RunConfig)
    config.check()
    return config


def from_hydra(cfg: DictConfig, choices: Mapping[str, str | None], overrides: Sequence[str]) -> RunConfig:
    """The config of a run that Hydra composed.

    Args:
        cfg: what was composed, without the node ``hydra``.
        choices: which option of each group was chosen; those of cell and task name them.
        overrides: as given on the command line.

    Raises:
        UserError: see `from_dict`; or if the hidden size is given twice.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    for group in ("cell", "task"):
        values[group]["name"] = str(choices[group]).replace("/", "-")
    config = from_dict({str(key): value for key, value in values.items()})
    given = [o for o in overrides if o.lstrip("+").split("=")[0] == "cell.hidden_size"]
    if config.match_params is not None and given:
        raise UserError(
            f"match_params={config.match_params} and {given[0]}: both decide the hidden size; give one of them."
        )
    return config


def identity(config: RunConfig) -> dict[str, Any]:
    """What decides the result of a run, and nothing else: cell, task, train and seed."""
    parts = {"cell": config.cell, "task": config.task, "train": asdict(config.train)}
    flat = {
        key: _canonical(value)
        for group, part in parts.items()
        for key, value in flatten(part, group)
        if key not in ("cell.name", "task.name")
    }
    kept = {key: value for key, value in flat.items() if key not in NEUTRAL or value != _canonical(NEUTRAL[key])}
    return {**kept, "seed": config.seed}


def run_key(config: RunConfig) -> str:
    """Ten hexadecimal digits of the sha256 of a run's identity."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:10]


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


# ---------------------------------------------------------------- where configs come from


def config_dir() -> Path:
    """The configs that come with the package: inside it in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise FileNotFoundError("rnnbench: its configs/ is missing; install it again")


def options_of(group: str, extra: Path | None = None) -> dict[str, Path]:
    """The options of a config group, those of the user's own directory ``extra`` among them."""
    roots = [config_dir(), *([extra] if extra else [])]
    return {path.stem: path for root in roots for path in sorted((root / group).glob("*.yaml"))}


def describe(path: Path) -> str:
    """The first line of a config file, a comment that says what it is."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def config_keys() -> list[str]:
    """Every dotted key of the shipped configs."""
    keys = set()
    root = config_dir()
    for path in [
        root / "config.yaml",
        *root.glob("cell/*.yaml"),
        *root.glob("task/*.yaml"),
        *root.glob("train/*.yaml"),
    ]:
        prefix = "" if path.parent == root else path.parent.name
        content = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(content, dict)
        leaves = {str(key): value for key, value in content.items() if key not in ("defaults", "hydra")}
        keys |= {key for key, _ in flatten(leaves, prefix) if not key.endswith("._target_")}
    return sorted(keys)


def _unknown_key(key: str, known: Sequence[str]) -> str:
    group = key.split(".")[0]
    near = [k for k in known if k.split(".")[0] == group] or [*GROUPS, *(k for k in known if "." not in k)]
    return f"{key}: there is no such key. Known: {', '.join(near)}.{did_you_mean(key, [*GROUPS, *known])}"


# ---------------------------------------------------------------- Hydra


Failure = tuple[str, Exception]
"""The overrides of a run, and what it failed with."""


def hydra_run(
    job: Callable[[RunConfig], None], tell: Callable[[Failure], None], program: str, argv: Sequence[str]
) -> list[Failure]:
    """Let Hydra read ``argv`` and call ``job`` with the config of each run.

    A run that fails does not keep those after it in a sweep from running. In this process its error is handed
    to ``tell`` and kept; in a process of another launcher it is raised, for the launcher to bring back.

    Returns:
        The runs that failed.

    Raises:
        UserError: for anything wrong with the command line or the configs.
    """
    import argparse
    import os
    import sys

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException

    failures: list[Failure] = []
    process = os.getpid()

    def call(cfg: DictConfig) -> None:
        composed = HydraConfig.get()
        overrides = list(composed.overrides.task)
        try:
            job(from_hydra(cfg, composed.runtime.choices, overrides))
        except Exception as error:
            if os.getpid() != process:
                raise
            failures.append((" ".join(overrides), error))
            tell(failures[-1])

    if sys.version_info >= (3, 14):  # there hydra 1.3.8 trips over argparse's check of help texts (hydra#3121)
        argparse.ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back as exceptions, and are told by us
    sys.argv = [program, *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(call)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    return failures


def explain(error: Exception) -> str:
    """What Hydra or OmegaConf complain of, in a line or two, with the nearest known name."""
    import re

    parts = [str(e) for e in (error, error.__cause__) if e is not None]
    text = "\n".join(parts)
    if match := re.search(r"Could not find '(\w+)/([^']+)'", text):
        group, option = match.groups()
        known = options_of(group)
        return f"{group}={option}: not known. Allowed: {', '.join(known)}.{did_you_mean(option, known)}"
    if match := re.search(r"Could not override '([^']+)'\.\s*No match in the defaults list", text):
        hint = did_you_mean(match[1], [*GROUPS, *config_keys()])
        return f"{match[1]}: there is no such group or key. Groups: {', '.join(GROUPS)}.{hint}"
    if match := re.search(r"(?:Could not override '|full_key: )([\w.]+)", text):
        return _unknown_key(match[1], config_keys())
    return text.strip()
