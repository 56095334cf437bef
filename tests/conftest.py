"""What the tests share: the real music files, where they are, one thread for torch, and how to do without torch."""

import importlib
import os
from pathlib import Path

import pytest

from rnnbench.tasks import store

try:
    import torch
except ModuleNotFoundError:
    WITH_TORCH = False
else:
    WITH_TORCH = True
    torch.set_num_threads(1)


ROOT = Path(__file__).resolve().parent.parent
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "rnnbench" / "_plugins")])
"""For processes that tests start: this checkout, whichever is installed."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what trains where there is no torch."""
    if not WITH_TORCH and item.get_closest_marker("needs_torch"):
        pytest.skip("needs torch, which is not installed")


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


def imports_without_torch(module: str) -> bool:
    """Whether all that a module of tests imports can be had where there is no torch."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return False
    return True


collect_ignore = [
    path.name
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    if not WITH_TORCH and not imports_without_torch(f"tests.{path.stem}")
]
"""Where there is no torch: the modules that are about it, since they import it at their top."""


def pytest_report_header() -> str | None:
    """Say what is left out."""
    return f"without torch, and so without {', '.join(collect_ignore)}" if collect_ignore else None
