"""Which engine computes a member's updates: the compiled kernels where they can, else the reference."""

import sys

import torch

from rnnbench.config import RunConfig
from rnnbench.errors import UserError
from rnnbench.kernels.build import NoCompilerError
from rnnbench.kernels.compiled import Compiled, obstacle
from rnnbench.tasks.base import Task
from rnnbench.train import Engine, Member, Reference

_told: set[str] = set()


class Engines:
    """The engines of a population; members that differ in scalars alone share one."""

    def __init__(self, config: RunConfig, members: int) -> None:
        """Share the cores among ``members`` first, and what is left over among the tiles of their batches."""
        self.kernel = config.kernel
        self.one_by_one = config.checkpoint_every_s == 0.0
        cores = config.cores()
        self.torch_threads = config.threads or 1  # more make small networks slower, so only where it is asked for
        # torch's random numbers are global: without the kernels one member has its turn at a time
        self.members_at_once = cores if config.kernel != "reference" and config.device == "cpu" else 1
        self.threads = max(1, cores // members)
        self._compiled: dict[tuple[object, ...], Compiled] = {}

    def of(self, member: Member, task: Task, device: torch.device) -> Engine:
        """The engine for ``member``.

        Raises:
            UserError: if the kernels are asked for and cannot be had.
        """
        if self.kernel == "reference":
            return self._reference()
        reason = obstacle(member.model.cell, task, device)
        if reason is None:
            try:
                return self._shared(member, task)
            except NoCompilerError as error:
                reason = str(error)
        self.members_at_once = 1
        if self.kernel == "compiled":
            raise UserError(f"kernel=compiled: {reason}. Use kernel=auto, which then goes without them.")
        if reason not in _told:
            _told.add(reason)
            print(f"rnnbench: training without the compiled kernels, and so more slowly: {reason}", file=sys.stderr)
        return self._reference()

    def _reference(self) -> Reference:
        torch.set_num_threads(self.torch_threads)
        return Reference()

    def _shared(self, member: Member, task: Task) -> Compiled:
        cell = member.model.cell
        key = (id(task), type(cell), repr([(n, p.shape) for n, p in cell.named_parameters()]), member.theta.dtype)
        if key not in self._compiled:
            self._compiled[key] = Compiled(member, task, self.threads, self.one_by_one)
        return self._compiled[key]
