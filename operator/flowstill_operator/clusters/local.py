"""Effects on this machine: resources are files, Jobs are processes.

Everything is on disk before it is believed, so a run that is killed goes on where it was. A Job here follows
the same rules as on Kubernetes: ``podFailurePolicy``, ``backoffLimit``, ``activeDeadlineSeconds``.
"""

import asyncio
import contextlib
import fcntl
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from flowstill.api import API_VERSION, GROUP
from flowstill.api.children import ProgressReport
from flowstill.artifacts.atomic import storage_full, write_atomic
from flowstill.errors import StorageFull, UserError
from flowstill_operator.children import Document, is_finished, owned_by, read_child
from flowstill_operator.clusters.interface import AlreadyExists, Conflict, Gone, Kind, Refused
from flowstill_operator.clusters.processes import (
    NAMESPACE,
    PORT_ANNOTATION,
    ChildProcess,
    back_off,
    end_left_over,
    fetch_progress,
    new_attempt,
    pod_of,
    user_error,
)
from flowstill_operator.engine.loop import Key
from flowstill_operator.jobs import SPEC_ANNOTATION
from flowstill_operator.steps import Note

MAX_MESSAGE_BYTES = 4096


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
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, ChildProcess] = {}
        self._stopping = False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the state folder.

        Raises:
            UserError: another run is there, or there is no such folder to be had.
        """
        try:
            with storage_full("the state", self.state):
                self.state.mkdir(parents=True, exist_ok=True)
                lock = (self.state / "lock").open("w", encoding="ascii")
        except OSError as error:
            raise UserError(
                f"{self.state} cannot be written: {error.strerror}; give another", field="--state"
            ) from error
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                message = f"another flowstill run uses {self.state}; wait for it, or give another --state DIR"
                raise UserError(message, field="--state") from error
            yield

    def declare(self, kind: Kind, name: str, spec: Document, *, fresh: bool) -> Document:
        """The resource of that name: the one from an earlier run, or a new one.

        One that failed is tried again, from what its children left in their work folders: who gives the same
        command again has changed something else. Verdicts and successes stay.

        Raises:
            UserError: the same name has another spec, and ``fresh`` is False.
        """
        path = self._resource_path(kind, name)
        stored = _read(path)
        if stored is not None and not fresh:
            if stored["spec"] != spec:
                raise UserError(
                    f"{kind} {name} was run with another spec, and specs are immutable: "
                    "give it a new metadata.name, or start it anew with --fresh",
                    field="spec",
                )
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
                "creationTimestamp": _now(),
            },
            "spec": spec,
        }
        _write(path, resource)
        return resource

    def _reopened(self, path: Path, stored: Document) -> Document:
        """The resource as before its first look; of its Jobs only those with a good result, but every log."""
        uid = stored["metadata"]["uid"]
        for job_path in self.state.glob("jobs/*/job.json"):
            found = _read(job_path)
            if found is None or not owned_by(found["job"], uid) or not is_finished(found["job"]):
                continue
            result = read_child(found["job"], found["pods"], uid).result
            if result is None or result.outcome != "Succeeded":
                job_path.unlink()
        reopened = {key: value for key, value in stored.items() if key != "status"}
        _write(path, reopened)
        return reopened

    def resources(self) -> list[Document]:
        """Every resource in the state folder."""
        paths = sorted(self.state.glob("DistillJob/*.json")) + sorted(self.state.glob("StudentRollout/*.json"))
        return [resource for resource in (_read(path) for path in paths) if resource is not None]

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """One object, or None."""
        if kind == "Job":
            stored = _read(self._job_path(name))
            return None if stored is None else stored["job"]
        return _read(self._resource_path(kind, name))

    async def pods(self, job: Document) -> list[Document]:
        """The attempts of a Job, in the shape of pods."""
        stored = _read(self._job_path(job["metadata"]["name"]))
        return [] if stored is None else list(stored["pods"])

    async def progress(self, pod: Document) -> ProgressReport | None:
        """Ask the process itself."""
        port = (pod["metadata"].get("annotations") or {}).get(PORT_ANNOTATION)
        if port is None:
            return None
        return await asyncio.to_thread(fetch_progress, f"http://127.0.0.1:{port}/progress")

    async def running(self) -> list[tuple[Document, ProgressReport | None]]:
        """The Jobs that run now, each with what it says about itself."""
        found = []
        for name, process in list(self._processes.items()):
            stored = _read(self._job_path(name))
            if stored is not None:
                url = f"http://127.0.0.1:{process.attempt.port}/progress"
                found.append((stored["job"], await asyncio.to_thread(fetch_progress, url)))
        return found

    async def find_pods(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """None: only a training on several nodes has pods besides those of its Job, and this machine is one."""
        return []

    async def find_jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """None: they are looked for when somebody annotated a resource, and nobody can here."""
        return []

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """There is no such wish here."""
        raise Refused(f"Job {name} runs on this machine: what stops it is Ctrl-C")

    async def create(self, manifest: Document) -> None:
        """Write the Job down, then start it."""
        name = manifest["metadata"]["name"]
        path = self._job_path(name)
        if path.exists():
            raise AlreadyExists(f"Job {name} exists")
        metadata = {**manifest["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        self._keep(path, {"job": {**manifest, "metadata": metadata, "status": {}}, "pods": []})
        self._start(name)

    async def apply_deployment(self, manifest: Document) -> None:
        """There is none here."""
        raise Refused("there is no Deployment in local mode; remove spec.target")

    async def write_status(self, resource: Document, status: Document) -> None:
        """Replace the status on disk."""
        metadata = resource["metadata"]
        path = self._resource_path(resource["kind"], metadata["name"])
        stored = _read(path)
        if stored is None or stored["metadata"]["uid"] != metadata["uid"]:
            raise Gone(f"{resource['kind']} {metadata['name']} was replaced")
        version = stored["metadata"]["resourceVersion"]
        if version != metadata["resourceVersion"]:
            raise Conflict(f"{resource['kind']} {metadata['name']} was written meanwhile")
        newer = {**stored["metadata"], "resourceVersion": str(int(version) + 1)}
        self._keep(path, {**stored, "metadata": newer, "status": status})

    async def record_event(self, resource: Document, note: Note) -> None:
        """Hand the event to whoever shows it."""
        self.heard(resource, note)

    def resume(self, uids: Iterable[str]) -> None:
        """Start again the unfinished Jobs of those resources, after ending what a killed run left behind."""
        wanted = set(uids)
        for path in sorted(self.state.glob("jobs/*/job.json")):
            stored = _read(path)
            if stored is None or is_finished(stored["job"]):
                continue
            owners = {owner["uid"] for owner in stored["job"]["metadata"]["ownerReferences"]}
            if owners & wanted:
                grace = stored["job"]["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
                for process_file in path.parent.glob("attempt-*/process"):
                    end_left_over(process_file, grace)
                self._start(path.parent.name)

    async def stop(self) -> None:
        """SIGTERM every child and wait for it; the next run continues them."""
        self._stopping = True
        processes = [(process, self._grace(name)) for name, process in self._processes.items()]
        await asyncio.gather(*(process.stop(grace) for process, grace in processes))
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def kill(self) -> None:
        """SIGKILL every child."""
        for process in self._processes.values():
            process.kill()

    def log_of(self, job: str) -> Path | None:
        """The newest log of that Job."""
        logs = list((self.state / "jobs" / job).glob("attempt-*/log.txt"))
        return max(logs, key=lambda path: int(path.parent.name.removeprefix("attempt-")), default=None)

    def jobs(self, uid: str) -> list[Document]:
        """The Jobs of that resource, in the order of their start."""
        stored = [_read(path) for path in self.state.glob("jobs/*/job.json")]
        jobs = [one["job"] for one in stored if one is not None and owned_by(one["job"], uid)]
        return sorted(jobs, key=lambda job: str(job["metadata"]["creationTimestamp"]))

    def logs(self, uid: str) -> dict[str, Path]:
        """The newest log of every child of that resource that was started, by role, in the order of their start."""
        found: dict[str, Path] = {}
        for job in (job["metadata"] for job in self.jobs(uid)):
            log, role = self.log_of(job["name"]), job["labels"][f"{GROUP}/role"]
            if log is not None and f"-{role}-read-" not in job["name"]:
                found[role] = log
        return found

    def _keep(self, path: Path, document: Document) -> None:
        """Write it down, or end this run: what is not on disk has not happened."""
        try:
            _write(path, document)
        except StorageFull as error:
            self.broken(error)
            raise

    def _start(self, name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._run(name), name=f"job-{name}")
        task.add_done_callback(self._ended)
        self._tasks[name] = task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A Job whose own loop broke would never be finished."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.broken(error)

    async def _run(self, name: str) -> None:
        """All attempts of one Job, until it is finished or this run stops."""
        stored = _read(self._job_path(name))
        if stored is None:
            return
        job = stored["job"]
        spec_file = self._job_path(name).parent / "spec.json"
        write_atomic(spec_file, job["spec"]["template"]["metadata"]["annotations"][SPEC_ANNOTATION].encode())
        failed = int(job["status"].get("failed", 0))
        while not self._stopping:
            outcome = await self._attempt(name, spec_file)
            if outcome is None:
                return
            code, message = outcome
            if code == 0:
                self._finish(name, "Complete", "CompletionsReached", "", succeeded=1)
                return
            failed += 1
            if user_error(job, code):
                self._finish(name, "Failed", "PodFailurePolicy", f"exit code {code}{message}", failed=failed)
                return
            if failed > job["spec"].get("backoffLimit", 6):
                text = f"{failed} attempts failed, the last with exit code {code}{message}"
                self._finish(name, "Failed", "BackoffLimitExceeded", text, failed=failed)
                return
            self._update(name, status={"failed": failed, "active": 0})
            await asyncio.sleep(back_off(failed))

    async def _attempt(self, name: str, spec_file: Path) -> tuple[int, str] | None:
        """One attempt's exit code and where its log lies; None when the Job is finished or this run stops."""
        stored = _read(self._job_path(name))
        if stored is None:
            return None
        job, number = stored["job"], len(list(self._job_path(name).parent.glob("attempt-*")))
        attempt = new_attempt(self._job_path(name).parent / f"attempt-{number}")
        hint = f"; see {attempt.log}"
        try:
            process = await ChildProcess.start(job, spec_file, attempt)
        except (FileNotFoundError, PermissionError) as error:
            command = job["spec"]["template"]["spec"]["containers"][0]["command"][0]
            text = f"{command} cannot be started: {error.strerror}; install the extra that it belongs to"
            self._finish(name, "Failed", "CommandNotFound", text, failed=1)
            return None
        self._processes[name] = process
        self._update(name, pod=pod_of(name, number, attempt.port), status={"active": 1})
        try:
            code = await process.wait(job["spec"].get("activeDeadlineSeconds"))
            if code is None:
                await process.stop(self._grace(name))
        finally:
            del self._processes[name]
            attempt.process_file.unlink(missing_ok=True)
        message = attempt.termination_log.read_bytes()[:MAX_MESSAGE_BYTES].decode("utf-8", errors="replace")
        self._update(name, pod=pod_of(name, number, attempt.port, 143 if code is None else code, message))
        if code is None:
            self._finish(
                name,
                "Failed",
                "DeadlineExceeded",
                f"spec.runtime.activeDeadlineSeconds passed{hint}",
                failed=1,
            )
            return None
        return None if self._stopping and code != 0 and not user_error(job, code) else (code, hint)

    def _finish(self, name: str, kind: str, reason: str, message: str, **counts: int) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self._update(name, status={**counts, "active": 0, "conditions": [condition]})

    def _update(self, name: str, *, status: Document | None = None, pod: Document | None = None) -> None:
        stored = _read(self._job_path(name))
        if stored is None:
            return
        job, pods = stored["job"], stored["pods"]
        if pod is not None:
            pods = [p for p in pods if p["metadata"]["name"] != pod["metadata"]["name"]] + [pod]
        job = {**job, "status": {**job["status"], **(status or {})}}
        self._keep(self._job_path(name), {"job": job, "pods": pods})
        owner = job["metadata"]["ownerReferences"][0]
        self.changed(Key(owner["kind"], NAMESPACE, owner["name"]))

    def _grace(self, name: str) -> float:
        stored = _read(self._job_path(name))
        return (
            30.0
            if stored is None
            else float(stored["job"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])
        )

    def _job_path(self, name: str) -> Path:
        return self.state / "jobs" / name / "job.json"

    def _resource_path(self, kind: str, name: str) -> Path:
        return self.state / kind / f"{name}.json"


def _failed(resource: Document) -> bool:
    return (resource.get("status") or {}).get("phase") == "Failed"


def _read(path: Path) -> Document | None:
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return document


def _write(path: Path, document: Document) -> None:
    write_atomic(path, json.dumps(document, indent=1, ensure_ascii=False).encode())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
