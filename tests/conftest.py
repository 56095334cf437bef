"""What the tests share: the real music files, where they are, and one thread for torch."""

import os
from pathlib import Path

import pytest
import torch

from rnnbench.tasks import store

torch.set_num_threads(1)


def music_dir() -> Path:
    """The directory of the real music files, or the cache."""
    named = os.environ.get(store.DATA_DIR_VARIABLE)
    return Path(named).resolve() if named else store.cache_dir()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The verified music files; a test that needs them is skipped where they are not, unless they are required."""
    directory = music_dir()
    wrong = [f"{d.file} {s}" for d in store.DATA_SETS.values() if (s := store.state(d, directory)) != "verified"]
    if wrong and os.environ.get("RNNBENCH_REQUIRE_DATA"):
        pytest.fail(f"RNNBENCH_REQUIRE_DATA is set, but in {directory}: {'; '.join(wrong)}")
    if wrong:
        pytest.skip(f"needs the real music files in {directory} (set {store.DATA_DIR_VARIABLE}): {'; '.join(wrong)}")
    return directory


TINY = (
    "task.length=12",
    "task.updates_per_epoch=5",
    "task.valid_size=40",
    "task.test_size=40",
    "cell.hidden_size=5",
    "train.max_epochs=3",
    "progress=false",
)
"""Overrides that make a run of a generated task last a fraction of a second."""
