"""``flowstill get``: the state of every resource, of a cluster or of this machine."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.command.exits import COMPLETED
from flowstill_operator.command.shared import Subparsers, say, subcommand
from flowstill_operator.command.where import add_where, place_of
from flowstill_operator.people.place import SHORT, Place, find, parse_name
from flowstill_operator.people.tables import states, uncut

WATCH_SECONDS = 2.0


def add_parser(commands: Subparsers) -> None:
    """Its flags."""
    command = subcommand(commands, "get", run, help="print the state of every resource, or of those named")
    command.add_argument("names", nargs="*", metavar="NAME", help="NAME, dj/NAME or sr/NAME; default: all")
    command.add_argument("-o", "--output", choices=("json", "yaml", "name"), help="instead of a table")
    command.add_argument("-w", "--watch", action="store_true", help="again whenever something changes, until Ctrl-C")
    add_where(command, lists=True)


def run(options: argparse.Namespace, console: Console) -> int:
    """A line per resource."""
    if options.watch and options.output:
        raise UserError("--watch shows a table: leave out --output", field="--watch")
    place = place_of(options)
    if options.names and place.all_namespaces:
        raise UserError("a name is of one namespace: give --namespace instead", field="--all-namespaces")
    if options.watch:
        _watch(place, options.names, console)
    elif options.output:
        _write(_found(place, options.names), options.output, single=len(options.names) == 1)
    else:
        _print(place, _found(place, options.names), console)
    return COMPLETED


def _found(place: Place, names: Sequence[str]) -> list[Document]:
    return [find(place, parse_name(name)) for name in names] if names else place.resources()


def _print(place: Place, resources: Sequence[Document], console: Console) -> None:
    if not resources:
        say(Console(stderr=True), f"nothing in {place.title}")
        return
    whole = uncut(console)
    whole.print(_table(place, resources, whole.width))


def _table(place: Place, resources: Sequence[Document], width: int) -> Table:
    return states(resources, datetime.now(UTC), width=width, namespaces=place.all_namespaces, stopped=place.stopped)


def _watch(place: Place, names: Sequence[str], console: Console) -> None:
    """On a terminal the table is drawn anew; elsewhere the resources that changed are printed again."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                found, width = _found(place, names), console.width
                live.update(_table(place, found, width), refresh=True)
                time.sleep(WATCH_SECONDS)
    before: dict[str, Any] = {}
    while True:
        now = {resource["metadata"]["uid"]: resource for resource in _found(place, names)}
        changed = [
            r for uid, r in now.items() if before.get(uid, {}).get("status") != r.get("status") or uid not in before
        ]
        if changed:
            _print(place, changed, console)
        before = now
        time.sleep(WATCH_SECONDS)


def _write(resources: Sequence[Document], output: str, *, single: bool) -> None:
    """As ``kubectl get -o`` does: one resource by itself, several as a List."""
    if output == "name":
        text = "".join(f"{SHORT[resource['kind']]}/{resource['metadata']['name']}\n" for resource in resources)
    else:
        whole: Document = {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": list(resources)}
        document = resources[0] if single else whole
        text = (
            f"{json.dumps(document, indent=2, ensure_ascii=False)}\n"
            if output == "json"
            else yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        )
    sys.stdout.write(text)
