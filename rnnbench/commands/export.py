"""``rnnbench export``: the records of finished runs in one file, for another machine or person."""

import argparse
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rnnbench.commands import add_choice, chosen


def main(argv: Sequence[str]) -> int:
    """Collect, pack, tell; returns the exit status."""
    args = _parser().parse_args(argv)
    from rnnbench.analysis.bundle import SHARED, pack
    from rnnbench.errors import UserError
    from rnnbench.record import Record
    from rnnbench.summary import counted

    runs = chosen(args)
    ended = runs[runs["status"].isin(SHARED)]
    left_out = ", ".join(f"{n} {status}" for status, n in runs.drop(ended.index)["status"].value_counts().items())
    if ended.empty:
        raise UserError(f"{args.runs}: no run is finished yet ({left_out}). Nothing was written.")
    name = args.name or args.output.name.removesuffix(".zip").removesuffix(".rnnbench")
    manifest = pack([Record(Path(path)) for path in ended["path"]], args.output, name, _today())
    size = args.output.stat().st_size
    print(
        f"{args.output}: {counted(manifest['count'], 'run')} of study {name}, {size:,} bytes, without weights and logs"
    )
    if left_out:
        print(f"  left out, for they are not finished: {left_out}")
    print(f"  there     rnnbench merge {args.output.name}")
    return 0


def _today() -> str:
    """The date in UTC, or that of SOURCE_DATE_EPOCH, for files that are to be the same again."""
    from rnnbench.errors import UserError

    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    if seconds and not seconds.isdecimal():
        raise UserError(f"SOURCE_DATE_EPOCH={seconds}: must be a number of seconds since 1970, or unset.")
    return (datetime.fromtimestamp(int(seconds), UTC) if seconds else datetime.now(UTC)).date().isoformat()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnbench export",
        description="Write what finished runs have recorded (config, result, metrics, diagnoses; no weights, no paths "
        "of this machine) to one file, which `rnnbench merge` reads on another.",
    )
    add_choice(parser)
    parser.add_argument("--name", metavar="NAME", help="of the study; default: the name of the file")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("study.rnnbench.zip"),
        metavar="FILE",
        help="what to write (study.rnnbench.zip)",
    )
    return parser
