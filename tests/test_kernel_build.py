"""The cache of compiled kernels: compiled once, by whoever comes first, and a clear word where that fails."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rnnbench.kernels import build
from rnnbench.kernels.build import NoCompilerError, library
from rnnbench.kernels.library import Library, open_library
from tests.conftest import PYTHONPATH, TINY
from tests.test_kernels import assert_gradients_agree

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"RNNBENCH_KERNEL_FLAGS": "-O0"}
"""A third of the time to compile: where it is not the numbers that are tested."""
RUN = ["run", "cell=gru", "task=adding", *TINY, "train.max_epochs=1", "train.batch_size=20", "tensorboard=false"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own, and a compiler that is quick."""
    monkeypatch.setenv("RNNBENCH_KERNEL_DIR", str(tmp_path / "cache"))
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "cache"


def rnnbench(results: Path, *args: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rnnbench.cli", *RUN, f"results_dir={results}", *args]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, **env}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """The exit status and the lines of stderr."""
    _, err = process.communicate(timeout=120)
    return process.returncode, err.splitlines()


def kept(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if p.name != ".lock")


def counting_compiler(directory: Path) -> tuple[str, Path]:
    """A compiler that notes each library it makes in a file."""
    log, script = directory / "compiled", directory / "counting-c++"
    real = build.find_compiler()
    script.write_text(f'#!/bin/sh\ncase "$*" in *-shared*) echo once >> {log};; esac\nexec {real} "$@"\n')
    script.chmod(0o755)
    return str(script), log


def test_many_processes_that_start_at_once_compile_once_and_all_work(cache: Path, tmp_path: Path) -> None:
    compiler, log = counting_compiler(tmp_path)
    processes = [rnnbench(tmp_path / "results", f"seed={seed}", "kernel=compiled", CXX=compiler) for seed in range(4)]
    ends = [finished(process) for process in processes]
    assert [status for status, _ in ends] == [0] * 4, ends
    assert log.read_text().splitlines() == ["once"]
    assert sum("compiling the kernels, once" in line for _, lines in ends for line in lines) == 1
    (name,) = kept(cache)
    assert re.fullmatch(r"rnnbench-float32-[0-9a-f]{16}\.so", name), "and nothing half-written is left"


def test_what_is_compiled_is_found_again_and_belongs_to_sources_flags_and_compiler(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = library("float64")
    assert path.parent == cache
    assert "compiling" in capsys.readouterr().err
    written = path.stat().st_mtime_ns
    assert library("float64") == path
    assert path.stat().st_mtime_ns == written
    assert capsys.readouterr().err == ""
    made: list[Path] = []

    def note(compiler: str, flags: list[str], to: Path) -> None:
        made.append(to)

    monkeypatch.setattr(build, "_compile", note)
    names = {path, library("float32"), library("float64", ["-DPROFILE"])}
    monkeypatch.setenv("RNNBENCH_KERNEL_FLAGS", "-O1 -DA='x y'")
    names.add(library("float64"))
    monkeypatch.setenv("RNNBENCH_KERNEL_FLAGS", QUICK["RNNBENCH_KERNEL_FLAGS"])
    shutil.copytree(build.SOURCES, tmp_path / "native")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "native")
    assert library("float64") == path, "wherever the sources lie"
    with (tmp_path / "native" / "noise.h").open("a") as source:
        source.write("// changed\n")
    names.add(library("float64"))
    if (clang := shutil.which("clang++")) and Path(clang).resolve() != Path(build.find_compiler()).resolve():
        monkeypatch.setattr(build, "SOURCES", ROOT / "rnnbench" / "kernels" / "native")
        monkeypatch.setenv("CXX", "clang++")
        names.add(library("float64"))
    assert len(names) == len(made) + 1, "each has a name of its own"


def test_a_library_replaces_what_was_there_only_when_it_is_whole(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the compiler writes, nothing has the name that others look for."""
    seen: list[list[str]] = []
    run = subprocess.run

    def spy(command: list[str], **options: object) -> object:
        if "-shared" in command:
            done = run(command, **options)  # type: ignore[call-overload]
            seen.append([p.name for p in cache.glob("*.so")])
            return done
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", spy)
    path = library("float64")
    assert seen == [[]]
    assert kept(cache) == [path.name]


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"CXX": "nonexistent"}, "CXX=nonexistent is not to be found"),
        ({"CXX": "", "PATH": ""}, "there is no C++ compiler (c++, g++, clang++)"),
    ],
    ids=["CXX", "PATH"],
)
def test_without_a_compiler_auto_says_so_in_one_line_and_compiled_refuses(
    cache: Path, tmp_path: Path, env: dict[str, str], reason: str
) -> None:
    auto, compiled = (rnnbench(tmp_path / k, f"kernel={k}", **env) for k in ("auto", "compiled"))
    assert finished(auto) == (0, [f"rnnbench: training without the compiled kernels, and so more slowly: {reason}"])
    status, lines = finished(compiled)
    assert status == 1
    told = [line for line in lines if reason in line]
    assert told
    assert f"kernel=compiled: {reason}. Use kernel=auto" in told[0]
    assert not any("Traceback" in line for line in lines)


