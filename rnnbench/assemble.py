"""From a config to its parts: the classes it names, the sizes they have, the model and the task."""

import importlib
import inspect
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rnnbench import provenance
from rnnbench.config import RunConfig, run_key
from rnnbench.errors import UserError, did_you_mean
from rnnbench.model import Model, build_cell, build_model, match_hidden_size
from rnnbench.record import Record
from rnnbench.seeding import torch_seed
from rnnbench.tasks.base import Task
from rnnbench.train import Member


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
    torch.set_num_threads(1)  # before the first product: even the initial weights depend on it
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


def new_model(prepared: Prepared) -> Model:
    """The model of a run with its initial parameters, on its device; the task must have its data."""
    config, task = prepared.config, prepared.task
    prior = task.output_prior() if config.train.readout_bias == "log_odds" else None
    seed = torch_seed(config.seed, "readout")
    model = build_model(prepared.cell, config.cell["hidden_size"], task.output_size, prior, seed, task.loss.link)
    return model.to(prepared.device, getattr(torch, config.train.dtype))


def load(path: Path, weights: str = "best") -> tuple[Model, RunConfig]:
    """See `rnnbench.load`."""
    if weights not in ("best", "last"):
        raise UserError(f"weights={weights}: must be best or last.")
    record = Record(path)
    config = record.config()
    cell_class = find_class(config.cell["_target_"], nn.Module, "cell")
    if config.cell.get("source") != provenance.source_digest(cell_class):
        warnings.warn(f"{path}: the file of {config.cell['_target_']} has changed since this run", stacklevel=3)
    task = build_task(find_class(config.task["_target_"], Task, "task"), config.options("task"))
    hidden_size = config.cell["hidden_size"]
    cell_seed = torch_seed(config.seed, "init")
    cell = build_cell(cell_class, task.input_size, hidden_size, config.options("cell"), cell_seed)
    model = build_model(cell, hidden_size, task.output_size, None, 0, task.loss.link)
    member = Member(model.to(getattr(torch, config.train.dtype)), config.train, config.seed)
    record.load(
        record.best if weights == "best" else record.last,
        run_key(config),
        into=lambda state: member.set_weights(state["theta"], state["buffers"]),
    )
    return model.eval(), config
