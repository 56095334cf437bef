"""Atomic writing, against a disk that is full and a process that is killed."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rnnbench.files import write_atomically

OLD, NEW = b"o" * 1_000, b"n" * 2_000_000


def child(program: str, *args: object) -> subprocess.Popen[bytes]:
    """A process that runs ``program`` after the imports it needs."""
    head = "import resource, sys\nfrom pathlib import Path\nfrom rnnbench.files import write_atomically\n"
    return subprocess.Popen([sys.executable, "-c", head + program, *map(str, args)], stdout=subprocess.PIPE)


def test_the_directory_is_made_and_the_content_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (OLD, NEW, b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_everyone_may_read_the_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", NEW)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flush(handle: int) -> None:
        assert os.fstat(handle).st_size == len(OLD), "flushed before all was written"
        calls.append("fsync")
        fsync(handle)

    def rename(source: str, target: Path) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    write_atomically(tmp_path / "file", OLD)
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("old", [OLD, None], ids=["over an old file", "a new file"])
def test_a_write_that_fails_changes_nothing_and_leaves_nothing(tmp_path: Path, old: bytes | None) -> None:
    """No file of this process may be longer than half the content: the write ends in EFBIG part of the way."""
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    program = """
path, size = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
try:
    write_atomically(path, b"n" * size)
except OSError as error:
    print(error.errno, end="")
"""
    out, _ = child(program, path, len(NEW)).communicate(timeout=60)
    assert out.decode() == str(errno.EFBIG)
    assert (path.read_bytes() if old is not None else None) == old
    assert list(tmp_path.iterdir()) == ([path] if old is not None else [])


def test_a_rename_that_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "directory", NEW)
    assert list(tmp_path.iterdir()) == [tmp_path / "directory"]


def test_a_reader_after_a_kill_finds_one_whole_content(tmp_path: Path) -> None:
    """A process that replaces one content by the other without end, killed at ten moments."""
    path = tmp_path / "file"
    write_atomically(path, OLD)
    program = """
path = Path(sys.argv[1])
contents = [b"o" * 1_000, b"n" * 2_000_000]
print("ready", flush=True)
while True:
    for content in contents:
        write_atomically(path, content)
"""
    for attempt in range(10):
        with child(program, path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.005 + 0.0037 * attempt)
            process.send_signal(signal.SIGKILL)
        assert path.read_bytes() in (OLD, NEW)
