"""``flowstill report``: the report of a rollout, its bytes checked against the digest in the status."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from rich.console import Console

from flowstill.artifacts.stores import fetch
from flowstill.errors import UserError
from flowstill_operator.command.exits import COMPLETED
from flowstill_operator.command.shared import Subparsers, say, store_uri, subcommand
from flowstill_operator.command.where import add_where, place_of
from flowstill_operator.people.place import find, parse_name
from flowstill_operator.people.reports import REPORT, how_to_read
from flowstill_operator.people.requests import evidence_of

LOCAL_STORE = ".flowstill/store"


def add_parser(commands: Subparsers) -> None:
    """Its flags."""
    command = subcommand(commands, "report", run, help="find the report of a rollout, or copy it")
    command.add_argument("name", metavar="NAME", help="NAME or sr/NAME")
    command.add_argument(
        "--store",
        help="the default store as this machine sees it, a folder or s3://BUCKET[/PATH] "
        f"(default: {LOCAL_STORE} for what was run here)",
    )
    command.add_argument("-o", "--output", help="copy it to that file; -: to standard output")
    add_where(command)


def run(options: argparse.Namespace, console: Console) -> int:
    """Check it, and print its path or copy it."""
    place = place_of(options)
    resource = find(place, parse_name(options.name))
    if resource["kind"] != "StudentRollout":
        raise UserError(f"a {resource['kind']} has no report; its fidelity is in its status", field="NAME")
    evidence = evidence_of(resource)
    store = options.store or (LOCAL_STORE if place.kind == "local" else None)
    if store is None and not evidence.uri.startswith("file://"):
        raise UserError(how_to_read(resource, evidence.uri, place.last_job(resource)), reason="StoreUnreachable")
    if store is not None:
        # The store's functions take the default store from the environment, as every child does.
        os.environ["FLOWSTILL_STORE"] = store_uri(store, buckets=True)
    path = fetch(evidence, "status.evidence") / REPORT
    if not path.is_file():
        raise UserError(
            f"{path.parent} has no {REPORT}: the evaluator that judged it wrote none", field="status.evidence"
        )
    if options.output == "-":
        sys.stdout.buffer.write(path.read_bytes())
    elif options.output is None:
        say(console, str(path))
    else:
        try:
            shutil.copyfile(path, Path(options.output))
        except OSError as error:
            raise UserError(f"{options.output} cannot be written: {error.strerror}", field="--output") from error
        say(console, f"{options.output}")
    return COMPLETED
