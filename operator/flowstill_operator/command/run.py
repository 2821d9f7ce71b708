"""``flowstill run``: the same manifests as on a cluster, on this machine."""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flowstill.artifacts.uris import Locations
from flowstill_operator.children import Document
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.command import session
from flowstill_operator.command.display import Display, summarise
from flowstill_operator.command.exits import INTERRUPTED, exit_code
from flowstill_operator.command.files import Manifest, read_manifests
from flowstill_operator.command.outcome import Ending, conclude, ending
from flowstill_operator.command.shared import (
    Subparsers,
    add_json,
    add_state,
    add_store,
    check_writable,
    store_uri,
    subcommand,
)
from flowstill_operator.platform import Platform, local_platform
from flowstill_operator.suspension import PHASE as SUSPENDED

SUSPENDED_HINT = "Suspended by spec.suspend; without it the same command goes on."


def add_parser(commands: Subparsers) -> None:
    """Its flags."""
    command = subcommand(commands, "run", run, help="run DistillJobs and StudentRollouts to their end")
    add_store(command)
    add_state(command)
    add_json(command)
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--fresh", action="store_true", help="forget earlier runs of the same names")


def run(options: argparse.Namespace, console: Console) -> int:
    """All resources of all files."""
    platform = local_platform(store_uri(options.store))
    ended = to_the_end(read_manifests(options.files, platform), options, platform, console)
    return conclude(options, ended.exit_code, resources=ended.endings)


@dataclass(frozen=True)
class Ended:
    """How a run ended: the resources in the order of the manifests."""

    exit_code: int
    resources: list[Document]
    endings: list[Ending]


def to_the_end(
    manifests: Sequence[Manifest], options: argparse.Namespace, platform: Platform, console: Console
) -> Ended:
    """Run them, and say what came of it.

    Raises:
        UserError: the store cannot be written; or the state folder is used by another run, or cannot hold what happens:
            the next run continues.
    """
    check_writable(str(platform.default_store))
    state = options.state.absolute()
    found = asyncio.run(session.run(manifests, state, platform, Display(console), fresh=options.fresh))
    locations, cluster = Locations(platform.default_store, Path("/")), LocalCluster(state)
    logs = [cluster.logs(resource["metadata"]["uid"]) for resource in found.resources]
    summarise(console, found.resources, locations, logs)
    endings = [ending(one, locations, paths) for one, paths in zip(found.resources, logs, strict=True)]
    if found.interrupted:
        console.print("\nStopped; the same command continues.", highlight=False)
        return Ended(INTERRUPTED, found.resources, endings)
    phases = [one.phase for one in endings]
    if SUSPENDED in phases:
        console.print(f"\n{SUSPENDED_HINT}", highlight=False)
    return Ended(exit_code(phases), found.resources, endings)
