"""Resources of the state folder of this machine."""

import getpass
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowstill.api.actions import Request
from flowstill.errors import UserError
from flowstill_operator.children import Document, is_finished, job_condition
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.distilljob.observe import TERMINAL as DISTILLJOB_ENDS
from flowstill_operator.engine.loop import ResourceKind
from flowstill_operator.jobs import ROLE_LABEL
from flowstill_operator.people.place import ChildView, NoLogYet, Surroundings
from flowstill_operator.rollout.observe import TERMINAL as ROLLOUT_ENDS
from flowstill_operator.suspension import PHASE as SUSPENDED

POLL_SECONDS = 0.5
CHUNK = 65_536
RESTS = DISTILLJOB_ENDS | ROLLOUT_ENDS | {SUSPENDED}
"""Phases in which nobody has to work on a resource."""


@dataclass(frozen=True)
class Local:
    """A Place in the folder ``state``."""

    state: Path

    @property
    def kind(self) -> Literal["local"]:
        """Not a cluster."""
        return "local"

    @property
    def title(self) -> str:
        """The folder."""
        return str(self.state)

    @property
    def all_namespaces(self) -> bool:
        """There are none."""
        return False

    def resources(self) -> list[Document]:
        """All resources, DistillJobs first."""
        return LocalCluster(self.state).resources()

    def get(self, kind: ResourceKind, name: str) -> Document | None:
        """One resource, or None."""
        mine = (r for r in self.resources() if r["kind"] == kind and r["metadata"]["name"] == name)
        return next(mine, None)

    def surroundings(self, resource: Document) -> Surroundings:
        """Its children with their logs; events were shown when they happened."""
        logs = LocalCluster(self.state).logs(resource["metadata"]["uid"])
        stopped = self.stopped(resource)
        views = [
            ChildView(
                job["metadata"]["name"],
                job["metadata"]["labels"][ROLE_LABEL],
                "Stopped" if stopped and not is_finished(job) else job_state(job),
            )
            for job in self._jobs(resource)
        ]
        return Surroundings(tuple(
            ChildView(view.name, view.role, view.state, (str(logs[view.role]),) if view.role in logs else ())
            for view in views
        ), stopped=stopped)  # fmt: skip

    def logs(self, resource: Document, role: str | None, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        """The newest log of the child that runs, else of the one that was started last."""
        cluster = LocalCluster(self.state)
        found = cluster.logs(resource["metadata"]["uid"])
        unfinished = [job["metadata"]["labels"][ROLE_LABEL] for job in self._jobs(resource) if not is_finished(job)]
        chosen = role or next((one for one in unfinished if one in found), next(reversed(found), None))
        if chosen is None or chosen not in found:
            had = ", ".join(found) or "none was started"
            raise NoLogYet(f"{resource['metadata']['name']} has no log of {role or 'a child'}; children: {had}")
        yield from _read(found[chosen], tail)
        if follow:
            yield from self._follow(found[chosen], resource, chosen)

    def stopped(self, resource: Document) -> bool:
        """Whether no run of this state folder has it among its resources."""
        phase = (resource.get("status") or {}).get("phase", "Pending")
        name = f"{resource['kind']}/{resource['metadata']['name']}"
        return phase not in RESTS and name not in LocalCluster(self.state).at_work()

    def who(self) -> str:
        """The user of this machine."""
        return getpass.getuser()

    def ask(self, resource: Document, request: Request) -> None:
        """A command of this machine is stopped and given again; nobody watches annotations here."""
        instead = {"abort": "press Ctrl-C where it runs", "retry": "give the same `flowstill run` again"}
        fix = instead.get(request.action, "nothing is promoted from here, so there is nothing to approve")
        raise UserError(
            f"{request.action} is for a cluster, and {self.state} is of this machine: {fix}", field="--state"
        )

    def last_job(self, resource: Document) -> Document | None:
        """The child that was started last, or None."""
        return next(reversed(self._jobs(resource)), None)

    def _jobs(self, resource: Document) -> list[Document]:
        return LocalCluster(self.state).jobs(resource["metadata"]["uid"])

    def _follow(self, path: Path, resource: Document, role: str) -> Iterator[bytes]:
        """What is added, until the child has ended, or was stopped."""
        with path.open("rb") as file:
            file.seek(0, 2)
            while True:
                ended = self.stopped(resource) or all(
                    is_finished(job) for job in self._jobs(resource) if job["metadata"]["labels"][ROLE_LABEL] == role
                )
                while chunk := file.read(CHUNK):
                    yield chunk
                if ended:
                    return
                time.sleep(POLL_SECONDS)


def job_state(job: Document) -> str:
    """In a word, and why it failed."""
    failed = job_condition(job, "Failed")
    if failed is not None:
        return f"Failed: {failed.get('reason') or 'no reason'}"
    if job_condition(job, "Complete") is not None:
        return "Succeeded"
    if job["metadata"].get("deletionTimestamp"):
        return "Ending"
    if job["spec"].get("suspend"):
        return "Suspended"
    return "Active" if job.get("status", {}).get("active") else "Waiting"


def _read(path: Path, tail: int | None) -> Iterator[bytes]:
    if tail is None:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
        return
    lines = path.read_bytes().splitlines(keepends=True)
    yield b"".join(lines[-tail:] if tail else [])
