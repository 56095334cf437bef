"""Pages in headless Chromium: what it shows, what it says on its console, and whom it asks."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

FLAGS = (  # noqa: SIM905 - to be read
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --no-proxy-server --enable-logging=stderr --v=0 "
    "--virtual-time-budget=3000 --window-size=1200,900 --dump-dom"
).split()

RESOLVE = "--host-resolver-rules=MAP * ~NOTFOUND"
"""No name is looked up: what a page asks for is to be seen, not had."""


BROWSER = "not an origin"
"""Who asks, where it is the browser itself, for its own updates."""


@dataclass(frozen=True)
class Seen:
    """What became of a page."""

    dom: str
    console: list[str]
    asked: list[str]
    """Addresses outside of the page that were asked for."""


def browser() -> str:
    """The program; the test is skipped where it is not, unless it is required."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and os.environ.get("RNNBENCH_REQUIRE_BROWSER"):
        pytest.fail("RNNBENCH_REQUIRE_BROWSER is set, but there is no chromium")
    if found is None:
        pytest.skip("needs Chromium, which is not installed")
    return found


def look(page: Path, scratch: Path) -> Seen:
    """Open ``page`` in a browser that has never seen anything.

    Args:
        page: a file.
        scratch: an empty directory.
    """
    log = scratch / "net.json"
    command = [browser(), *FLAGS, RESOLVE, f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}"]
    done = subprocess.run([*command, page.resolve().as_uri()], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    console = re.findall(r"CONSOLE[:(][^\]]*\]\s*(.*)", done.stderr)
    return Seen(done.stdout, console, sorted(_asked(log)))


def _asked(log: Path) -> set[str]:
    """The addresses of a log of Chromium's network stack, that a page has asked for."""
    text = log.read_text(encoding="utf-8")
    try:
        events = json.loads(text)["events"]
    except ValueError:  # cut off as the browser ended
        events = json.loads(text[: text.rstrip().rstrip(",").rfind("},") + 1] + "]}")["events"]
    requests = [event.get("params", {}) for event in events]
    return {
        request["url"]
        for request in requests
        if "url" in request and request.get("initiator", BROWSER) != BROWSER and not request["url"].startswith("file:")
    }
