"""``flowstill``: distill a policy, run manifests on this machine, look at them, and fill the store."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from flowstill.api.fields import StatusRef
from flowstill.artifacts.stores import push
from flowstill.artifacts.uris import Locations
from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.command.delivery import check_output, deliver
from flowstill_operator.command.display import Display, states, summarise
from flowstill_operator.command.distill import Order, add_arguments, check_name, order, write_manifest
from flowstill_operator.command.files import Manifest, manifest_of, read_manifests
from flowstill_operator.command.session import run
from flowstill_operator.platform import Platform, local_platform

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
    distilling = commands.add_parser("distill", parents=[shared, state], help="distill a one-step student of a policy")
    add_arguments(distilling)
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
        if options.command == "distill":
            return _distill(options, console)
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
    platform = local_platform(_store_uri(options.store))
    code, _ = _to_the_end(read_manifests(options.files, platform), options, platform, console)
    return code


def _to_the_end(
    manifests: Sequence[Manifest], options: argparse.Namespace, platform: Platform, console: Console
) -> tuple[int, list[Document]]:
    """The exit code, and the resources as they ended."""
    ended = asyncio.run(run(manifests, options.state.absolute(), platform, Display(console), fresh=options.fresh))
    summarise(console, ended.resources, Locations(platform.default_store, Path("/")))
    if ended.interrupted:
        console.print("\nStopped; the same command continues.", highlight=False)
        return EXIT_INTERRUPTED, ended.resources
    phases = [(resource.get("status") or {}).get("phase", "Pending") for resource in ended.resources]
    return exit_code(phases), ended.resources


def _distill(options: argparse.Namespace, console: Console) -> int:
    store = _store_uri(options.store)
    asked = order(options, store)
    if options.dry_run:
        console.print(asked.text, end="", markup=False, highlight=False, soft_wrap=True)
        return EXIT_COMPLETED
    return (
        _apply(asked, console) if asked.output is None else _distill_here(asked, asked.output, options, store, console)
    )


def _distill_here(asked: Order, output: Path, options: argparse.Namespace, store: str, console: Console) -> int:
    platform = local_platform(store)
    manifest = manifest_of(asked.document, platform)
    check_output(output, asked.spec)
    check_name(manifest, options.state, fresh=options.fresh)
    write_manifest(asked.manifest, asked.text)
    code, [resource] = _to_the_end([manifest], options, platform, console)
    if code == EXIT_COMPLETED:
        os.environ["FLOWSTILL_STORE"] = store
        deliver(StatusRef.model_validate(resource["status"]["student"]), output)
        console.print(f"  output: {output}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"  manifest: {asked.manifest}", markup=False, highlight=False, soft_wrap=True)
    return code


def _apply(asked: Order, console: Console) -> int:
    try:
        # Only here: a machine that distills by itself needs no Kubernetes client.
        from flowstill_operator.command.apply import apply, with_namespace
    except ModuleNotFoundError as error:
        raise UserError(f"{error}: install flowstill[operator]", field="--runtime kubernetes") from error
    placed = replace(asked, document=with_namespace(asked.document))
    write_manifest(placed.manifest, placed.text)
    applied = asyncio.run(apply(placed.document))
    for line in (
        f"DistillJob {applied.namespace}/{placed.name} is applied to {applied.server}",
        f"  manifest: {placed.manifest}",
        f"  kubectl --namespace {applied.namespace} get dj {placed.name} --watch",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return EXIT_COMPLETED


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
