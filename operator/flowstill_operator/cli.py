"""``flowstill``: run manifests on this machine, look at them, and fill the store."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from flowstill.artifacts.stores import push
from flowstill.artifacts.uris import Locations
from flowstill.errors import UserError
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.command.display import Display, states, summarise
from flowstill_operator.command.files import read_manifests
from flowstill_operator.command.session import run
from flowstill_operator.platform import local_platform

EXIT_COMPLETED, EXIT_REJECTED, EXIT_USAGE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
GOOD = frozenset({"Completed", "Succeeded"})


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="flowstill", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--store",
        default=".flowstill/store",
        help="folder of the default store, store:// (default: %(default)s)",
    )
    state = argparse.ArgumentParser(add_help=False)
    state.add_argument(
        "--state",
        type=Path,
        default=Path(".flowstill/state"),
        help="where runs are remembered (default: %(default)s)",
    )
    one = commands.add_parser("run", parents=[shared, state], help="run DistillJobs and StudentRollouts to their end")
    one.add_argument("files", nargs="+", type=Path, metavar="FILE")
    one.add_argument("--fresh", action="store_true", help="forget earlier runs of the same names")
    commands.add_parser("get", parents=[state], help="print the state of every resource")
    store = commands.add_parser("store", help="fill the store").add_subparsers(dest="action", required=True)
    pushing = store.add_parser("push", parents=[shared], help="copy a folder into the store, atomically")
    pushing.add_argument("folder", type=Path)
    pushing.add_argument("uri", help="such as store://teachers/mine")
    pushing.add_argument("--force", action="store_true", help="replace other bytes that lie there")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit 0 completed, 1 rejected or failed, 2 bad input, 3 inconclusive, 130 interrupted."""
    options = parser().parse_args(argv)
    console = Console()
    try:
        if options.command == "run":
            return _run(options, console)
        if options.command == "get":
            states(console, LocalCluster(options.state).resources())
            return EXIT_COMPLETED
        return _push(options, console)
    except UserError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return EXIT_USAGE


def exit_code(phases: Sequence[str]) -> int:
    """The worst end decides; a failure weighs more than too little evidence."""
    if all(phase in GOOD for phase in phases):
        return EXIT_COMPLETED
    others = {phase for phase in phases if phase not in GOOD}
    return EXIT_INCONCLUSIVE if others == {"Inconclusive"} else EXIT_REJECTED


def _run(options: argparse.Namespace, console: Console) -> int:
    store = _store_uri(options.store)
    platform = local_platform(store)
    manifests = read_manifests(options.files, platform)
    ended = asyncio.run(run(manifests, options.state.absolute(), platform, Display(console), fresh=options.fresh))
    summarise(console, ended.resources, Locations(store, Path("/")))
    if ended.interrupted:
        console.print("\nStopped; the same command continues.", highlight=False)
        return EXIT_INTERRUPTED
    return exit_code([(r.get("status") or {}).get("phase", "Pending") for r in ended.resources])


def _push(options: argparse.Namespace, console: Console) -> int:
    # The store's functions take the default store from the environment, as every child does.
    os.environ["FLOWSTILL_STORE"] = _store_uri(options.store)
    ref = push(options.folder, options.uri, force=options.force)
    console.print(f"{ref.uri}@{ref.digest}", markup=False, highlight=False, soft_wrap=True)
    return EXIT_COMPLETED


def _store_uri(text: str) -> str:
    """A folder, or its file:// URI."""
    if text.startswith("file://"):
        return text
    if "://" in text:
        raise UserError(f"{text}: give a folder of this machine", field="--store")
    return f"file://{Path(text).absolute()}"


if __name__ == "__main__":
    sys.exit(main())
