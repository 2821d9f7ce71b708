"""What the subcommands have in common: how one is added, and where the store and the state lie."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from flowstill.artifacts.manifest import PARITY_THRESHOLDS
from flowstill.artifacts.uris import local_path
from flowstill.errors import UserError
from flowstill_operator.command.exits import table

THRESHOLDS = "{fp32:g} for fp32, {fp16:g} for fp16 and bf16".format(**PARITY_THRESHOLDS)
"""Of parity, where none is given; for help texts."""

type Subparsers = argparse._SubParsersAction[Any]
type Action = Callable[[argparse.Namespace, Console], int]
"""What a subcommand does: the parsed options, where it talks to people, and the exit code that it returns."""


def subcommand(commands: Subparsers, name: str, action: Action, *, help: str) -> argparse.ArgumentParser:
    """Add one to the command line; ``cli.main`` calls its action.

    Args:
        commands: of the command line, or of a command that has its own.
        name: as it is typed.
        action: what it does.
        help: a line without a full stop.
    """
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=help, epilog=table(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.set_defaults(action=action)
    return made


def add_json(command: argparse.ArgumentParser) -> None:
    """``--json``; the action ends with :func:`flowstill_operator.command.outcome.conclude`."""
    command.add_argument(
        "--json", action="store_true", help="how it ended, as one JSON document on standard output; all else on error"
    )


def say(console: Console, text: str) -> None:
    """A line as it is: neither markup, nor colours, nor folded."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def add_runtime(command: argparse.ArgumentParser) -> None:
    """``--runtime``."""
    command.add_argument(
        "--runtime",
        type=_place,
        default="local",
        metavar="local|kubernetes",
        help="on this machine, or by the operator of the kubeconfig's cluster (default: %(default)s)",
    )


def check_place(options: argparse.Namespace, result: str, *, on_cluster: bool) -> None:
    """Refuse what means nothing where it shall run.

    Args:
        options: with ``output``, ``fresh`` and ``namespace``.
        result: what ``--output`` gets, in a word.
        on_cluster: whether a cluster's operator runs it.

    Raises:
        UserError: a flag belongs to the other place; it is named.
    """
    if on_cluster and options.output is not None:
        raise UserError(f"the {result} stays in the cluster's store; leave it out", field="--output")
    if on_cluster and options.fresh:
        raise UserError("a resource of a cluster cannot be run anew; give another --name", field="--fresh")
    if not on_cluster and options.namespace is not None:
        raise UserError("it belongs to --runtime kubernetes; leave it out", field="--namespace")


def _place(text: str) -> str:
    if text not in ("local", "kubernetes"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: no GPUs are rented for you; use local (this machine) or kubernetes (your own cluster)"
        )
    return text


def add_store(command: argparse.ArgumentParser, *, buckets: bool = False) -> None:
    """``--store``."""
    also = " or s3://BUCKET[/PATH]" if buckets else ""
    command.add_argument(
        "--store",
        default=".flowstill/store",
        help=f"folder{also} of the default store, store:// (default: %(default)s)",
    )


def add_state(command: argparse.ArgumentParser) -> None:
    """``--state``."""
    command.add_argument(
        "--state",
        type=Path,
        default=Path(".flowstill/state"),
        help="where runs are remembered (default: %(default)s)",
    )


def check_writable(store: str) -> None:
    """Refuse, before the first child, a default store of this machine in which nothing can be kept.

    Raises:
        UserError: the folder, or the one that it will be made in, cannot be written.
    """
    folder = local_path(store)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written" if there.is_dir() else "is no folder"
        raise UserError(f"{folder} cannot be the store: {there} {why}; give another", field="--store")


def store_uri(text: str, *, buckets: bool = False) -> str:
    """URI of the default store, from a folder or its file:// URI; with ``buckets`` also from s3://BUCKET[/PATH].

    Raises:
        UserError: it is no folder of this machine.
    """
    if text.startswith("file://") or (buckets and text.startswith("s3://")):
        return text
    if "://" in text:
        where = "a folder of this machine, or s3://BUCKET[/PATH]" if buckets else "a folder of this machine"
        raise UserError(f"{text}: give {where}", field="--store")
    return f"file://{Path(text).resolve()}"
