"""``rnnbench list``: the cells, tasks, protocols and searches there are, with parameter counts."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Print the lists; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="rnnbench list", description="Cells, tasks, protocols, searches, a line each."
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own configs, in cell/, task/, train/ and search/ below it"
    )
    parser.add_argument(
        "--inputs", type=int, default=88, metavar="I", help="inputs for which parameters are counted (88, music's)"
    )
    args = parser.parse_args(argv)
    from rnnbench.compose import describe, options_of
    from rnnbench.errors import UserError, check_torch, check_whole

    check_whole("--inputs", args.inputs, 1)
    if args.config_dir and not args.config_dir.is_dir():
        raise UserError(f"--config-dir {args.config_dir}: there is no such directory.")
    sys.path.append(str(Path.cwd()))
    print(f"cells (cell=...)                     units  parameters of the cell at {args.inputs} inputs")
    for name, path in options_of("cell", args.config_dir).items():
        units, parameters = _size(name, args.config_dir, args.inputs)
        print(f"  {name:<34} {units:>5}  {parameters}")
        print(f"      {describe(path)}")
    try:
        check_torch()
    except UserError as error:
        print(f"  ?: {error}")
    titles = {"task": "tasks (task=...)", "train": "protocols (train=...)", "search": "searches (search=...)"}
    for group, title in titles.items():
        print(f"\n{title}")
        for name, path in options_of(group, args.config_dir).items():
            print(f"  {name:<13} {describe(path)}")
    return 0


def _size(name: str, extra: Path | None, inputs: int) -> tuple[str, str]:
    """The units of a cell and the number of its parameters, or why they cannot be told."""
    from rnnbench.compose import compose_config
    from rnnbench.errors import UserError, check_torch

    try:
        config = compose_config(f"cell={name}", extra=extra)
        hidden_size = config.cell.get("hidden_size")
        if hidden_size is None:
            return "-", "as match_params says"
        try:
            check_torch()
        except UserError:
            return str(hidden_size), "?"
        from torch import nn

        from rnnbench.assemble import find_class
        from rnnbench.model import build_cell, count_parameters

        cell_class = find_class(config.cell["_target_"], nn.Module, "cell")
        cell = build_cell(cell_class, inputs, hidden_size, config.options("cell"))
    except Exception as error:  # noqa: BLE001 - one broken file must not hide the others
        return "?", f"({type(error).__name__}: {str(error).splitlines()[0]})"
    return str(hidden_size), f"{count_parameters(cell):,}"
