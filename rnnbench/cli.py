"""The command line: a small dispatcher, so that nothing heavy is imported before it is known what is wanted."""

import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

PROGRAM = "rnnbench"

COMMANDS = {
    "run": ("rnnbench.commands.run", "train a cell on a task, or a sweep with -m"),
    "status": ("rnnbench.commands.status", "which runs are done, running, interrupted or in error, and how far"),
    "clean": ("rnnbench.commands.clean", "remove what is in error or superseded, after showing it"),
    "table": ("rnnbench.commands.table", "collect runs into comparison tables"),
    "compare": ("rnnbench.commands.compare", "which cell is better, as far as the runs allow to say"),
    "export": ("rnnbench.commands.export", "the records of finished runs in one file, for another machine"),
    "merge": ("rnnbench.commands.merge", "runs of such files, checked, beside those that are here"),
    "diagnose": ("rnnbench.commands.diagnose", "gradients through time, gates and spectral radii of finished runs"),
    "plot": ("rnnbench.commands.plot", "draw learning curves, learning rates, success against length, time"),
    "report": ("rnnbench.commands.report", "all of it on one page: findings, tables, plots, configs, failures"),
    "list": ("rnnbench.commands.list", "cells, tasks, protocols and searches, with parameter counts"),
    "data": ("rnnbench.commands.data", "which music files are here, verified or not; fetch them"),
}
"""Name -> module with a ``main(argv) -> exit status``, and what it does in a line."""


def usage() -> str:
    """What ``rnnbench --help`` prints."""
    return "\n".join(
        [
            f"usage: {PROGRAM} <command> [arguments]",
            "",
            "Recurrent cells under one fair protocol (Chung et al. 2014).",
            "",
            *(f"  {name:<10}{line}" for name, (_, line) in COMMANDS.items()),
            "",
            "  --help      this text; after a command, that command's",
            "  --version",
            "",
            f"First steps:  {PROGRAM} run cell=gru task=adding;  {PROGRAM} table;  tensorboard --logdir results/runs",
            f'Completion:   eval "$({PROGRAM} -sc install=bash)"   (or zsh, fish)',
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in ("-sc", "--shell-completion"):
        return _complete(args)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] == "--version":
        from rnnbench import __version__

        print(f"{PROGRAM} {__version__}")
        return 0
    return _dispatch(args[0], args[1:])


def _dispatch(name: str, args: list[str]) -> int:
    from rnnbench.errors import did_you_mean

    if name not in COMMANDS:
        print(
            f"{PROGRAM}: {name}: there is no such command.{did_you_mean(name, COMMANDS)}\n\n{usage()}", file=sys.stderr
        )
        return 2
    main_of = importlib.import_module(COMMANDS[name][0]).main
    return told(lambda: main_of(args))


def told(command: Callable[[], int]) -> int:
    """The exit status of ``command``; an error of the user's, Ctrl-C and the like are told in a line."""
    from rnnbench.errors import UserError

    try:
        return command()
    except UserError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `rnnbench table | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"{PROGRAM}: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _complete(args: list[str]) -> int:
    """Answer the shell: sub-commands are ours, everything after ``run`` is Hydra's.

    Hydra's completion script calls ``rnnbench -sc query=bash`` with the line typed so far in COMP_LINE. Hydra
    must not see the word ``run`` in it, and finds the user's ``--config-dir`` only among its own arguments.
    """
    line = os.environ.get("COMP_LINE", "")
    words = re.split(" +", line)
    if not any(arg.startswith("query=") for arg in args):  # install= and uninstall=
        return _dispatch("run", args)
    if len(words) <= 2:
        prefix = words[1] if len(words) == 2 else ""
        print(" ".join(name for name in COMMANDS if name.startswith(prefix)))
        return 0
    if words[1] != "run":
        return 0
    kept, forwarded = [words[0]], []
    rest = iter(words[2:])
    for word in rest:
        if word in ("--config-dir", "-cd"):
            forwarded += [word, str(Path(next(rest, "")).expanduser())]
        elif word.startswith("--config-dir="):
            forwarded.append(word)
        else:
            kept.append(word)
    line = " ".join(kept)
    os.environ["COMP_LINE"], os.environ["COMP_POINT"] = line, str(len(line))
    return _dispatch("run", [*forwarded, *args])


if __name__ == "__main__":
    sys.exit(main())
