"""One file for a study: the records of finished runs, so that another person can load them and compare.

A zip file: ``manifest.json`` says what is in it, with the size and sha256 of each file, and each run has its files
under ``runs/<task>/<cell>/s<seed>-<hash>/``, as in a directory of runs, without weights, logs and curves of
TensorBoard. What is read from one is material of a stranger: nothing is believed that can be checked, and nothing is
ever executed.
"""

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

import rnnbench
from rnnbench.config import RunConfig, flatten, from_record, run_key
from rnnbench.errors import UserError
from rnnbench.files import write_atomically
from rnnbench.record import Record, config_of, result_of

FORMAT, FORMAT_VERSION = "rnnbench study", 1
MANIFEST = "manifest.json"

LIMITS = {
    "config.yaml": 1 << 16,
    "result.json": 1 << 20,
    "metrics.jsonl": 1 << 26,
    "diagnostics.jsonl": 1 << 26,
    "diagnosis.json": 1 << 24,
    "origin.json": 1 << 12,
}
"""The files of a run that travel, and how large each may be, in bytes."""

NEEDED = ("config.yaml", "result.json")
MANIFEST_LIMIT = 1 << 26
RUNS_LIMIT = 20_000
TOTAL_LIMIT = 1 << 30
"""Bytes of all files together when they are unpacked."""

SHARED = ("done", "diverged", "pruned")
"""The statuses of runs that are exported: those that say something."""

PRIVATE = {"results_dir": "results", "data_dir": None}
"""Keys of a config that say where files are on a machine, and what is put in their place."""

PATH = re.compile(r"(?<![^\s'\"=(:,])(?:~?/|[A-Za-z]:[\\/]|\\\\)[^\s'\",)]+")
"""An absolute path, at the beginning of a word."""

NAME = re.compile(r"[^\x00-\x1f\x7f]{1,80}")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The quick one, where PyYAML was built with it."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the zip: the bytes depend on the content alone."""


@dataclass(frozen=True)
class Run:
    """A run as it stands in a bundle, checked."""

    place: str
    """``runs/<task>/<cell>/s<seed>-<hash>``."""
    config: RunConfig
    result: dict[str, Any]
    files: dict[str, dict[str, Any]]
    """By name the size (``bytes``) and the ``sha256``."""
    study: str
    """Whose it is."""


# ---------------------------------------------------------------- writing


def pack(records: Sequence[Record], output: Path, name: str, created: str) -> dict[str, Any]:
    """Write the bundle of some finished runs, atomically. The same runs, name and date give the same bytes.

    Args:
        records: of the runs.
        output: the file.
        name: of the study.
        created: the date, as ``2026-11-23``.

    Returns:
        The manifest.

    Raises:
        UserError: if a record is damaged, or the identity of a run holds a path of this machine.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: must be 1 to 80 printable characters.")
    contents: dict[str, bytes] = {}
    runs: list[dict[str, Any]] = []
    for record in sorted(records, key=lambda r: r.path.as_posix()):
        place = "/".join(["runs", *record.path.parts[-3:]])
        own = dict(_travelling(record))
        contents |= {f"{place}/{file}": content for file, content in own.items()}
        result = result_of(own["result.json"], str(record.path))
        described = {key: result.get(key) for key in ("task", "cell", "seed", "status", "data_checksum")}
        files = {file: {"bytes": len(content), "sha256": sha256(content)} for file, content in sorted(own.items())}
        runs.append({"path": place, "key": run_key(record.config()), **described, "files": files})
    checksums: dict[str, set[str]] = {}
    for run in runs:
        checksums.setdefault(run["task"], set()).add(run["data_checksum"])
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "rnnbench": rnnbench.__version__,
        "name": name,
        "created": created,
        "count": len(runs),
        "data": {task: sorted(found, key=str) for task, found in sorted(checksums.items())},
        "runs": runs,
    }
    contents[MANIFEST] = json.dumps(manifest, indent=1).encode() + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            file.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    write_atomically(output, buffer.getvalue())
    return manifest


def _travelling(record: Record) -> Iterator[tuple[str, bytes]]:
    """The files of a run that leave this machine, by name, without what is private."""
    config = record.config()
    known = {**config.as_dict(), **PRIVATE}
    for key, value in flatten(known, ""):
        if isinstance(value, str) and PATH.search(value):
            raise UserError(
                f"{record.path}: {key}={value} is a path of this machine and part of what the run is, so it cannot be "
                "left out. Leave the run out, with --task or --cell."
            )
    for name, limit in LIMITS.items():
        path = record.path / name
        if not path.exists():
            continue
        content = path.read_bytes()
        if name == "config.yaml":
            content = OmegaConf.to_yaml(OmegaConf.create(known)).encode()
        elif PATH.search(content.decode("utf-8")):  # rare: nothing that is recorded should hold one
            content = _without_paths(name, content)
        if len(content) > limit:
            raise UserError(f"{path}: has {len(content):,} bytes; a file of a study has at most {limit:,}.")
        yield name, content


def _without_paths(name: str, content: bytes) -> bytes:
    """The JSON, or lines of JSON, with "…" for each absolute path."""
    if name.endswith(".jsonl"):
        return b"".join(json.dumps(_blanked(json.loads(line))).encode() + b"\n" for line in content.splitlines())
    return json.dumps(_blanked(json.loads(content)), indent=2).encode() + b"\n"


def _blanked(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {key: _blanked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_blanked(item) for item in value]
    return PATH.sub("…", value) if isinstance(value, str) else value


def sha256(content: bytes) -> str:
    """As hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------- reading


