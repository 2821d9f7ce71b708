"""``flowstill run``: the same manifests as on a cluster, on this machine."""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from flowstill.artifacts.uris import Locations
from flowstill_operator.children import Document
from flowstill_operator.command import session
from flowstill_operator.command.display import Display, summarise
from flowstill_operator.command.exits import INTERRUPTED, exit_code
from flowstill_operator.command.files import Manifest, read_manifests
from flowstill_operator.command.shared import Subparsers, add_state, add_store, store_uri, subcommand
from flowstill_operator.platform import Platform, local_platform
from flowstill_operator.suspension import PHASE as SUSPENDED

SUSPENDED_HINT = "Suspended by spec.suspend; without it the same command goes on."


def add_parser(commands: Subparsers) -> None:
    """Its flags."""
    command = subcommand(commands, "run", run, help="run DistillJobs and StudentRollouts to their end")
    add_store(command)
    add_state(command)
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--fresh", action="store_true", help="forget earlier runs of the same names")


def run(options: argparse.Namespace, console: Console) -> int:
    """All resources of all files."""
    platform = local_platform(store_uri(options.store))
    code, _ = to_the_end(read_manifests(options.files, platform), options, platform, console)
    return code


def to_the_end(
    manifests: Sequence[Manifest], options: argparse.Namespace, platform: Platform, console: Console
) -> tuple[int, list[Document]]:
    """The exit code, and the resources as they ended."""
    display = Display(console)
    ended = asyncio.run(session.run(manifests, options.state.absolute(), platform, display, fresh=options.fresh))
    summarise(console, ended.resources, Locations(platform.default_store, Path("/")))
    if ended.interrupted:
        console.print("\nStopped; the same command continues.", highlight=False)
        return INTERRUPTED, ended.resources
    phases = [(resource.get("status") or {}).get("phase", "Pending") for resource in ended.resources]
    if SUSPENDED in phases:
        console.print(f"\n{SUSPENDED_HINT}", highlight=False)
    return exit_code(phases), ended.resources
