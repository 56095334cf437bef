"""``rnnbench data``: which music files are here; ``rnnbench data fetch``: get them."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Show or fetch; returns the exit status."""
    from rnnbench.errors import check_choice
    from rnnbench.tasks import store

    parser = argparse.ArgumentParser(
        prog="rnnbench data", description="The four polyphonic music sets: which are here, verified or not; fetch them."
    )
    parser.add_argument("action", nargs="?", choices=["show", "fetch"], default="show")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(store.DATA_SETS)}; default: all")
    named = os.environ.get(store.DATA_DIR_VARIABLE)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(named) if named else None,
        metavar="DIR",
        help=f"where they are or go to; default: ${store.DATA_DIR_VARIABLE}, else the user's cache",
    )
    args = parser.parse_args(argv)
    for name in args.names:
        check_choice("name", name, store.DATA_SETS)
    chosen = [store.DATA_SETS[name] for name in args.names or store.DATA_SETS]
    if args.action == "fetch":
        for data_set in chosen:
            if store.state(data_set, args.data_dir) != "verified":
                store.fetch(data_set, args.data_dir)
    print(f"in {args.data_dir or store.cache_dir()}:")
    states = {data_set: store.state(data_set, args.data_dir) for data_set in chosen}
    for data_set, state in states.items():
        print(f"  {data_set.name:<13} {data_set.file:<17} {data_set.bytes:>8,} bytes  {state}")
    if set(states.values()) != {"verified"}:
        into = f" --data-dir {args.data_dir}" if args.data_dir else ""
        print(f"`rnnbench data fetch{into}` gets what is missing or damaged")
    return 0
