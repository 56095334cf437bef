"""The data store, against a real server on this machine."""

import hashlib
import io
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from rnnbench.errors import UserError
from rnnbench.tasks import store
from rnnbench.tasks.store import DataSet

Respond = Callable[[BaseHTTPRequestHandler], object]
ENDLESS = 1 << 26
"""Bytes after which the server that never ends gives up: far more than the sockets between can hold."""


def random_rolls(lengths: Sequence[int], seed: int) -> list[np.ndarray]:
    """Piano rolls (T, 88) of the given lengths, notes on a tenth of the time."""
    generator = np.random.default_rng(seed)
    return [(generator.random((T, store.NOTES)) < 0.1).astype(np.uint8) for T in lengths]


def mat_file(splits: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    """A MATLAB file of rolls, laid out as those of the data sets are."""
    cells: dict[str, Any] = {}
    for split, rolls in splits.items():
        cells[f"{split}data"] = np.empty((1, len(rolls)), dtype=object)
        cells[f"{split}data"][0, :] = rolls
    file: Any = io.BytesIO()
    savemat(file, cells)
    content: bytes = file.getvalue()
    return content


def described(content: bytes, name: str = "tiny") -> DataSet:
    """The data set whose file has this content."""
    return DataSet(name, f"{name}.mat", len(content), hashlib.sha256(content).hexdigest())


ROLLS = {split: random_rolls([3, 1, 6], seed) for seed, split in enumerate(("train", "valid", "test"))}
CONTENT = mat_file(ROLLS)
TINY = described(CONTENT)


class Server:
    """A web server that answers as it is told and remembers what it was asked for."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.respond: Respond = sends(CONTENT)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                server.respond(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/mdata"


def sends(body: bytes, promised: int | None = None, status: int = 200) -> Respond:
    """Answer with ``body``, and ``promised`` bytes in the header where that is another number."""

    def respond(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body) if promised is None else promised))
        request.end_headers()
        request.wfile.write(body)

    return respond


def sends_raw(answer: bytes) -> Respond:
    """Answer with these bytes, whether or not they are HTTP."""
    return lambda request: request.wfile.write(answer)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rnnbench" / "music"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The place that data are fetched from."""
    server = Server()
    monkeypatch.setenv(store.SOURCE_VARIABLE, server.url)
    monkeypatch.setenv("no_proxy", "*")
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def files_under(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_a_file_is_fetched_at_first_use_and_kept(server: Server, cache: Path) -> None:
    assert store.state(TINY, None) == "missing"
    for _ in range(3):
        assert store.read(TINY, None) == CONTENT
    assert server.requests == ["/mdata/tiny.mat"]
    assert files_under(cache) == [cache / "tiny.mat"]
    assert store.state(TINY, None) == "verified"


def test_a_file_can_be_fetched_into_a_data_directory(server: Server, cache: Path, tmp_path: Path) -> None:
    directory = tmp_path / "data" / "music"
    assert store.fetch(TINY, directory) == directory / "tiny.mat"
    assert store.read(TINY, directory) == CONTENT
    assert files_under(tmp_path) == [directory / "tiny.mat"]


def test_what_is_loaded_is_what_was_saved(server: Server) -> None:
    loaded = store.load(TINY, None)
    assert list(loaded) == ["train", "valid", "test"]
    for split, rolls in ROLLS.items():
        assert [roll.dtype for roll in loaded[split]] == [np.uint8] * len(rolls)
        assert all(np.array_equal(a, b) for a, b in zip(loaded[split], rolls, strict=True))


DAMAGED = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
BAD_ANSWERS = {
    "one bit is wrong": (sends(DAMAGED), "has sha256"),
    "truncated": (sends(CONTENT[:-1]), f"instead of {len(CONTENT):,}"),
    "one byte too long": (sends(CONTENT + b"\0"), f"instead of {len(CONTENT):,}"),
    "empty": (sends(b""), f"has 0 bytes instead of {len(CONTENT):,}"),
    "cut off": (sends(CONTENT[:500], promised=len(CONTENT)), "bytes"),
    "not found": (sends(b"", status=404), "Not Found"),
    "broken": (sends(b"", status=500), "500|Internal Server Error"),
    "hangs up": (sends_raw(b""), "closed connection"),
    "no HTTP": (sends_raw(b"SSH-2.0-OpenSSH\r\n"), "SSH"),
    "cut off in a chunk": (
        sends_raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9999\r\nabc"),
        "cannot fetch",
    ),
}


@pytest.mark.parametrize(("respond", "reason"), BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_a_bad_answer_is_told_and_not_kept(server: Server, tmp_path: Path, respond: Respond, reason: str) -> None:
    server.respond = respond
    with pytest.raises(UserError, match=reason) as error:
        store.load(TINY, None)
    assert f"{server.url}/tiny.mat" in str(error.value)
    assert store.DATA_DIR_VARIABLE in str(error.value)
    assert files_under(tmp_path) == []
    assert store.state(TINY, None) == "missing"


def test_an_answer_without_end_is_cut_short(server: Server, tmp_path: Path) -> None:
    cut_short = threading.Event()

    def respond(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            for _ in range(0, ENDLESS, 1 << 16):
                request.wfile.write(CONTENT + bytes(1 << 16))
        except ConnectionError:
            cut_short.set()

    server.respond = respond
    with pytest.raises(UserError, match=f"instead of {len(CONTENT):,}"):
        store.read(TINY, None)
    assert cut_short.wait(10.0)
    assert files_under(tmp_path) == []


def test_a_server_that_says_nothing_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = threading.Event()
    server.respond = lambda request: given_up.wait(10.0)
    monkeypatch.setattr(store, "TIMEOUT_S", 0.1)
    with pytest.raises(UserError, match="timed out"):
        store.read(TINY, None)
    given_up.set()
    assert files_under(tmp_path) == []


def test_a_refused_connection_names_what_to_do(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv(store.SOURCE_VARIABLE, url)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(UserError, match=r"refused.*copy tiny\.mat from one that has and set RNNBENCH_DATA_DIR"):
        store.read(TINY, None)
    assert files_under(tmp_path) == []


def test_a_file_missing_from_the_data_directory_is_not_fetched(server: Server, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"there is no tiny\.mat") as error:
        store.load(TINY, empty)
    assert f"data_dir={empty}" in str(error.value)
    assert f"`rnnbench data fetch tiny --data-dir {empty}`" in str(error.value)
    assert server.requests == []
    assert files_under(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (CONTENT, "verified"),
        (None, "missing"),
        (DAMAGED, f"has sha256 {hashlib.sha256(DAMAGED).hexdigest()} instead of {TINY.sha256}"),
        (CONTENT[:10], f"has 10 bytes instead of {len(CONTENT):,}"),
    ],
    ids=["verified", "missing", "wrong checksum", "wrong size"],
)
@pytest.mark.parametrize("where", ["data_dir", "cache"])
def test_the_state_of_a_file_is_told(
    server: Server, cache: Path, tmp_path: Path, content: bytes | None, state: str, where: str
) -> None:
    data_dir = tmp_path / "data" if where == "data_dir" else None
    path = (data_dir or cache) / TINY.file
    if content is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    assert store.state(TINY, data_dir) == state
    if state.startswith("has"):
        with pytest.raises(UserError, match=state) as error:
            store.load(TINY, data_dir)
        assert str(path) in str(error.value)
        assert path.read_bytes() == content
    assert server.requests == []


class Bomb:
    """An object whose pickle makes a directory when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("pinned", [False, True], ids=["unverified", "verified"])
def test_a_pickle_in_place_of_the_file_is_never_run(
    server: Server, tmp_path: Path, protocol: int, pinned: bool
) -> None:
    """Not even if its size and checksum were the expected ones."""
    marker = tmp_path / "marker"
    bomb = pickle.dumps(Bomb(marker), protocol) + bytes(1 << 10)  # as long as a MATLAB header at least
    server.respond = sends(bomb)
    with pytest.raises(ValueError, match=r"mat file|nothing was kept"):
        store.load(described(bomb) if pinned else TINY, None)
    assert not marker.exists()
    pickle.loads(bomb)
    assert marker.exists(), "the bomb does not go off even where it is unpickled"


def test_the_real_file_passes_through_the_server(server: Server, cache: Path, data_dir: Path) -> None:
    jsb = store.DATA_SETS["jsb_chorales"]
    server.respond = sends((data_dir / jsb.file).read_bytes())
    fetched, local = store.load(jsb, None), store.load(jsb, data_dir)
    assert [len(fetched[split]) for split in ("train", "valid", "test")] == [229, 76, 77]
    assert all(np.array_equal(a, b) for split in local for a, b in zip(fetched[split], local[split], strict=True))
    assert server.requests == [f"/mdata/{jsb.file}"]
    assert store.state(jsb, None) == "verified"