def test_a_compiler_that_fails_leaves_what_it_said_and_where(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(build.SOURCES, tmp_path / "native")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "native")
    with (tmp_path / "native" / "kernels.cpp").open("a") as source:
        source.write("#error a deliberate mistake\n")
    with pytest.raises(NoCompilerError, match=r"failed; what it said is in (.+\.log)") as error:
        library("float64")
    log = Path(str(error.value).split(" is in ")[1])
    assert log.parent == cache
    text = log.read_text()
    assert "a deliberate mistake" in text
    assert text.startswith(build.find_compiler()), "and the command"
    assert kept(cache) == [log.name]


def test_a_cache_that_cannot_be_written_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RNNBENCH_KERNEL_DIR", str(tmp_path / "file" / "kernels"))
    with pytest.raises(NoCompilerError, match=r"file.* cannot be written \(Not a directory\)"):
        library("float64")


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF damaged" + bytes(100)])
def test_a_damaged_library_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.so"
    path.write_bytes(content)
    with pytest.raises(NoCompilerError, match=rf"{re.escape(str(path))} cannot be loaded .*; delete it"):
        Library(str(path))


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("RNNBENCH_KERNEL_DIR", raising=False)
    assert build.cache_dir() == Path("/xdg/rnnbench/kernels")
    monkeypatch.setenv("RNNBENCH_KERNEL_DIR", "/named")
    assert build.cache_dir() == Path("/named")


# ------------------------------------------------------------ narrower vectors

WIDTHS = {"AVX2": (256, "-mno-avx512f -mavx2 -mfma"), "SSE": (128, "-mno-avx512f -mno-avx2 -mno-avx")}


@pytest.fixture(params=WIDTHS)
def flags(request: pytest.FixtureRequest) -> tuple[int, list[str]]:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"{platform.machine()} is not x86")
    bits, text = WIDTHS[request.param]
    if open_library("float32").vector_bits < bits:
        pytest.skip(f"this processor has no {request.param}")
    return bits, ["-O1", *text.split()]


def test_narrower_vectors_give_the_same_gradients(flags: tuple[int, list[str]]) -> None:
    """Beside those of the full width in one process: neither may run the other's functions."""
    bits, extra = flags
    open_library("float64")
    libraries = {1e-4: open_library("float32", *extra), 1e-10: open_library("float64", *extra)}
    for lib in libraries.values():
        assert lib.vector_bits == bits
    for variant, hidden, form in [
        (0, 33, "rolls"),
        (1, 36, "rolls"),
        (1, 5, "classes"),
        (2, 46, "rolls"),
        (2, 7, "numbers at some rows"),
        (3, 33, "classes"),
        (4, 100, "numbers at the last step"),
    ]:
        assert_gradients_agree((variant, hidden, 5, "five", form, 1), libraries)
        assert_gradients_agree((variant, hidden, 88, "twenty", form, 2), libraries)