class Bundle:
    """A file that `pack` wrote, or pretends to be one: everything in it is checked before anything is given out."""

    def __init__(self, path: Path) -> None:
        """Open and check the file.

        Raises:
            UserError: that names what is wrong with it.
        """
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such file.") from None
        except Exception as error:  # whatever a damaged file makes of it
            raise self._wrong(f"is not a whole zip file ({error}). Copy it again") from error
        with self._zip:
            self._entries = self._listed()
            manifest = self._manifest()
            self.name, self.created = str(manifest["name"]), str(manifest["created"])
            self.runs = [self._run(entry) for entry in manifest["runs"]]

    def contents(self, run: Run) -> Iterator[tuple[str, bytes]]:
        """The files of a run by name, checked once more, and whose it is as the last."""
        with zipfile.ZipFile(self.path) as self._zip:
            for name, described in run.files.items():
                if name != "origin.json":
                    yield name, self._read(f"{run.place}/{name}", described)
        yield "origin.json", json.dumps({"study": run.study}).encode() + b"\n"

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}. Nothing was merged.")

    def _listed(self) -> dict[str, zipfile.ZipInfo]:
        entries = self._zip.infolist()
        if len(entries) > RUNS_LIMIT * len(LIMITS) + 1:
            raise self._wrong(f"has {len(entries):,} entries, more than a study can have")
        total = sum(entry.file_size for entry in entries)
        if total > TOTAL_LIMIT:
            raise self._wrong(f"would unpack to {total:,} bytes; at most {TOTAL_LIMIT:,} are allowed")
        for entry in entries:
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
                raise self._wrong(f"{entry.filename!r} is encrypted or packed in another way than rnnbench packs")
        by_name = {entry.filename: entry for entry in entries}
        if len(by_name) < len(entries):
            raise self._wrong("has two entries of one name")
        return by_name

    def _manifest(self) -> dict[str, Any]:
        if MANIFEST not in self._entries or self._entries[MANIFEST].file_size > MANIFEST_LIMIT:
            raise self._wrong(f"is not a study that `rnnbench export` wrote: it has no {MANIFEST}")
        try:
            content: dict[str, Any] = json.loads(self._read(MANIFEST, None))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            if int(content["format_version"]) > FORMAT_VERSION:
                raise UserError(
                    f"{self.path}: is of format version {content['format_version']}, from a later rnnbench "
                    f"({content.get('rnnbench')}); this one reads up to {FORMAT_VERSION}. Update rnnbench."
                )
            runs = content["runs"]
            if not NAME.fullmatch(content["name"]) or not isinstance(runs, list):
                raise ValueError("not its format")
            files = {f"{run['path']}/{name}" for run in runs for name in run["files"]}
            paths = {run["path"] for run in runs}
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", content["created"]):
                raise ValueError("no date")
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._wrong(f"its {MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
        if len(paths) < len(runs):
            raise self._wrong("lists a run twice")
        if unexpected := sorted(self._entries.keys() ^ {*files, MANIFEST}):
            where = "is not in its manifest" if unexpected[0] in self._entries else "is missing"
            raise self._wrong(f"{unexpected[0]!r} {where}")
        return content

    def _run(self, described: Mapping[str, Any]) -> Run:
        """Check a run of the manifest against its files."""
        place, files = str(described["path"]), dict(described["files"])
        parts = place.split("/")
        plain = all(part and part[0] not in ".~" and re.fullmatch(r"[\w.+=-]+", part) for part in parts)
        if len(parts) != 4 or parts[0] != "runs" or not plain or not re.fullmatch(r"s\d+-[0-9a-f]{10}", parts[3]):
            raise self._wrong(f"{place!r} is not the place of a run")
        for name in files:
            if name not in LIMITS:
                raise self._wrong(f"{place}/{name}: is no file that belongs to a run")
        if missing := [name for name in NEEDED if name not in files]:
            raise self._wrong(f"{place}: has no {missing[0]}")
        contents = {name: self._read(f"{place}/{name}", entry) for name, entry in files.items()}
        config = self._config(place, contents["config.yaml"])
        where = f"{self.path}: {place}/result.json"
        result = result_of(contents["result.json"], where, "Nothing was merged.")
        try:
            self._consistent(parts, config, result)
            for name in ("metrics.jsonl", "diagnostics.jsonl"):
                for line in contents.get(name, b"").decode("utf-8").splitlines():
                    int(json.loads(line)["epoch"])
            json.loads(contents.get("diagnosis.json", b"{}"))
            study = json.loads(contents["origin.json"])["study"] if "origin.json" in contents else self.name
            if not NAME.fullmatch(study):
                raise ValueError("a study without a name")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._wrong(f"{place}: its records do not fit together ({first_words(error)})") from error
        return Run(place, config, result, files, study)

    def _config(self, place: str, content: bytes) -> RunConfig:
        """The config of a run; anything but plain values is refused before it is looked at."""
        try:
            text = content.decode("utf-8")
            check_plain(text)
            return config_of(text)
        except Exception as error:  # whatever is in it
            raise self._wrong(f"{place}/config.yaml: cannot be read ({first_words(error)})") from error

    def _consistent(self, parts: Sequence[str], config: RunConfig, result: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless the place of a run, its config and its result speak of one run."""
        key, seed = run_key(config), config.seed
        if parts[1:] != [config.task["name"], config.cell["name"], f"s{seed}-{key}"]:
            raise ValueError(f"its config is that of {config.task['name']}/{config.cell['name']}/s{seed}-{key}")
        if "${" in json.dumps(result["config"]):
            raise ValueError("result.json has an interpolation, ${…}")
        told = from_record({**config.as_dict(), **result["config"]}, {})
        if run_key(told) != key or [result[k] for k in ("task", "cell", "seed")] != [parts[1], parts[2], seed]:
            raise ValueError("result.json is of another config")
        if result["status"] not in SHARED:
            raise ValueError(f"it ended as {result['status']}")
        if not isinstance(result["data_checksum"], str) or not isinstance(result["metric"], str):
            raise ValueError("no checksum of the data, or no metric")
        for split in ("train", "valid", "test"):
            for name, value in (result.get(split) or {}).items():
                if not isinstance(value, int | float | None):
                    raise ValueError(f"{split} {name} is {value!r}")
            if result["status"] == "done":
                baseline = next(iter(result["baselines"][split].values()))
                if not all(math.isfinite(scores[result["metric"]]) for scores in (result[split], baseline)):
                    raise ValueError(f"{split} {result['metric']} is no number")

    def _read(self, name: str, described: Mapping[str, Any] | None) -> bytes:
        """The content of an entry, never more than it may have, with the size and sha256 that the manifest says."""
        entry = self._entries[name]
        limit = MANIFEST_LIMIT if described is None else LIMITS[name.rpartition("/")[2]]
        if entry.file_size > limit:
            raise self._wrong(f"{name}: has {entry.file_size:,} bytes; at most {limit:,} are allowed")
        try:
            with self._zip.open(entry) as file:
                content = file.read(limit + 1)
        except Exception as error:  # whatever a damaged file makes of it
            raise self._wrong(f"{name}: is damaged ({error}). Copy the file again") from error
        if described is not None:
            if len(content) != described.get("bytes"):
                raise self._wrong(f"{name}: has {len(content):,} bytes instead of {described.get('bytes')}")
            if sha256(content) != described.get("sha256"):
                raise self._wrong(f"{name}: has sha256 {sha256(content)} instead of {described.get('sha256')}")
        return content


def check_plain(text: str) -> None:
    """Raise `ValueError` for YAML that is more than nested plain values: tags, references, interpolations."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if getattr(event, "anchor", None) is not None:
            raise ValueError("it has a reference, &… or *…")
        if str(getattr(event, "tag", None) or "!").startswith(("tag:yaml.org,2002:python", "!!", "tag:")):
            raise ValueError(f"it has a tag, {event.tag}")
        if "${" in str(getattr(event, "value", "")):
            raise ValueError("it has an interpolation, ${…}")
        if depth > 20:
            raise ValueError("it is nested too deeply")


def first_words(error: Exception) -> str:
    """The first line of an error, or its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]
