"""The only way to effects: what a cluster must do for the reconcile loop."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from flowstill.api.children import ProgressReport
from flowstill.errors import FlowstillError
from flowstill_operator.children import Document
from flowstill_operator.steps import Note

Kind = Literal["DistillJob", "StudentRollout", "Job", "Service", "Deployment"]
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
"""Of a pod: its Job."""


@dataclass(frozen=True)
class Sample:
    """The value of a query; None when there is no number, and then why. ``refused``: it is none that can be asked."""

    value: float | None
    why: str = ""
    refused: bool = False


class AlreadyExists(FlowstillError):
    """An object of that name exists."""


class Conflict(FlowstillError):
    """Somebody wrote the object since it was observed: observe again."""


class Refused(FlowstillError):
    """The API says that this object can never be valid."""

    reason = "Refused"


class FieldOwned(FlowstillError):
    """Another manager owns the field; it is never taken by force."""

    reason = "FieldOwned"


class Gone(FlowstillError):
    """The object was deleted meanwhile."""

    reason = "TargetMissing"


class Unavailable(FlowstillError):
    """It did not answer as it should, which may pass.

    Attributes:
        retry_after: it asks not to be asked again for so long (s).
    """

    retry_after: float = 0.0


class Reads(Protocol):
    """What observing needs."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """One object, or None."""

    async def pods(self, job: Document) -> list[Document]:
        """The pods of a Job."""

    async def find_pods(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """The pods with those labels, as they are now."""

    async def progress(self, pod: Document) -> ProgressReport | None:
        """What a running child says about itself; None when it does not answer."""

    async def find_jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """The Jobs with those labels, as they are now."""

    async def known_jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """The same, as far as they were heard of: nobody is asked, and what is missing is heard of later."""

    async def known_deployment(self, namespace: str, name: str) -> Document | None:
        """That Deployment as it was heard of, if it may be a target; nobody is asked."""

    async def find_rollout(self, namespace: str, uid: str) -> Document | None:
        """The StudentRollout with that UID, as it is now; None when there is none."""

    async def measure(self, query: str) -> Sample:
        """The value now of that Prometheus query; no number, and why, whatever goes wrong."""


class Cluster(Reads, Protocol):
    """Kubernetes, or this machine. Everything else that is raised is worth another attempt."""

    async def create(self, manifest: Document) -> None:
        """Create a Job or a Service. Raises AlreadyExists, Refused."""

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete that very Job, which stays until its pods are gone; one that is gone or another one is no error."""

    async def apply_deployment(self, manifest: Document) -> None:
        """Server-side apply as field manager ``flowstill``, never forced.

        Raises Conflict (also when it was deleted), FieldOwned, Refused, Gone.
        """

    async def write_status(self, resource: Document, status: Document) -> None:
        """Replace the status of the resource as it was observed. Raises Conflict, Gone, Refused."""

    async def record_event(self, resource: Document, note: Note) -> None:
        """Post a Kubernetes event about the resource; a repeated one is no error."""
