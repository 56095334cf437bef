"""The library of the kernels: compiled at first use by the user's own compiler, then kept in the user's cache.

Its name in the cache is a hash of the sources, the flags, and what the compiler says of itself and of the processor
(its predefined macros), so that another compiler, another processor or another version of rnnbench gets another file.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
FLAGS = (
    *("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    *("-fPIC", "-pthread", "-fvisibility=hidden"),
)
"""-ffast-math is not among them: it breaks the reduction of exp's argument. Without the last flag two libraries in one
process would share the tables of their templates, and so run each other's functions."""

NUMBERS = {"float32": "float", "float64": "double"}


class NoCompilerError(Exception):
    """Why there is no library: one sentence."""


def cache_dir() -> Path:
    """Where compiled libraries are kept: $RNNBENCH_KERNEL_DIR, or in the user's cache directory."""
    if named := os.environ.get("RNNBENCH_KERNEL_DIR"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rnnbench" / "kernels"


def find_compiler() -> str:
    """The C++ compiler: $CXX, or the first of c++, g++ and clang++.

    Raises:
        NoCompilerError: if there is none.
    """
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        if path := shutil.which(name):
            return path
    raise NoCompilerError(
        f"CXX={named} is not to be found" if named else "there is no C++ compiler (c++, g++, clang++)"
    )


def library(dtype: str, extra: Sequence[str] = ()) -> Path:
    """The compiled library for a dtype ("float32" or "float64"), compiled now if it is not in the cache.

    Args:
        dtype: of the numbers.
        extra: more flags, the last to be given, as for a profile. Those in $RNNBENCH_KERNEL_FLAGS come before them:
            a sanitizer's, or -mno-avx512f for narrower vectors.

    Raises:
        NoCompilerError: if it cannot be made.
    """
    compiler = find_compiler()
    named = shlex.split(os.environ.get("RNNBENCH_KERNEL_FLAGS", ""))
    for tuned in (["-march=native"], ["-mcpu=native"], []):  # x86, Arm, neither
        flags = [*FLAGS, f"-DNUMBER={NUMBERS[dtype]}", *tuned, *named, *extra]
        if macros := _macros(compiler, flags):
            break
    digest = hashlib.sha256(macros + repr(flags).encode())
    sources = sorted(SOURCES.iterdir())
    for source in sources:
        digest.update(source.name.encode() + source.read_bytes())
    directory = cache_dir()
    path = directory / f"rnnbench-{dtype}-{digest.hexdigest()[:16]}.so"
    if path.exists():
        return path
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (directory / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # many processes may start at once: one compiles, the others wait
            if not path.exists():
                _compile(compiler, flags, path)
    except OSError as error:
        raise NoCompilerError(f"{error.filename or directory} cannot be written ({error.strerror})") from error
    return path


def _macros(compiler: str, flags: Sequence[str]) -> bytes:
    """What the compiler predefines with ``flags``; nothing where it does not know them."""
    try:
        done = subprocess.run(
            [compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""


def _compile(compiler: str, flags: Sequence[str], path: Path) -> None:
    print("rnnbench: compiling the kernels, once; this takes a few seconds", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        output = Path(directory) / path.name
        command = [compiler, *flags, "-shared", "-o", str(output), str(SOURCES / "kernels.cpp")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoCompilerError(f"{compiler} did not run ({error})") from error
        if done.returncode != 0:
            log = path.with_suffix(".log")
            log.write_text(f"{' '.join(command)}\n{done.stdout}{done.stderr}", encoding="utf-8")
            raise NoCompilerError(f"{compiler} failed; what it said is in {log}")
        output.replace(path)
