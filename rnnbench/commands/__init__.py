"""The sub-commands of the command line, a module each, and the options that they share."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The option ``--runs`` of the commands that look at what has been run."""
    parser.add_argument(
        "--runs", type=Path, default=Path("results/runs"), metavar="DIR", help="where the runs are (results/runs)"
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The options that choose among the runs, for `chosen`."""
    add_runs(parser)
    parser.add_argument("--task", type=words, default=[], metavar="T[,T]", help="only these tasks")
    parser.add_argument("--cell", type=words, default=[], metavar="C[,C]", help="only these cells")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=V[,V]",
        help="only runs with these values of a config key or a field of the result; also != < <= > >=; may be repeated",
    )


def chosen(args: argparse.Namespace) -> "pd.DataFrame":
    """The runs that the options of `add_choice` ask for, see `rnnbench.analysis.collect.collect`.

    Raises:
        UserError: if there are none.
    """
    from rnnbench.analysis.collect import collect
    from rnnbench.analysis.filters import only
    from rnnbench.errors import UserError, did_you_mean

    runs = collect(args.runs)
    named = {key: getattr(args, key) for key in ("task", "cell") if getattr(args, key)}
    for key, wanted in named.items():
        there = sorted(runs[key].unique())
        for name in wanted:
            if name not in there:
                near = did_you_mean(name, there)
                raise UserError(f"--{key} {name}: no such runs in {args.runs}. There: {', '.join(there)}.{near}")
    return only(runs, [*(f"{key}={','.join(wanted)}" for key, wanted in named.items()), *args.where])


def add_output(parser: argparse.ArgumentParser) -> None:
    """The options ``--format`` and ``--output``, for `write`."""
    parser.add_argument("--format", default="text", metavar="F", help="text (default), markdown, latex, html or csv")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it there instead of printing it")


def write(args: argparse.Namespace, text: str) -> None:
    """Print ``text``, or write it where ``--output`` says."""
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    else:
        print(text.rstrip("\n"))


def words(text: str) -> list[str]:
    """``a,b`` as a list, each word once."""
    return list(dict.fromkeys(word for word in text.split(",") if word))
