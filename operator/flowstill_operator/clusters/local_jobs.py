"""Jobs as processes of this machine.

Everything is on disk before it is believed, so a run that is killed goes on where it was. A Job here follows the same
rules as on Kubernetes: ``podFailurePolicy``, ``backoffLimit``, ``backoffLimitPerIndex``, ``activeDeadlineSeconds``.
The pods of an Indexed Job run one after another: each uses the whole machine, and what one measures the others would
disturb.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowstill.api import GROUP
from flowstill.api.children import ProgressReport
from flowstill.artifacts.atomic import write_atomic
from flowstill_operator.children import Document, is_finished, owned_by
from flowstill_operator.clusters.documents import keep, now, read
from flowstill_operator.clusters.interface import AlreadyExists
from flowstill_operator.clusters.processes import (
    PORT_ANNOTATION,
    ChildProcess,
    back_off,
    end_left_over,
    fetch_progress,
    new_attempt,
    pod_of,
    user_error,
)
from flowstill_operator.jobs import SPEC_ANNOTATION
from flowstill_operator.ranks import completion_index, exit_code
from flowstill_operator.shards import is_sharded

MAX_MESSAGE_BYTES = 4096


@dataclass(frozen=True)
class _Ended:
    """How an attempt ended. ``code`` None: its Job's deadline passed."""

    code: int | None
    log: Path


