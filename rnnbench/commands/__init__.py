"""The sub-commands of the command line, a module each."""

import argparse
from pathlib import Path


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The option ``--runs`` of the commands that look at what has been run."""
    parser.add_argument(
        "--runs", type=Path, default=Path("results/runs"), metavar="DIR", help="where the runs are (results/runs)"
    )
