"""Effects on this machine: resources are files, Jobs are processes.

Everything is on disk before it is believed, so a run that is killed goes on where it was. A Job here follows
the same rules as on Kubernetes: ``podFailurePolicy``, ``backoffLimit``, ``activeDeadlineSeconds``.
"""

import contextlib
import fcntl
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from flowstill.api import API_VERSION
from flowstill.api.children import ProgressReport
from flowstill.artifacts.atomic import storage_full
from flowstill.errors import UserError
from flowstill_operator.children import Document, is_finished, owned_by
from flowstill_operator.clusters.documents import keep, now, read, write
from flowstill_operator.clusters.immutable import with_spec
from flowstill_operator.clusters.interface import Conflict, Gone, Kind, Refused, Sample
from flowstill_operator.clusters.local_jobs import LocalJobs
from flowstill_operator.clusters.processes import NAMESPACE
from flowstill_operator.engine.loop import Key
from flowstill_operator.shards import read_job
from flowstill_operator.steps import Note

LOCK = "lock"
LOOKS, LOOK_SECONDS = 5, 0.05


class LocalCluster:
    """A Cluster in the folder ``state``.

    Attributes:
        changed: called when a child of that resource changed.
        heard: called with every event.
        broken: called when this run cannot go on: what happened could not be written down, or is a defect.
    """

    def __init__(
        self,
        state: Path,
        changed: Callable[[Key], None] = lambda key: None,
        heard: Callable[[Document, Note], None] = lambda resource, note: None,
        broken: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.state = state
        self.changed = changed
        self.heard = heard
        self.broken = broken
        self._jobs = LocalJobs(state / "jobs", self._job_changed, lambda error: self.broken(error))

    @contextlib.contextmanager
    def locked(self, names: Iterable[str] = ()) -> Iterator[None]:
        """Keep other runs out of the state folder.

        Args:
            names: ``KIND/NAME`` of what this run works on, for :meth:`at_work`.

        Raises:
            UserError: another run is there, or there is no such folder to be had.
        """
        try:
            with storage_full("the state", self.state):
                self.state.mkdir(parents=True, exist_ok=True)
                lock = (self.state / LOCK).open("ab", buffering=0)  # what it says is the holder's
        except OSError as error:
            raise UserError(
                f"{self.state} cannot be written: {error.strerror}; give another", field="--state"
            ) from error
        with lock as file:
            try:
                _lock(file)
            except OSError as error:
                message = f"another flowstill run uses {self.state}; wait for it, or give another --state DIR"
                raise UserError(message, field="--state") from error
            file.truncate(0)
            with storage_full("the state", self.state):
                file.write("\n".join(names).encode("ascii"))
            yield

    def at_work(self) -> frozenset[str]:
        """``KIND/NAME`` of the resources that a run works on now; those of a run that was stopped are none."""
        try:
            with (self.state / LOCK).open(encoding="ascii") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return frozenset(file.read().split())
        except OSError:
            pass
        return frozenset()

    def declare(self, kind: Kind, name: str, spec: Document, *, fresh: bool) -> Document:
        """The resource of that name: the one from an earlier run, or a new one.

        One that failed is tried again, from what its children left in their work folders: who gives the same
        command again has changed something else. Verdicts and successes stay.

        Raises:
            UserError: the same name has a spec that this one may not become, and ``fresh`` is False.
        """
        path = self._resource_path(kind, name)
        stored = read(path)
        if stored is not None and not fresh:
            if stored["spec"] != spec:
                stored = with_spec(stored, spec)
                write(path, stored)
            return self._reopened(path, stored) if _failed(stored) else stored
        resource: Document = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "uid": str(uuid.uuid4()),
                "generation": 1,
                "resourceVersion": "1",
                "creationTimestamp": now(),
            },
            "spec": spec,
        }
        write(path, resource)
        return resource

    def _reopened(self, path: Path, stored: Document) -> Document:
        """The resource as before its first look; of its Jobs only those with a good result, but every log."""
        uid = stored["metadata"]["uid"]
        for job_path, job, pods in self._jobs.stored():
            if not owned_by(job, uid) or not is_finished(job):
                continue
            result = read_job(job, pods, uid).result
            if result is None or result.outcome != "Succeeded":
                job_path.unlink()
        reopened = {key: value for key, value in stored.items() if key != "status"}
        write(path, reopened)
        return reopened

    def resources(self) -> list[Document]:
        """Every resource in the state folder."""
        paths = sorted(self.state.glob("DistillJob/*.json")) + sorted(self.state.glob("StudentRollout/*.json"))
        return [resource for resource in (read(path) for path in paths) if resource is not None]

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """One object, or None."""
        return self._jobs.get(name) if kind == "Job" else read(self._resource_path(kind, name))

    async def pods(self, job: Document) -> list[Document]:
        """The attempts of a Job, in the shape of pods."""
        return self._jobs.pods(job["metadata"]["name"])

    async def progress(self, pod: Document) -> ProgressReport | None:
        """Ask the process itself."""
        return await self._jobs.progress(pod)

    async def running(self) -> list[tuple[Document, ProgressReport | None]]:
        """The Jobs that run now, each with what it says about itself."""
        return await self._jobs.running()

    async def find_pods(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """None: only a training on several nodes has pods besides those of its Job, and this machine is one."""
        return []

    async def find_jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """None: they are looked for when somebody annotated a resource, and nobody can here."""
        return []

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """SIGTERM its process, and forget the Job when it has ended; logs stay."""
        self._jobs.delete(name, uid)

    async def known_jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """None: a Job here is a file beside its logs, and time to live is for what fills a cluster."""
        return []

    async def find_rollout(self, namespace: str, uid: str) -> Document | None:
        """None: nothing is served here, so nothing is watched."""
        return None

    async def known_deployment(self, namespace: str, name: str) -> Document | None:
        """None: there is none here."""
        return None

    async def create(self, manifest: Document) -> None:
        """Write the Job down, then start it."""
        self._jobs.create(manifest)

    async def apply_deployment(self, manifest: Document) -> None:
        """There is none here."""
        raise Refused("there is no Deployment in local mode; remove spec.target")

    async def measure(self, query: str) -> Sample:
        """None: there is nothing here to watch, as nothing is promoted."""
        return Sample(None, "there is no Prometheus in local mode")

    async def write_status(self, resource: Document, status: Document) -> None:
        """Replace the status on disk."""
        metadata = resource["metadata"]
        path = self._resource_path(resource["kind"], metadata["name"])
        stored = read(path)
        if stored is None or stored["metadata"]["uid"] != metadata["uid"]:
            raise Gone(f"{resource['kind']} {metadata['name']} was replaced")
        version = stored["metadata"]["resourceVersion"]
        if version != metadata["resourceVersion"]:
            raise Conflict(f"{resource['kind']} {metadata['name']} was written meanwhile")
        newer = {**stored["metadata"], "resourceVersion": str(int(version) + 1)}
        keep(self.broken, path, {**stored, "metadata": newer, "status": status})

    async def record_event(self, resource: Document, note: Note) -> None:
        """Hand the event to whoever shows it."""
        self.heard(resource, note)

    def resume(self, uids: Iterable[str]) -> None:
        """Start again the unfinished Jobs of those resources, after ending what a killed run left behind."""
        self._jobs.resume(uids)

    async def stop(self) -> None:
        """SIGTERM every child and wait for it; the next run continues them."""
        await self._jobs.stop()

    def kill(self) -> None:
        """SIGKILL every child."""
        self._jobs.kill()

    def log_of(self, job: str) -> Path | None:
        """The newest log of that Job."""
        return self._jobs.log_of(job)

    def jobs(self, uid: str) -> list[Document]:
        """The Jobs of that resource, in the order of their start."""
        return self._jobs.of(uid)

    def logs(self, uid: str) -> dict[str, Path]:
        """The newest log of every child of that resource that was started, by role, in the order of their start."""
        return self._jobs.logs(uid)

    def _job_changed(self, job: Document) -> None:
        owner = job["metadata"]["ownerReferences"][0]
        self.changed(Key(owner["kind"], NAMESPACE, owner["name"]))

    def _resource_path(self, kind: str, name: str) -> Path:
        return self.state / kind / f"{name}.json"


def _lock(file: IO[bytes]) -> None:
    """Alone, or an OSError; who only looks whether somebody holds it is waited for."""
    for _ in range(LOOKS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_SECONDS)
        else:
            return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _failed(resource: Document) -> bool:
    return (resource.get("status") or {}).get("phase") == "Failed"
