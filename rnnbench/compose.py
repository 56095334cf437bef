"""Where configs come from: the files of `configs/` and of the user's own directory, composed by Hydra."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rnnbench.config import RunConfig, flatten, from_hydra
from rnnbench.errors import UserError, did_you_mean

GROUPS = ("cell", "task", "train", "experiment")

Failure = tuple[str, Exception]
"""The overrides of a run, and what it failed with."""


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


def defaults_of_a_run() -> dict[str, object]:
    """The keys of `configs/config.yaml`, without the groups."""
    content = OmegaConf.to_container(OmegaConf.load(config_dir() / "config.yaml"), resolve=False)
    assert isinstance(content, dict)
    kept = {str(key): value for key, value in content.items() if key not in ("defaults", "hydra")}
    return {**kept, "data_dir": None, "kernel": "auto"}


def known_keys(args: Sequence[str] = (), extra: Path | None = None) -> list[str]:
    """The dotted keys of what the overrides ``args`` choose; of all cells, tasks and protocols by default."""
    keys = set(defaults_of_a_run())
    for group in GROUPS[:3]:
        options = options_of(group, extra)
        chosen = [value for arg in args if arg.startswith(f"{group}=") for value in arg.partition("=")[2].split(",")]
        if args and not chosen:
            chosen = [{"cell": "gru", "task": "adding", "train": "modern"}[group]]
        for name in chosen or options:
            if name in options:
                keys |= {key for key in _keys_of(options[name], options, group) if not key.endswith("._target_")}
    return sorted(keys)


def _keys_of(path: Path, options: dict[str, Path], group: str) -> Iterator[str]:
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(content, dict)
    for inherited in content.pop("defaults", []):
        if isinstance(inherited, str) and inherited in options:
            yield from _keys_of(options[inherited], options, group)
    yield from (key for key, _ in flatten({str(key): value for key, value in content.items()}, group))


def user_dir(args: Sequence[str]) -> Path | None:
    """The directory that the arguments of Hydra name with ``--config-dir`` or ``-cd``."""
    rest = iter(args)
    for arg in rest:
        if arg in ("--config-dir", "-cd"):
            return Path(next(rest, "."))
        if arg.startswith("--config-dir="):
            return Path(arg.partition("=")[2])
    return None


def compose_config(*overrides: str, extra: Path | None = None) -> RunConfig:
    """The config of one run, as `rnnbench run` would have it with these overrides.

    Args:
        overrides: as on the command line.
        extra: the user's own config directory.

    Raises:
        UserError: for anything wrong with them.
    """
    from hydra import compose, initialize_config_dir

    search = [f"hydra.searchpath=[{extra.resolve().as_uri()}]"] if extra else []
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            cfg = compose("config", overrides=[*overrides, *search], return_hydra_config=True)
    except Exception as error:
        raise UserError(explain(error, overrides, extra)) from error
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return from_hydra(cfg, choices, list(overrides))


def hydra_run(
    job: Callable[[RunConfig], None],
    tell: Callable[[Failure], None],
    args: Sequence[str],
    failures: list[Failure],
) -> None:
    """Let Hydra read ``args`` and call ``job`` with the config of each run.

    A run that fails does not keep those after it in a sweep from running. In this process its error is handed
    to ``tell`` and added to ``failures``; in a process of another launcher it is raised, for the launcher to
    bring back.

    Raises:
        UserError: for anything wrong with the command line or the configs.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException

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
    sys.argv = ["rnnbench", *args]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(call)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, args, user_dir(args))) from error


def explain(error: Exception, args: Sequence[str], extra: Path | None) -> str:
    """What Hydra or OmegaConf complain of, in a line or two, with the nearest known name."""
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    groups = "|".join(GROUPS)
    if match := re.search(rf"Could not find '({groups})/([^']+)'", text):
        group, option = match.groups()
        known = options_of(group, extra)
        return f"{group}={option}: not known. Allowed: {', '.join(known)}.{did_you_mean(option, known)}"
    if match := re.search(r"(?:Could not override '|Could not append to config. |full_key: )([\w.]+)", text):
        key, keys = match[1], known_keys(args, extra)
        group = key.partition(".")[0]
        near = [k for k in keys if k.startswith(f"{group}.")] or [*GROUPS, *(k for k in keys if "." not in k)]
        return f"{key}: there is no such key. Known: {', '.join(near)}.{did_you_mean(key, [*GROUPS, *keys])}"
    if "Config group override must be" in text:
        return f"{' '.join(args)}: a group ({', '.join(GROUPS)}) takes the name of one of its options, not null."
    if "LexerNoViableAlt" in text or "parsing override" in text:
        first = text.splitlines()[0]
        what = first.partition(": ")[2] or first
        return f"{what}: cannot be read. Quote blanks and special characters: \"results_dir='my results'\"."
    return text.strip()
