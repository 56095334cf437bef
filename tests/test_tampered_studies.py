"""Studies that were tampered with are refused, whatever was done to them, and nothing is written."""

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rnnbench.analysis import bundle
from rnnbench.analysis.merging import merge
from rnnbench.errors import UserError
from tests.test_export_merge import Files, content, last
from tests.test_export_merge import prepared as prepared  # fixtures
from tests.test_export_merge import study as study


def packed(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def forged(study: Path, change: Callable[[Files, dict[str, Any]], object], honest: bool = True) -> Path:
    """The study changed; if ``honest``, its manifest has the sizes and sums of what is in it."""
    files = content(study)
    manifest = json.loads(files.pop("manifest.json"))
    change(files, manifest)
    if honest:
        for run in manifest.get("runs", []):
            for name in run["files"]:
                data = files.get(f"{run['path']}/{name}", b"")
                run["files"][name] = {"bytes": len(data), "sha256": bundle.sha256(data)}
    return packed(study.with_name("forged.rnnbench.zip"), {**files, "manifest.json": json.dumps(manifest).encode()})


def in_result(**values: Any) -> Callable[[Files, dict[str, Any]], None]:
    def change(files: Files, manifest: dict[str, Any]) -> None:
        path = last(files, "result.json")
        files[path] = json.dumps({**json.loads(files[path]), **values}).encode()

    return change


def appended(name: str, text: str) -> Callable[[Files, dict[str, Any]], None]:
    def change(files: Files, manifest: dict[str, Any]) -> None:
        files[last(files, name)] += text.encode()

    return change


def placed(place: str) -> Callable[[Files, dict[str, Any]], None]:
    """The last run at another place, in the manifest and in the zip."""

    def change(files: Files, manifest: dict[str, Any]) -> None:
        run = manifest["runs"][-1]
        for name in run["files"]:
            files[f"{place}/{name}"] = files.pop(f"{run['path']}/{name}")
        run["path"] = place

    return change


def added(name: str) -> Callable[[Files, dict[str, Any]], None]:
    return lambda files, manifest: files.update({name: b"evil"})


def listed(name: str) -> Callable[[Files, dict[str, Any]], None]:
    def change(files: Files, manifest: dict[str, Any]) -> None:
        run = manifest["runs"][-1]
        run["files"][name] = {}
        files[f"{run['path']}/{name}"] = b"evil"

    return change


def edited(name: str, old: str, new: str) -> Callable[[Files, dict[str, Any]], None]:
    def change(files: Files, manifest: dict[str, Any]) -> None:
        path = last(files, name)
        assert old.encode() in files[path]
        files[path] = files[path].replace(old.encode(), new.encode())

    return change


EVIL = "!!python/object/apply:os.system ['touch evil']"
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
HASH = "s0-0123456789"
REFUSED: dict[str, tuple[Callable[[Files, dict[str, Any]], object], str]] = {
    "traversal": (placed(f"runs/../../{HASH}"), "is not the place of a run"),
    "traversal of a cell": (placed(f"runs/jsb_chorales/../{HASH}"), "is not the place of a run"),
    "absolute": (placed("/etc/runs/gru/s0-0123456789"), "is not the place of a run"),
    "hidden": (placed(f"runs/jsb_chorales/.git/{HASH}"), "is not the place of a run"),
    "backslashes": (placed(f"runs/jsb_chorales/a\\b/{HASH}"), "is not the place of a run"),
    "an entry beside": (added("../evil"), "'../evil' is not in its manifest"),
    "an absolute entry": (added("/tmp/evil"), "'/tmp/evil' is not in its manifest"),
    "weights": (listed("best.pt"), "best.pt: is no file that belongs to a run"),
    "traversal of a file": (listed("../../../../evil"), "is no file that belongs to a run"),
    "no manifest": (lambda f, m: m.clear(), "manifest.json cannot be read"),
    "later format": (lambda f, m: m.update(format_version=2), "from a later rnnbench .* Update rnnbench"),
    "another format": (lambda f, m: m.update(format="holiday"), "manifest.json cannot be read"),
    "a name of a terminal": (lambda f, m: m.update(name="\033[2J"), "manifest.json cannot be read"),
    "a run twice": (lambda f, m: m["runs"].append(m["runs"][0]), "lists a run twice"),
    "a file missing": (lambda f, m: f.pop(last(f, "metrics.jsonl")), "metrics.jsonl' is missing"),
    "later schema": (in_result(schema_version=99), "schema_version 99, from a later rnnbench.*Update rnnbench"),
    "not finished": (in_result(status="interrupted"), "it ended as interrupted"),
    "unknown status": (in_result(status="won"), r"result\.json: is damaged \(status won\)\. Nothing was merged"),
    "another seed": (in_result(seed=5), "result.json is of another config"),
    "no number": (in_result(test={"nll_step": "8"}), "test nll_step is '8'"),
    "not a number": (in_result(test={"nll_step": float("nan")}), "test nll_step is no number"),
    "no scores": (in_result(test=None), "do not fit together"),
    "deep": (lambda f, m: f.update({last(f, "result.json"): b"[" * 100_000}), "is damaged"),
    "another config in the result": (
        edited("result.json", '"hidden_size": 36', '"hidden_size": 99'),
        "of another config",
    ),
    "another config": (
        edited("config.yaml", "hidden_size: 36", "hidden_size: 37"),
        "its config is that of jsb_chorales",
    ),
    "half a metric": (appended("metrics.jsonl", '{"epo'), "do not fit together"),
    "code": (appended("config.yaml", f"x: {EVIL}\n"), "it has a tag"),
    "an alias bomb": (appended("config.yaml", BOMB), "it has a reference"),
    "an interpolation": (appended("config.yaml", "x: ${oc.env:HOME}\n"), "it has an interpolation"),
    "deep yaml": (appended("config.yaml", "x: " + "[" * 30 + "]" * 30 + "\n"), "nested too deeply"),
    "not yaml": (appended("config.yaml", "x: [\n"), "config.yaml: cannot be read"),
    "an unknown key": (appended("config.yaml", "evil: 1\n"), "there is no such key"),
    "large": (lambda f, m: f.update({last(f, "config.yaml"): b"#" * 70_000}), "at most 65,536 are allowed"),
    "a bomb": (
        lambda f, m: f.update({last(f, "metrics.jsonl"): bytes((1 << 26) + 1)}),
        "at most 67,108,864 are allowed",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_was_tampered_with_is_refused_and_nothing_is_written(
    what: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = REFUSED[what]
    monkeypatch.chdir(tmp_path)
    bad = forged(study, change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        merge([bad], tmp_path / "here" / "deep" / "down")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wrong_sum_or_size_is_refused(study: Path, tmp_path: Path) -> None:
    for change, message in (
        (edited("metrics.jsonl", "1.5", "2.5"), "has sha256 .* instead of"),
        (appended("metrics.jsonl", "{}"), "bytes instead of"),
    ):
        with pytest.raises(UserError, match=message):
            merge([study, forged(study, change, honest=False)], tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_what_is_no_whole_zip_file_is_refused(study: Path, tmp_path: Path) -> None:
    whole = study.read_bytes()
    bad = tmp_path / "bad.zip"
    for data in (b"", b"PK", whole[: len(whole) // 2], whole[:-10], bytes(1000)):
        bad.write_bytes(data)
        with pytest.raises(UserError, match="is not a whole zip file"):
            merge([bad], tmp_path / "here")
    with pytest.raises(UserError, match="there is no such file"):
        merge([tmp_path / "none.zip"], tmp_path / "here")
    packed(bad, {"x": b""})
    with pytest.raises(UserError, match=r"it has no manifest\.json"):
        merge([bad], tmp_path / "here")


def test_no_damaged_byte_is_taken_for_a_result(study: Path, tmp_path: Path) -> None:
    """Of some files with a flipped byte, each is refused, or the byte was of no importance (a time, a flag)."""
    whole = study.read_bytes()
    merge([study], tmp_path / "good")
    bad = tmp_path / "bad.zip"
    for at in range(0, len(whole), len(whole) // 20):
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            found = bundle.Bundle(bad)
        except UserError:
            continue
        for run in found.runs:
            for name, data in found.contents(run):
                assert (tmp_path / "good" / run.place / name).read_bytes() == data


def test_an_entry_that_unpacks_to_more_than_it_says_is_cut_off(study: Path, tmp_path: Path) -> None:
    files = content(study)
    files[last(files, "config.yaml")] = bytes(1 << 24)
    packed(bad := tmp_path / "bad.zip", files)
    data = bytearray(bad.read_bytes())
    true, told = struct.pack("<I", 1 << 24), struct.pack("<I", 100)
    assert data.count(true) == 2
    bad.write_bytes(data.replace(true, told))
    with pytest.raises(UserError, match=r"config\.yaml: is damaged"):
        merge([bad], tmp_path / "here")


def test_all_files_together_have_a_limit(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "TOTAL_LIMIT", 1000)
    with pytest.raises(UserError, match=r"would unpack to [\d,]+ bytes; at most 1,000 are allowed"):
        merge([study], tmp_path / "here")
    monkeypatch.setattr(bundle, "RUNS_LIMIT", 1)
    with pytest.raises(UserError, match="more than a study can have"):
        merge([study], tmp_path / "here")


def test_two_entries_of_one_name_and_other_ways_of_packing_are_refused(study: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO(study.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the double name
        with zipfile.ZipFile(buffer, "a") as file:
            file.writestr("manifest.json", b"{}")
    (tmp_path / "bad.zip").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="two entries of one name"):
        merge([tmp_path / "bad.zip"], tmp_path / "here")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("manifest.json", b"{}")
    with pytest.raises(UserError, match="packed in another way"):
        merge([tmp_path / "bad.zip"], tmp_path / "here")
