"""``flowstill get``: the state of every resource of this machine."""

import argparse

from rich.console import Console

from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.command.display import states
from flowstill_operator.command.exits import COMPLETED
from flowstill_operator.command.shared import Subparsers, add_state, subcommand


def add_parser(commands: Subparsers) -> None:
    """Its flags."""
    add_state(subcommand(commands, "get", run, help="print the state of every resource"))


def run(options: argparse.Namespace, console: Console) -> int:
    """One line per resource."""
    states(console, LocalCluster(options.state).resources())
    return COMPLETED