class LocalJobs:
    """The Jobs of a state folder.

    Attributes:
        folder: that of all Jobs.
        changed: called with a Job that changed.
        broken: called when this run cannot go on: what happened could not be written down, or is a defect.
    """

    def __init__(
        self, folder: Path, changed: Callable[[Document], None], broken: Callable[[BaseException], None]
    ) -> None:
        self.folder = folder
        self.changed = changed
        self.broken = broken
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, ChildProcess] = {}
        self._deletions: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    def get(self, name: str) -> Document | None:
        """The Job, or None."""
        stored = read(self._path(name))
        return None if stored is None else stored["job"]

    def pods(self, name: str) -> list[Document]:
        """The attempts of a Job, in the shape of pods."""
        stored = read(self._path(name))
        return [] if stored is None else list(stored["pods"])

    def stored(self) -> Iterator[tuple[Path, Document, list[Document]]]:
        """Every Job: its file, itself and its pods."""
        for path in sorted(self.folder.glob("*/job.json")):
            found = read(path)
            if found is not None:
                yield path, found["job"], found["pods"]

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
            job = self.get(name)
            if job is not None:
                url = f"http://127.0.0.1:{process.attempt.port}/progress"
                found.append((job, await asyncio.to_thread(fetch_progress, url)))
        return found

    def create(self, manifest: Document) -> None:
        """Write the Job down, then start it.

        Raises:
            AlreadyExists: there is one of that name.
        """
        name = manifest["metadata"]["name"]
        path = self._path(name)
        if path.exists():
            raise AlreadyExists(f"Job {name} exists")
        metadata = {**manifest["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        keep(self.broken, path, {"job": {**manifest, "metadata": metadata, "status": {"startTime": now()}}, "pods": []})
        self._start(name)

    def delete(self, name: str, uid: str) -> None:
        """SIGTERM its process, and forget the Job when it has ended; logs stay."""
        stored = read(self._path(name))
        if stored is None or stored["job"]["metadata"]["uid"] != uid or name in self._deletions:
            return
        stored["job"]["metadata"]["deletionTimestamp"] = now()
        keep(self.broken, self._path(name), stored)
        task = asyncio.get_running_loop().create_task(self._delete(name, stored["job"]), name=f"delete-{name}")
        task.add_done_callback(self._ended)
        self._deletions[name] = task

    async def _delete(self, name: str, job: Document) -> None:
        process, task = self._processes.get(name), self._tasks.pop(name, None)
        if process is not None:
            await process.stop(_grace(job))
        else:
            await asyncio.to_thread(self._end_left_over, name, job)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._path(name).unlink(missing_ok=True)
        del self._deletions[name]
        self.changed(job)

    def _end_left_over(self, name: str, job: Document) -> None:
        for process_file in self._path(name).parent.glob("attempt-*/process"):
            end_left_over(process_file, _grace(job))

    def resume(self, uids: Iterable[str]) -> None:
        """Start again the unfinished Jobs of those resources, after ending what a killed run left behind."""
        wanted = set(uids)
        for path, job, _ in self.stored():
            owners = {owner["uid"] for owner in job["metadata"]["ownerReferences"]}
            if is_finished(job) or not owners & wanted:
                continue
            self._end_left_over(path.parent.name, job)
            if "deletionTimestamp" in job["metadata"]:
                path.unlink()
            else:
                self._start(path.parent.name)

    async def stop(self) -> None:
        """SIGTERM every child and wait for it; the next run continues them."""
        self._stopping = True
        jobs = {name: self.get(name) for name in self._processes}
        await asyncio.gather(*(process.stop(_grace(jobs[name])) for name, process in self._processes.items()))
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def kill(self) -> None:
        """SIGKILL every child."""
        for process in self._processes.values():
            process.kill()

    def log_of(self, job: str) -> Path | None:
        """The newest log of that Job."""
        logs = list((self.folder / job).glob("attempt-*/log.txt"))
        return max(logs, key=lambda path: int(path.parent.name.removeprefix("attempt-")), default=None)

    def of(self, uid: str) -> list[Document]:
        """The Jobs of that resource, in the order of their start."""
        jobs = [job for _, job, _ in self.stored() if owned_by(job, uid)]
        return sorted(jobs, key=lambda job: str(job["metadata"]["creationTimestamp"]))

    def logs(self, uid: str) -> dict[str, Path]:
        """The newest log of every child of that resource that was started, by role, in the order of their start."""
        found: dict[str, Path] = {}
        for job in (job["metadata"] for job in self.of(uid)):
            log, role = self.log_of(job["name"]), job["labels"][f"{GROUP}/role"]
            if log is not None and job["name"].rsplit("-", 2)[1] != "read":
                found[role] = log
        return found

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
        job = self.get(name)
        if job is None:
            return
        spec_file = self._path(name).parent / "spec.json"
        write_atomic(spec_file, job["spec"]["template"]["metadata"]["annotations"][SPEC_ANNOTATION].encode())
        count = job["spec"].get("completions", 1)
        began = time.monotonic()
        for index in range(count):
            if not self._done(name, index) and not await self._run_index(name, index, spec_file, began):
                return
        self._finish(name, "Complete", "CompletionsReached", "", succeeded=count)

    def _done(self, name: str, index: int) -> bool:
        """Whether that index of an Indexed Job succeeded in an earlier run."""
        return any(completion_index(pod) == index and exit_code(pod) == 0 for pod in self.pods(name))

    async def _run_index(self, name: str, index: int, spec_file: Path, began: float) -> bool:
        """All attempts of one index (0 of a Job that has one pod at a time); whether it succeeded."""
        job = self.get(name)
        assert job is not None
        sharded = is_sharded(job)
        failed = self._failures(name, index) if sharded else int(job["status"].get("failed", 0))
        limit = job["spec"].get("backoffLimitPerIndex" if sharded else "backoffLimit", 6)
        while not self._stopping:
            ended = await self._attempt(name, index, spec_file, began)
            stopped = self._stopping or name in self._deletions
            if ended is None or (stopped and ended.code not in (0, None) and not user_error(job, ended.code)):
                return False
            code, hint = ended.code, f"; see {ended.log}"
            if code == 0:
                return True
            failed += 1
            if code is None:
                text = f"spec.runtime.activeDeadlineSeconds passed{hint}"
                self._finish(name, "Failed", "DeadlineExceeded", text, failed=failed)
                return False
            if user_error(job, code):
                self._finish(name, "Failed", "PodFailurePolicy", f"exit code {code}{hint}", failed=failed)
                return False
            if failed > limit:
                text = f"{failed} attempts failed, the last with exit code {code}{hint}"
                reason = "MaxFailedIndexesExceeded" if sharded else "BackoffLimitExceeded"
                more = {"failedIndexes": str(index)} if sharded else {}
                self._finish(name, "Failed", reason, text, failed=failed, **more)
                return False
            self._update(name, status={"failed": failed, "active": 0})
            await asyncio.sleep(back_off(failed))
        return False

    def _failures(self, name: str, index: int) -> int:
        return sum(1 for pod in self.pods(name) if completion_index(pod) == index and exit_code(pod))

    async def _attempt(self, name: str, index: int, spec_file: Path, began: float) -> _Ended | None:
        """One attempt; None when it could not be started, and the Job is finished."""
        job = self.get(name)
        assert job is not None
        number = len(list(self._path(name).parent.glob("attempt-*")))
        attempt = new_attempt(self._path(name).parent / f"attempt-{number}")
        shard = index if "completionMode" in job["spec"] else None
        try:
            process = await ChildProcess.start(job, spec_file, attempt, shard)
        except (FileNotFoundError, PermissionError) as error:
            command = job["spec"]["template"]["spec"]["containers"][0]["command"][0]
            text = f"{command} cannot be started: {error.strerror}; install the extra that it belongs to"
            self._finish(name, "Failed", "CommandNotFound", text, failed=1)
            return None
        self._processes[name] = process
        self._update(name, pod=pod_of(name, number, attempt.port, index=shard), status={"active": 1})
        deadline = job["spec"].get("activeDeadlineSeconds")
        left = None if deadline is None else max(0.0, deadline - (time.monotonic() - began))
        try:
            code = await process.wait(left)
            if code is None:
                await process.stop(_grace(job))
        finally:
            del self._processes[name]
            attempt.process_file.unlink(missing_ok=True)
        message = attempt.termination_log.read_bytes()[:MAX_MESSAGE_BYTES].decode("utf-8", errors="replace")
        status = {} if code != 0 or shard is None else {"succeeded": self._succeeded(name) + 1}
        pod = pod_of(name, number, attempt.port, 143 if code is None else code, message, index=shard)
        self._update(name, pod=pod, status=status)
        return _Ended(code, attempt.log)

    def _succeeded(self, name: str) -> int:
        return sum(1 for pod in self.pods(name) if exit_code(pod) == 0)

    def _finish(self, name: str, kind: str, reason: str, message: str, **status: int | str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self._update(name, status={**status, "active": 0, "conditions": [condition]})

    def _update(self, name: str, *, status: Document | None = None, pod: Document | None = None) -> None:
        stored = read(self._path(name))
        if stored is None:
            return
        job, pods = stored["job"], stored["pods"]
        if pod is not None:
            pods = [p for p in pods if p["metadata"]["name"] != pod["metadata"]["name"]] + [pod]
        job = {**job, "status": {**job["status"], **(status or {})}}
        keep(self.broken, self._path(name), {"job": job, "pods": pods})
        self.changed(job)

    def _path(self, name: str) -> Path:
        return self.folder / name / "job.json"


def _grace(job: Document | None) -> float:
    if job is None:
        return 30.0
    return float(job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30))
