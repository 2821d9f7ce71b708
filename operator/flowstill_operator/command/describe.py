"""``flowstill describe`` and ``flowstill logs``: everything about one resource, and what its child says."""

import argparse
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Console

from flowstill_operator.command.exits import COMPLETED
from flowstill_operator.command.session import ENDS
from flowstill_operator.command.shared import Subparsers, subcommand
from flowstill_operator.command.where import add_where, place_of
from flowstill_operator.people.describing import describe
from flowstill_operator.people.next_steps import next_steps
from flowstill_operator.people.place import NoLogYet, Place, find, parse_name
from flowstill_operator.people.tables import uncut

ROLES = ("train", "parity", "rollouts", "judge")
WAIT_SECONDS = 2.0
NAME_HELP = "NAME, dj/NAME or sr/NAME"


def add_parser(commands: Subparsers) -> None:
    """Their flags."""
    one = subcommand(commands, "describe", run, help="print everything about one resource, and what to do next")
    one.add_argument("name", metavar="NAME", help=NAME_HELP)
    add_where(one)
    logs = subcommand(commands, "logs", run_logs, help="print the log of the child that runs, or ran last")
    logs.add_argument("name", metavar="NAME", help=NAME_HELP)
    logs.add_argument("--role", choices=ROLES, help="of that child instead")
    logs.add_argument("-f", "--follow", action="store_true", help="from its beginning, waited for, until its end")
    logs.add_argument("--tail", type=int, metavar="N", help="only the last N lines")
    add_where(logs)


def run(options: argparse.Namespace, console: Console) -> int:
    """Describe it."""
    place = place_of(options)
    resource = find(place, parse_name(options.name))
    around = place.surroundings(resource)
    steps = next_steps(resource, local=place.kind == "local", stopped=around.stopped, prefix=options.prog)
    describe(uncut(console), resource, around, steps, datetime.now(UTC))
    return COMPLETED


def run_logs(options: argparse.Namespace, console: Console) -> int:
    """Print its log as it is."""
    del console
    for chunk in _log(place_of(options), options):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    return COMPLETED


def _log(place: Place, options: argparse.Namespace) -> Iterator[bytes]:
    """The log; who follows it waits for its beginning too, and reads meanwhile what keeps it.

    Raises:
        NoLogYet: nobody waits, or the resource has ended, so that there never will be one.
    """
    said = None
    while True:
        resource = find(place, parse_name(options.name))
        try:
            yield from place.logs(resource, options.role, follow=options.follow, tail=options.tail)
            return
        except NoLogYet as error:
            if not options.follow or place.stopped(resource) or (resource.get("status") or {}).get("phase") in ENDS:
                raise
            if str(error) != said:
                said = str(error)
                print(f"waiting: {said}", file=sys.stderr, flush=True)
        time.sleep(WAIT_SECONDS)
