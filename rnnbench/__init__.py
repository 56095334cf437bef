"""rnnbench: recurrent cells under one fair protocol (Chung, Gulcehre, Cho & Bengio 2014)."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnnbench.config import RunConfig
    from rnnbench.model import Model

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(run_dir: str | Path, weights: str = "best") -> "tuple[Model, RunConfig]":
    """The trained model of a run, ready for prediction, and its config.

    Args:
        run_dir: the directory of a run, ``results/runs/<task>/<cell>/s<seed>-<hash>``.
        weights: "best", those with the lowest validation loss, or "last".

    Raises:
        UserError: if there is no such run, its files are damaged, or torch is not installed.
    """
    from rnnbench.errors import check_torch

    check_torch()
    from rnnbench.assemble import load as load_model

    return load_model(Path(run_dir), weights)
