"""``flowstill store push``: fill the default store, a bucket, or a repository of the hub."""

import argparse
import os
from pathlib import Path

from rich.console import Console

from flowstill.api.fields import StatusRef
from flowstill.artifacts.stores import push
from flowstill_operator.command.exits import COMPLETED
from flowstill_operator.command.shared import Subparsers, add_store, store_uri, subcommand


def add_parser(commands: Subparsers) -> None:
    """Its flags."""
    actions = commands.add_parser("store", help="fill the store").add_subparsers(dest="verb", required=True)
    pushing = subcommand(actions, "push", run, help="copy a folder into the store, atomically")
    add_store(pushing, buckets=True)
    pushing.add_argument("folder", type=Path)
    pushing.add_argument(
        "uri", help="such as store://teachers/mine, s3://BUCKET/teachers/mine, or hf://[datasets/]ORG/NAME for a commit"
    )
    pushing.add_argument("--force", action="store_true", help="replace other bytes that lie there")


def run(options: argparse.Namespace, console: Console) -> int:
    """Copy, and print the pinned reference."""
    # The store's functions take the default store from the environment, as every child does.
    os.environ["FLOWSTILL_STORE"] = store_uri(options.store, buckets=True)
    ref = _push(options.folder, options.uri, force=options.force)
    console.print(f"{ref.uri}@{ref.digest}", markup=False, highlight=False, soft_wrap=True)
    return COMPLETED


def _push(folder: Path, uri: str, *, force: bool) -> StatusRef:
    if not uri.startswith("hf://"):
        return push(folder, uri, force=force)
    # Every other command would wait for the client of the hub too.
    from flowstill.artifacts.hub_push import push_to_hub

    return push_to_hub(folder, uri, force=force)
