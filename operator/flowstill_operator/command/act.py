"""``flowstill approve``, ``abort`` and ``retry``: annotations that the operator acts on (docs/operations.md)."""

import argparse
import time
from datetime import UTC, datetime
from functools import partial

from rich.console import Console

from flowstill.api.actions import MAX_REASON, Action, ActionName, Request
from flowstill.api.fields import StatusRef
from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.command.exits import COMPLETED, REJECTED
from flowstill_operator.command.shared import Subparsers, say, subcommand
from flowstill_operator.command.where import add_where, place_of
from flowstill_operator.engine.loop import ResourceKind
from flowstill_operator.people.place import SHORT, Place, find, parse_name
from flowstill_operator.people.requests import check, evidence_of

HELP: dict[ActionName, str] = {
    "approve": "let a rollout that awaits approval serve its student",
    "abort": "stop a resource, and put back the policy that it replaced",
    "retry": "begin again what failed, or was aborted or rolled back",
}
WAIT_SECONDS, POLL_SECONDS = 15.0, 0.5


def add_parser(commands: Subparsers) -> None:
    """Their flags."""
    for action, text in HELP.items():
        command = subcommand(commands, action, partial(run, action), help=text)
        command.add_argument(
            "name", metavar="NAME", help="sr/NAME" if action == "approve" else "NAME, dj/NAME or sr/NAME"
        )
        command.add_argument("--reason", required=True, help="why; it is recorded with your name")
        if action == "approve":
            command.add_argument(
                "--evidence", metavar="DIGEST", help="refuse when the evidence is not the one you have seen"
            )
        command.add_argument("--no-wait", action="store_true", help="do not wait for the operator's answer")
        add_where(command)


def run(action: ActionName, options: argparse.Namespace, console: Console) -> int:
    """Ask, and say what became of it."""
    place = place_of(options)
    resource = find(place, parse_name(options.name))
    reason = " ".join(options.reason.split())
    if not 0 < len(reason) <= MAX_REASON:
        raise UserError(f"say why, in at most {MAX_REASON} characters: it is recorded with your name", field="--reason")
    check(action, resource)
    evidence: StatusRef | None = evidence_of(resource) if action == "approve" else None
    if evidence is not None and options.evidence not in (None, evidence.digest):
        raise UserError(
            f"the evidence is {evidence.digest}, not {options.evidence}: look at it first", field="--evidence"
        )
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    request = Request(action, evidence.digest if evidence is not None else now, place.who(), reason)
    if request.recorded_in([Action.model_validate(a) for a in (resource.get("status") or {}).get("actions") or []]):
        raise UserError("you said the same before, and it was acted on: give other words", field="--reason")
    place.ask(resource, request)
    name = f"{SHORT[resource['kind']]}/{resource['metadata']['name']}"
    say(console, f"{name}: {action} asked for by {request.whose}")
    if options.no_wait:
        return COMPLETED
    return _answer(place, resource, request, f"{options.prog} get {name} --watch", console)


def _answer(place: Place, resource: Document, request: Request, follow: str, console: Console) -> int:
    """Wait until the operator has recorded it."""
    kind: ResourceKind = resource["kind"]
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        found = place.get(kind, resource["metadata"]["name"])
        status = (found or {}).get("status") or {}
        actions = [Action.model_validate(action) for action in status.get("actions") or []]
        mine = next((action for action in actions if request.recorded_in([action])), None)
        if mine is not None and mine.refused:
            say(console, f"  refused: {mine.refused}")
            return REJECTED
        if mine is not None:
            say(console, f"  {status.get('phase')}: {status.get('message', '')}")
            return COMPLETED
        time.sleep(POLL_SECONDS)
    say(console, f"  not acted on yet; it is when pods of before are gone and the operator runs: {follow}")
    return COMPLETED
