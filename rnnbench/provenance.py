"""Where a number comes from: versions, commit, machine; and the source of a class of one's own."""

import functools
import hashlib
import inspect
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rnnbench


def describe(device: str, threads: int) -> dict[str, Any]:
    """The part of a result that says by what it was computed."""
    name = torch.cuda.get_device_name(torch.device(device)) if device.startswith("cuda") else _processor()
    return {
        "versions": {
            "rnnbench": rnnbench.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "hydra-core": version("hydra-core"),
        },
        "platform": platform.platform(),
        "device": device,
        "device_name": name,
        "threads": threads,
        **commit(),
    }


@functools.cache
def commit() -> dict[str, Any]:
    """The commit of rnnbench's checkout and whether its tree differs from it; None where it is installed."""
    root = Path(rnnbench.__file__).resolve().parent.parent
    unknown = {"commit": None, "dirty": None}
    if not (root / ".git").exists():
        return unknown
    try:
        head, status = (
            subprocess.run(
                ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=10
            ).stdout
            for args in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return unknown
    return {"commit": head.strip(), "dirty": bool(status.strip())}


def commit_text() -> str:
    """The commit in a word, with a + where the tree differs from it."""
    found = commit()
    return f"{found['commit'] or 'installed ' + rnnbench.__version__}{'+' if found['dirty'] else ''}"


@functools.cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} x {os.cpu_count()}"
    return f"{platform.processor() or platform.machine()} x {os.cpu_count()}"


def source_digest(found: type) -> str | None:
    """Twelve digits of the sha256 of the file of one's own class; None for those of rnnbench and of torch.

    Two versions of a cell are two cells: an edited file makes new runs instead of finding the old ones done.
    """
    if found.__module__.partition(".")[0] in ("rnnbench", "torch"):
        return None
    try:
        file = inspect.getsourcefile(found)
    except TypeError:
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else None
