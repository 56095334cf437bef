"""``make test-pythons``: what needs no torch (configs, command line, launchers, records, tables) on several Pythons.

Each gets an environment of its own in `.venvs/`, without torch, whose builds are for few Pythons at a time: rnnbench as
it is here, and its other dependencies, as `constraints.txt` has them, or the latest where those have no wheels. PYTHONS
names interpreters; otherwise they are python3.11 to python3.14, one of each, of those on the path or below
`~/.pyenv/versions`. Arguments go to pytest.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".venvs"
MINORS = (11, 12, 13, 14)
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
"""What the tests need of the extra `dev`."""
WHEELS = ("--only-binary=:all:", "--no-binary=antlr4-python3-runtime")
"""Nothing is compiled here; the one exception, pure Python, has no wheels at all."""


def found() -> list[Path]:
    """The interpreters there are, one of each minor version."""
    pythons = []
    for minor in MINORS:
        managed = (Path.home() / ".pyenv" / "versions").glob(f"3.{minor}.*/bin/python3.{minor}")
        by_age = sorted(managed, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])])
        on_path = shutil.which(f"python3.{minor}")
        pythons += [path for path in [*([Path(on_path)] if on_path else []), *reversed(by_age)] if works(path)][:1]
    return pythons


def works(python: Path) -> bool:
    """Whether it starts: a version manager has commands for what it does not have."""
    return subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode == 0


def wanted() -> list[str]:
    """Rnnbench's dependencies but torch, and what the tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *(d for d in project["optional-dependencies"]["dev"] if name(d) in TOOLS)]
    return [dependency for dependency in needed if name(dependency) != "torch"]


def name(dependency: str) -> str:
    """The name alone."""
    return re.split(r"[^\w.-]", dependency)[0]


def environment(python: Path) -> Path:
    """The interpreter of an environment made by ``python``, filled if it is new or what it needs has changed."""
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    directory = CACHE / version
    ready, state = directory / ".ready", (ROOT / "pyproject.toml").read_text() + (ROOT / "constraints.txt").read_text()
    inside = directory / "bin" / "python"
    if not ready.exists() or ready.read_text() != state:
        shutil.rmtree(directory, ignore_errors=True)
        subprocess.run([python, "-m", "venv", directory], check=True)
        pip = [str(inside), "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
        constrained = [*pip, "--constraint", str(ROOT / "constraints.txt")]
        if subprocess.run([*constrained, *WHEELS, *wanted()], check=False).returncode != 0:
            subprocess.run([*pip, *WHEELS, *wanted()], check=True)
        subprocess.run([*constrained, "--no-deps", "--editable", str(ROOT)], check=True)
        ready.write_text(state)
    return inside


def tested(python: Path, arguments: list[str]) -> tuple[str, bool]:
    """What became of the tests with one interpreter, in a line, and whether that is good."""
    try:
        inside = environment(python)
    except subprocess.CalledProcessError as error:
        return f"{python}: no environment could be made: exit status {error.returncode}", False
    describe = "import platform; print(platform.python_implementation(), platform.python_version())"
    what = subprocess.run([inside, "-c", describe], capture_output=True, text=True, check=True).stdout.strip()
    log = CACHE / f"{inside.parent.parent.name}.log"
    with log.open("w") as file:
        command: list[str | Path] = [inside, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False)
    text = log.read_text(encoding="utf-8", errors="replace")
    counts = text.splitlines()[-1].strip("= ") if text else "nothing was said"
    good = done.returncode == 0
    if not good:
        print("\n".join(line for line in text.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))))
    return f"{what}: {counts}" + ("" if good else f"; see {log.relative_to(ROOT)}"), good


def main() -> int:
    """Test with each interpreter; returns the exit status."""
    named = os.environ.get("PYTHONS", "").split()
    pythons = [Path(shutil.which(python) or python) for python in named] or found()
    if not pythons:
        print("no interpreter was found: name some, as in PYTHONS='python3.12 python3.13'", file=sys.stderr)
        return 1
    CACHE.mkdir(exist_ok=True)
    results = []
    for python in pythons:
        results.append(tested(python, sys.argv[1:]))
        print(results[-1][0], flush=True)
    return 0 if all(good for _, good in results) else 1


if __name__ == "__main__":
    sys.exit(main())
