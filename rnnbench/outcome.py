"""How runs end, as one process tells it to another."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rnnbench.errors import UserError
from rnnbench.files import write_atomically


@dataclass(frozen=True)
class Outcome:
    """How a run ended, or why it did not begin; plain, so that it can go from process to process."""

    name: str
    """What was given for it, as on a command line."""
    status: str
    """One of `record.STATUSES`, or "busy"."""
    error: str | None = None
    """In a line."""
    log: str | None = None
    """The file that has more of it."""

    @property
    def failed(self) -> bool:
        """Whether the run has no result, though nobody asked it to stop."""
        return self.status in ("error", "busy")


class RunsFailedError(UserError):
    """Some runs of a job failed; told already by the process that ran them."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        """Take all outcomes of the job, those of the good runs among them."""
        super().__init__(list(outcomes))
        self.outcomes = list(outcomes)

    def __str__(self) -> str:
        """The failures: what was given for each and where its log is, and the first line of the error, once for all."""
        failed = [outcome for outcome in self.outcomes if outcome.failed]
        lines = [f"{len(failed)} of {len(self.outcomes)} runs failed:"]
        for error in dict.fromkeys(outcome.error for outcome in failed):
            for outcome in failed:
                if outcome.error == error:
                    lines += [f"  {outcome.name}", *([f"    log: {outcome.log}"] if outcome.log else [])]
            lines.append(f"    {error}")
        return "\n".join(lines)


class JobDiedError(RuntimeError):
    """A job's process ended without a word about its runs."""

    def __init__(self, how: str, log: str, last: str) -> None:
        """Take how the process ended, the file of what it printed, and the last line of that."""
        super().__init__(how, log, last)
        self.how, self.log, self.last = how, log, last

    def __str__(self) -> str:
        """How, and the last thing it said."""
        return f"{self.how} ({self.last})" if self.last else self.how


def write_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write how the runs of a job ended."""
    write_atomically(path, json.dumps([asdict(outcome) for outcome in outcomes]).encode())


def read_outcomes(path: Path) -> list[Outcome] | None:
    """What a job wrote, or None if it did not come to that."""
    try:
        return [Outcome(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return None
