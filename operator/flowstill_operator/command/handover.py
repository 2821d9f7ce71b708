"""``--runtime kubernetes``: hand a resource to the cluster's operator, and say where it is."""

import argparse
import asyncio
from pathlib import Path

from rich.console import Console

from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.command.exits import COMPLETED
from flowstill_operator.command.flags import as_text, write_manifest
from flowstill_operator.command.outcome import conclude
from flowstill_operator.command.shared import say

SHORT = {"DistillJob": "dj", "StudentRollout": "sr"}


def hand_over(document: Document, manifest: Path, options: argparse.Namespace, console: Console) -> int:
    """Keep the manifest, and apply it through the user's kubeconfig.

    Raises:
        UserError: there is no Kubernetes client, no kubeconfig or no cluster, or it says no; with the fix.
    """
    try:
        # Only here: a machine that runs everything by itself needs no Kubernetes client.
        from flowstill_operator.command.apply import apply, with_namespace
    except ModuleNotFoundError as error:
        raise UserError(f"{error}: install flowstill[operator]", field="--runtime kubernetes") from error
    placed = with_namespace(document)
    write_manifest(manifest, as_text(placed, options.command))
    applied = asyncio.run(apply(placed))
    say(console, f"{applied.kind} {applied.namespace}/{applied.name} is applied to {applied.server}")
    say(console, f"  manifest: {manifest}")
    say(console, f"  kubectl --namespace {applied.namespace} get {SHORT[applied.kind]} {applied.name} --watch")
    return conclude(options, COMPLETED, manifest=str(manifest), applied=applied)
