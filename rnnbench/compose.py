"""Where configs come from: the files of `configs/` and of the user's own directory, composed by Hydra."""

import argparse
import copy
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rnnbench.config import RunConfig, flatten
from rnnbench.errors import UserError, did_you_mean
from rnnbench.members import Member, check_distinct, from_hydra, key_of
from rnnbench.outcome import Outcome, RunsFailedError

_process: str | None = None
"""What `hydra_run` calls the process that it runs in: a job that finds another name here has been sent elsewhere."""

GROUPS = ("cell", "task", "train", "search", "experiment")

Failure = tuple[str, Exception]
"""The overrides of a run, and what it failed with."""


class Asked(NamedTuple):
    """What a job is to do."""

    members: list[Member]
    """The runs that train together."""
    failures: list[Failure]
    """What could not be composed, and why."""
    dry_run: bool
    """Whether only to tell what would be run."""
    swept: bool
    """Whether the sweeper tells how it ends."""


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
    kept = {str(key): value for key, value in content.items() if key not in ("defaults", "hydra", "members", "dry_run")}
    return {**kept, "data_dir": None, "kernel": "auto"}


def known_keys(args: Sequence[str] = (), extra: Path | None = None) -> list[str]:
    """The dotted keys of what the overrides ``args`` choose; of all cells, tasks and protocols by default."""
    keys = {*defaults_of_a_run(), "members", "dry_run"}
    for group in GROUPS[:4]:
        options = options_of(group, extra)
        chosen = [value for arg in args if arg.startswith(f"{group}=") for value in arg.partition("=")[2].split(",")]
        if args and not chosen:
            chosen = [{"cell": "gru", "task": "adding", "train": "modern", "search": "null"}[group]]
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
        UserError: for anything wrong with them, or if they stand for several runs.
    """
    configs = compose_population(*overrides, extra=extra)
    if len(configs) > 1:
        raise UserError(f"{' '.join(overrides)}: stands for {len(configs)} runs, where one is wanted.")
    return configs[0]


def compose_population(*overrides: str, extra: Path | None = None) -> list[RunConfig]:
    """The configs of the runs that train together; see `compose_config`."""
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
    members, failures = members_of(cfg, choices, overrides, extra)
    if failures:
        raise failures[0][1]
    return [member.config for member in members]


def members_of(
    cfg: DictConfig, choices: Mapping[str, str | None], overrides: Sequence[str], extra: Path | None
) -> tuple[list[Member], list[Failure]]:
    """The runs of one job; a bad entry of ``members`` is a failure, and does not keep the others from running.

    Args:
        cfg: what was composed, without the node ``hydra``.
        choices: which option of each group was chosen.
        overrides: as given on the command line.
        extra: the user's own config directory.

    Raises:
        UserError: if ``members`` is no list of lists of overrides, or two members are the same run.
    """
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        listed = _listed(cfg.pop("members"))
        cfg.pop("dry_run", None)
    shared = [override for override in overrides if key_of(override) not in ("members", "dry_run")]
    members: list[Member] = []
    failures: list[Failure] = []
    for own in listed:
        try:
            found = from_hydra(_overridden(cfg, own, shared, extra), choices, [*shared, *own])
        except UserError as error:
            failures.append((" ".join([*shared, *own]), error))
        else:
            members += [replace(member, own=[*own, *member.own]) for member in found]
    check_distinct(members)
    return members, failures


def _listed(members: Any) -> list[list[str]]:  # noqa: ANN401 - not yet checked
    """The overrides of each member; of the one there is, if none are listed."""
    if members is None:
        return [[]]
    plain: Any = OmegaConf.to_container(members) if OmegaConf.is_config(members) else members
    of_lists = isinstance(plain, list) and plain and all(isinstance(own, list) for own in plain)
    if not of_lists or not all(isinstance(override, str) for own in plain for override in own):
        raise UserError(
            f"members={plain}: must be a list of overrides for each run, as in members=[['seed=0'],['seed=1']]."
        )
    return [list(own) for own in plain]


def _overridden(cfg: DictConfig, own: list[str], shared: Sequence[str], extra: Path | None) -> DictConfig:
    """A copy of ``cfg`` with the overrides of a member, which are read as Hydra reads those of a command line."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    cfg = copy.deepcopy(cfg)
    try:
        for override in OverridesParser.create().parse_overrides(own):
            key, line = override.key_or_group, override.input_line
            if key in GROUPS or "/" in key or override.package is not None:
                raise UserError(f"members: {line}: a member cannot choose from a group; choose for the whole job.")
            if override.is_sweep_override() or override.get_key_element() != key:
                raise UserError(f"members: {line}: must be key=value, with a key that is there and one value.")
            OmegaConf.update(cfg, key, override.value(), force_add=key == "search.index")
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"members: {explain(error, [*shared, *own], extra)}") from error
    return cfg


def together(shared: Sequence[str], owns: Sequence[Sequence[str]]) -> list[str]:
    """The overrides of a job: what its runs share, and the list of what each has of its own."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if not any(owns):
        return list(shared)
    lists = (",".join(QuotedString(override, Quote.single).with_quotes() for override in own) for own in owns)
    return [*shared, f"members=[{','.join(f'[{own}]' for own in lists)}]"]


def hydra_run(job: Callable[[Asked], list[Outcome]], args: Sequence[str], ended: list[Outcome]) -> None:
    """Let Hydra read ``args`` and call ``job`` for each of its jobs.

    Args:
        job: returns an outcome for each run, in order, and then one for each failure.
        args: as on the command line, after ``rnnbench run``.
        ended: gets the outcomes of all jobs that run in this process. A job in a process of a launcher hands them
            back to the sweeper, as its return value or, if one of them is an error, by raising `RunsFailedError`.

    Raises:
        UserError: for anything wrong with the command line or the configs.
        RunsFailedError: if runs of a sweep failed, when all others have ended.
        KeyboardInterrupt: if a run was interrupted; a sweep ends with it.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode

    global _process
    _process = process = f"{os.getpid()} {uuid.uuid4()}"  # ids of processes are the same on other machines

    def call(cfg: DictConfig) -> list[Outcome]:
        composed = HydraConfig.get()
        overrides = list(composed.overrides.task)
        try:
            members, failures = members_of(cfg, composed.runtime.choices, overrides, user_dir(args))
        except UserError as error:
            members, failures = [], [(" ".join(overrides), error)]
        swept = composed.mode == RunMode.MULTIRUN and composed.sweeper._target_.startswith("hydra_plugins.rnnbench_")
        outcomes = job(Asked(members, failures, cfg.dry_run, swept))
        ended.extend(outcomes)
        if any(outcome.failed for outcome in outcomes) and not (
            _process == process and process.startswith(f"{os.getpid()} ")
        ):
            raise RunsFailedError(outcomes)
        if any(outcome.status == "interrupted" for outcome in outcomes):
            raise KeyboardInterrupt
        return outcomes

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
