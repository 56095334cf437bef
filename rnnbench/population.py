"""Members that train side by side, taking turns on a few threads.

Each member is a loop of its own (`rnnbench.train.training`) which hands over after every few updates. Nothing is
shared but the data, so a member's numbers do not depend on its neighbours, none waits for another's longer sequences,
and one that has ended costs nothing. Why there is no array with a member axis instead is told in DESIGN.md.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


def take_turns(loops: Sequence[Generator[None, None, T]], threads: Callable[[], int]) -> list[T | Exception]:
    """Run all ``loops`` to their ends, ``threads`` of them at a time.

    The first turn of each is in the calling thread, one after another, so that a loop may there do what must not be
    done twice at a time; then ``threads`` is asked. With one thread everything is done in the calling one. An exception
    of one loop does not disturb the others.

    Returns:
        What each returned, or the exception that it ended with, in the order of ``loops``.

    Raises:
        KeyboardInterrupt: as soon as every thread has ended its turn; the loops are closed.
    """
    turns = _Turns(loops)
    workers: list[threading.Thread] = []
    try:
        for member in range(len(loops)):
            turns.give(member)
        count = min(threads(), len(turns.waiting))
        if count < 2:
            turns.work()
        else:
            workers = [threading.Thread(target=turns.work) for _ in range(count)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
    except BaseException:
        turns.abandoned = True
        for worker in workers:
            if worker.ident is not None:
                worker.join()
        for loop in loops:
            loop.close()
        raise
    return [turns.ends[member] for member in range(len(loops))]


@dataclass
class _Turns(Generic[T]):
    loops: Sequence[Generator[None, None, T]]
    waiting: deque[int] = field(default_factory=deque)
    ends: dict[int, T | Exception] = field(default_factory=dict)
    abandoned: bool = False
    """Set to let every thread end after its present turn."""

    def work(self) -> None:
        """Give turns until none waits: those that have not ended then each have a thread already."""
        while not self.abandoned:
            try:
                member = self.waiting.popleft()
            except IndexError:
                return
            self.give(member)

    def give(self, member: int) -> None:
        """Let a loop have its turn."""
        try:
            next(self.loops[member])
        except StopIteration as end:
            self.ends[member] = end.value
        except SystemExit as error:  # a cell of one's own may call sys.exit; that is no reason to end the others
            self.ends[member] = RuntimeError(f"it called sys.exit({error.code!r})")
        except Exception as error:  # noqa: BLE001 - a member's own failure, handed to whoever asked for it
            self.ends[member] = error
        else:
            self.waiting.append(member)
