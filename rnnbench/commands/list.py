"""``rnnbench list``: the cells, tasks and protocols there are, with parameter counts."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Print the lists; returns the exit status."""
    parser = argparse.ArgumentParser(prog="rnnbench list", description="Cells, tasks and protocols, a line each.")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own configs, in cell/, task/ and train/ below it"
    )
    parser.add_argument(
        "--inputs", type=int, default=88, metavar="I", help="inputs for which parameters are counted (88, music's)"
    )
    args = parser.parse_args(argv)
    from rnnbench.config import describe, options_of
    from rnnbench.errors import UserError, check_at_least

    check_at_least("--inputs", args.inputs, 1, whole=True)
    if args.config_dir and not args.config_dir.is_dir():
        raise UserError(f"--config-dir {args.config_dir}: there is no such directory.")
    sys.path.append(str(Path.cwd()))
    print(f"cells (cell=...)                     units  parameters of the cell at {args.inputs} inputs")
    for name, path in options_of("cell", args.config_dir).items():
        units, parameters = _size(path, args.inputs)
        print(f"  {name:<34} {units:>5}  {parameters}")
        print(f"      {describe(path)}")
    for group, title in (("task", "tasks (task=...)"), ("train", "protocols (train=...)")):
        print(f"\n{title}")
        for name, path in options_of(group, args.config_dir).items():
            print(f"  {name:<13} {describe(path)}")
    return 0


def _size(path: Path, inputs: int) -> tuple[str, str]:
    """The units of a cell's config and the number of its parameters."""
    from omegaconf import OmegaConf
    from torch import nn

    from rnnbench.assemble import find_class
    from rnnbench.errors import UserError
    from rnnbench.model import build_cell, count_parameters

    config = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(config, dict)
    options = {str(k): v for k, v in config.items() if k not in ("_target_", "hidden_size", "defaults")}
    hidden_size = config.get("hidden_size")
    if hidden_size is None:
        return "-", "as match_params says"
    try:
        cell = build_cell(find_class(config.get("_target_", ""), nn.Module, "cell"), inputs, hidden_size, options)
    except UserError as error:
        return str(hidden_size), f"({error})"
    return str(hidden_size), f"{count_parameters(cell):,}"
