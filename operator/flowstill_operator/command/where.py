"""Flags that say where the resources are, and the place that they mean."""

import argparse
from pathlib import Path

from flowstill.errors import UserError
from flowstill_operator.people.local import Local
from flowstill_operator.people.place import Place

STATE = Path(".flowstill/state")
REMOTE_FLAGS = ("namespace", "all_namespaces", "context", "kubeconfig")


def add_where(command: argparse.ArgumentParser, *, lists: bool = False) -> None:
    """``--state``, or ``--namespace`` and the rest of a cluster's; ``lists``: of every namespace too."""
    group = command.add_argument_group(
        "where", f"a cluster, unless --state is given or this folder has {STATE} and no flag of a cluster is given"
    )
    group.add_argument("--state", type=Path, help="folder in which `flowstill run` and `flowstill distill` remember")
    group.add_argument("-n", "--namespace", help="default: that of the kubeconfig's context")
    if lists:
        group.add_argument("-A", "--all-namespaces", action="store_true", help="resources of every namespace")
    group.add_argument("--context", help="of the kubeconfig; default: its current one")
    group.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, else ~/.kube/config")


def place_of(options: argparse.Namespace) -> Place:
    """The place that the flags mean.

    Raises:
        UserError: they contradict each other, there is no such folder, or no cluster can be reached.
    """
    remote = [f"--{name.replace('_', '-')}" for name in REMOTE_FLAGS if getattr(options, name, None)]
    if options.state is not None:
        if remote:
            raise UserError(f"--state is of this machine, and {remote[0]} of a cluster: give one", field="--state")
        if not options.state.is_dir():
            raise UserError(f"{options.state} is no folder in which something was run", field="--state")
        return Local(options.state)
    if not remote and not getattr(options, "cluster", False) and STATE.is_dir():
        return Local(STATE)
    try:
        # Only here: a machine that runs everything by itself needs no Kubernetes client.
        from flowstill_operator.people.remote import Remote
    except ModuleNotFoundError as error:
        raise UserError(f"{error}: install flowstill[operator], or give --state") from error
    every = getattr(options, "all_namespaces", False)
    return Remote(options.context, options.kubeconfig, options.namespace, every=every)
