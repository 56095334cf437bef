"""The runs of a population: what one composed config stands for, by its seeds and its search.

Each is an ordinary run, with the identity and the files that it would have alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rnnbench.config import RESERVED, RunConfig, from_dict, run_key
from rnnbench.errors import UserError, check_choice, check_number, check_whole

TOGETHER = (
    "seed",
    "train.lr",
    "train.lr_final",
    "train.weight_noise",
    "train.clip_norm",
    "train.max_epochs",
    "train.patience",
    "train.stop_when_solved",
    "trial",
)
"""The keys in which runs may differ and still train as one program: random streams, scalars of the update, and when
to stop or to give up. Any other changes the shapes of the tensors, the batches, or the kind of the update."""

SEARCH_KEYS = ("key", "candidates", "log_low", "log_high")
"""What a search must say; besides, ``index`` chooses one of its candidates."""


@dataclass(frozen=True)
class Member:
    """A run of a population."""

    overrides: list[str]
    """All that was given for it, which tell it from the others."""
    own: list[str]
    """What of that an entry of ``members`` must have for it to be this run."""
    config: RunConfig

    @property
    def name(self) -> str:
        """What was given for it, as on a command line."""
        return " ".join(self.overrides)


def from_hydra(cfg: DictConfig, choices: Mapping[str, str | None], overrides: Sequence[str]) -> list[Member]:
    """The runs of a config that Hydra composed: one for each of its seeds and for each candidate of its search.

    Args:
        cfg: what was composed, without the nodes ``hydra`` and ``members``.
        choices: which option of each group was chosen; those of cell, task, train and search name them.
        overrides: as given on the command line.

    Raises:
        UserError: see `config.from_dict`; or for bad seeds or a bad search, or if the hidden size or the learning
            rate is given twice.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    for group in ("cell", "task", "train"):
        part = values.get(group)
        if not isinstance(part, dict):
            raise UserError(f"{group}={choices.get(group)}: a run needs one; `rnnbench list` has those there are.")
        for key in RESERVED:
            if key in part:
                raise UserError(f"{group}.{key}: is a name that rnnbench uses itself; give the option another one.")
        part["name"] = str(choices[group]).replace("/", "-")
    given = {key_of(override): override for override in overrides}
    search = _search(values.pop("search", None), choices.get("search"), given)
    members = []
    for changes in _changes(values["seed"], search):
        config = from_dict({str(key): value for key, value in _changed(values, changes).items()})
        if config.match_params is not None and "cell.hidden_size" in given:
            raise UserError(
                f"match_params={config.match_params} and {given['cell.hidden_size']}: both decide the hidden size; "
                "give one of them."
            )
        told = {key: f"{key}={value}" for key, value in changes.items() if key != "search"}
        own = [told["seed"]] if "seed" in told else []
        if config.search is not None:
            own.append(f"search.index={config.search['index']}")
        members.append(Member(list({**given, **told}.values()), own, config))
    return members


def check_distinct(members: Sequence[Member]) -> None:
    """Raise `UserError` if two members are the same run."""
    seen: dict[str, Member] = {}
    for member in members:
        key = run_key(member.config)
        if key in seen:
            raise UserError(
                f"{seen[key].name} and {member.name}: are the same run ({key}) in one population. Leave one of them "
                "out."
            )
        seen[key] = member


def candidates(seed: int, search: Mapping[str, Any]) -> list[float]:
    """The learning rates that a search tries with ``seed``, whatever the cell and the task: exp(U(log_low, log_high)).

    They have six significant digits, so that one typed by hand, or drawn where ``exp`` rounds otherwise, is the same.
    """
    from rnnbench.seeding import stream  # numpy, which only a search needs

    logs = stream(seed, "search").uniform(search["log_low"], search["log_high"], size=search["candidates"])
    return [float(f"{math.exp(value):.6g}") for value in logs]


def key_of(override: str) -> str:
    """The key that an override is about."""
    return override.partition("=")[0].lstrip("+")


def _changes(seed: Any, search: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - not yet checked
    """What each run changes in the composed config, under dotted keys."""
    several = isinstance(seed, list)
    for one in _seeds(seed) if several else [seed]:
        changes = {"seed": one} if several else {}
        if search is None:
            yield changes
            continue
        only, drawn = search["index"], {key: value for key, value in search.items() if key != "index"}
        for index, lr in enumerate(candidates(one, drawn)):
            if only in (None, index):
                yield {**changes, "train.lr": lr, "search": {**drawn, "index": index}}


def _changed(values: Mapping[Any, Any], changes: Mapping[str, Any]) -> dict[Any, Any]:
    top = {key: value for key, value in changes.items() if "." not in key}
    train = {key.removeprefix("train."): value for key, value in changes.items() if "." in key}
    return {**values, **top, "train": {**values["train"], **train}}


def _seeds(seeds: list[Any]) -> list[int]:
    """A checked list of seeds."""
    shown = f"seed=[{','.join(map(str, seeds))}]"
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not seeds or not whole:
        raise UserError(f"{shown}: must be one or more whole numbers of at least 0, as in seed=[0,1,2].")
    return seeds


def _search(values: Any, name: str | None, given: Mapping[str, str]) -> dict[str, Any] | None:  # noqa: ANN401 - not yet checked
    """A checked search, or None where there is none."""
    if values is None:
        return None
    if not isinstance(values, dict) or name is None:
        raise UserError(f"search={values}: takes the name of one of the files of configs/search/, or null.")
    for key in values:
        check_choice("search", key, (*SEARCH_KEYS, "index"))
    if missing := [key for key in SEARCH_KEYS if key not in values]:
        raise UserError(f"search={name}: its config has no {', '.join(missing)}.")
    check_choice("search.key", values["key"], ("train.lr",))
    check_whole("search.candidates", values["candidates"], 1)
    index = values.get("index")
    if index is not None:
        check_whole("search.index", index, 0)
        if index >= values["candidates"]:
            raise UserError(f"search.index={index}: must be less than search.candidates={values['candidates']}.")
    check_number("search.log_low", values["log_low"])
    check_number("search.log_high", values["log_high"], above=values["log_low"])
    if "train.lr" in given:
        raise UserError(
            f"search={name} and {given['train.lr']}: both decide the learning rate. Leave one of them out (search=null "
            "takes away the search of an experiment)."
        )
    return {"name": name, **{key: values[key] for key in SEARCH_KEYS[1:]}, "index": index}
