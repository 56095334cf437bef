"""Our launchers where what they launch on is not there; `tests/cluster` has the tests with it."""

import subprocess
import sys

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from tests.conftest import TINY
from tests.test_cli import ROOT


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_hydra_finds_the_launcher_for_ray() -> None:
    assert "RayLauncher" in {plugin.__name__ for plugin in Plugins.instance().discover(Launcher)}


def test_the_start_of_hydra_imports_neither_ray_nor_torch_nor_the_core_of_a_plugin() -> None:
    heavy = {"ray", "torch", "hydra_plugins.rnnbench_ray._core"}
    done = python(
        "import sys; from hydra.core.plugins import Plugins; Plugins.instance(); "
        "assert 'hydra_plugins.rnnbench_ray.launcher' in sys.modules; "
        f"print({heavy!r} & set(sys.modules))"
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_without_ray_its_launcher_says_how_to_get_it() -> None:
    args = ["run", "-m", "hydra/launcher=rnnbench_ray", *TINY]
    done = python(
        f"import sys; sys.modules['ray'] = None; from rnnbench.cli import main; sys.exit(main({args!r}))",
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "rnnbench: error: hydra/launcher=rnnbench_ray: needs Ray. pip install 'rnnbench[ray]'"
    )
