"""containerd on a folder of the cache: its images outlive a test run, its containers do not."""

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tests.cluster.harness.cache import Report, silent
from tests.cluster.harness.errors import HarnessError
from tests.cluster.harness.images import PAUSE, ImageStore
from tests.cluster.harness.processes import Background, CommandError, log_end, run, start, wait_until

_NAMESPACE = "k8s.io"
_BY_ID = "sha256:"
_GONE = ("not found", "no running task", "ttrpc: closed")
"""What ctr says where there is no task to kill, or its shim ended while it was asked; both are what is wanted."""
_CONFIG = """
version = 2
root = "{root}"
state = "{state}"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE every sandbox would die while it lowers its OOM score.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
"""


class Containerd:
    """A containerd of the tests' own.

    Args:
        folder: a short path for state, socket and logs, emptied by whoever made it.
        root: where images lie between runs.
        cni: the folder with the pod network's configuration.
        report: called with one line of progress at a time.
    """

    def __init__(self, folder: Path, root: Path, cni: Path, report: Report = silent) -> None:
        self.folder, self.root, self._cni, self._report = folder, root, cni, report
        self.socket = folder / "containerd.sock"
        self._process: Background

    def start(self) -> None:
        """Start it, and remove the containers of a run that was killed."""
        config = self.folder / "containerd.toml"
        paths = {"root": self.root, "state": self.folder / "state", "socket": self.socket, "cni": self._cni}
        config.write_text(_CONFIG.format(**paths, pause=PAUSE))
        self._process = start("containerd", ["containerd", "--config", str(config)], self.folder)
        wait_until("containerd ready", self._is_ready, 60.0, (self._process,))
        self.remove_containers()

    def stop(self) -> None:
        """Remove all containers and their shims, and end containerd."""
        self.remove_containers()
        self._process.stop()
        for pid in self._shims():
            os.kill(pid, signal.SIGKILL)

    def names(self) -> list[str]:
        """Return the names of the images that pods may use."""
        return [name for name in self.digests() if not name.startswith(_BY_ID)]

    def digests(self) -> dict[str, str]:
        """Return what holds an image (its name, and its ID that the CRI adds) with the image's digest."""
        rows = [line.split() for line in self._ctr("images", "list").splitlines()[1:]]
        return {row[0]: row[2] for row in rows}

    def load(self, store: ImageStore, name: str) -> None:
        """Bring an image from the store into containerd, only with the layers that it lacks.

        Older images of the same name are dropped.
        """
        if name in self.names():
            return
        started = time.monotonic()
        layout = store.folder / "layout"
        store.push(name, layout)
        manifest = _manifest_of(layout, name)
        blobs = _blobs_of(layout, manifest)
        missing = [blob for blob in blobs if not self._content(blob).exists()]
        self._import(layout, name, manifest, missing)
        for blob in blobs:
            _share(layout / "blobs" / "sha256" / blob, self._content(blob))
        self._drop_older(name)
        self._report(f"loaded {name} in {time.monotonic() - started:.0f} s ({len(missing)} of {len(blobs)} blobs new)")

    def remove_containers(self) -> None:
        """Kill and delete every container, with its snapshot."""
        for container in self._ctr("containers", "list", "--quiet").split():
            for arguments in (
                ("tasks", "kill", "--signal", "SIGKILL"),
                ("tasks", "delete", "--force"),
                ("containers", "delete"),
            ):
                try:
                    self._ctr(*arguments, container)
                except CommandError as failure:
                    if not any(words in failure.stderr for words in _GONE):
                        raise

    def kill(self, container: str) -> int:
        """SIGKILL the processes of every running container of that name in a pod; returns how many there were."""
        named = self._ctr(
            "containers", "list", "--quiet", f'labels."io.kubernetes.container.name"=={container}'
        ).split()
        running = {line.split()[0] for line in self._ctr("tasks", "list").splitlines() if line.endswith("RUNNING")}
        for found in (victims := running.intersection(named)):
            self._ctr("tasks", "kill", "--signal", "SIGKILL", found)
        return len(victims)

    def _import(self, layout: Path, name: str, manifest: dict[str, Any], blobs: list[str]) -> None:
        command = ["ctr", "--address", str(self.socket), "--namespace", _NAMESPACE, "images", "import", "-"]
        with (self.folder / "import.log").open("ab") as log:
            importing = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
            assert importing.stdin is not None
            try:
                with suppress(BrokenPipeError), importing.stdin as pipe:
                    _write_archive(pipe, layout, name, manifest, blobs)
            finally:
                code = importing.wait()
        if code != 0:
            raise HarnessError(f"importing {name} into containerd failed:\n{log_end(self.folder / 'import.log')}")

    def _drop_older(self, name: str) -> None:
        repository = name.rpartition(":")[0]
        for other in self.names():
            if other != name and other.rpartition(":")[0] == repository:
                self._ctr("images", "remove", other)
        named = {digest for name, digest in self.digests().items() if not name.startswith(_BY_ID)}
        unnamed = [name for name, digest in self.digests().items() if digest not in named]
        if unnamed:
            # Each is gigabytes, which the last name held as well; --sync frees them now.
            self._ctr("images", "remove", "--sync", *unnamed)

    def _content(self, blob: str) -> Path:
        return self.root / "io.containerd.content.v1.content" / "blobs" / "sha256" / blob

    def _is_ready(self) -> bool:
        try:
            self._ctr("version")
        except CommandError:
            return False
        return True

    def _ctr(self, *arguments: str) -> str:
        return run(["ctr", "--address", str(self.socket), "--namespace", _NAMESPACE, *arguments])

    def _shims(self) -> list[int]:
        shims = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    command = (folder / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"containerd-shim" in command and str(self.socket).encode() in command:
                    shims.append(int(folder.name))
        return shims


def _manifest_of(layout: Path, name: str) -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_text())
    for descriptor in index["manifests"]:
        if descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name") == name:
            found: dict[str, Any] = descriptor
            return found
    raise KeyError(f"{layout}/index.json has no image {name}")


def _blobs_of(layout: Path, manifest: dict[str, Any]) -> list[str]:
    own = manifest["digest"].removeprefix("sha256:")
    content = json.loads((layout / "blobs" / "sha256" / own).read_text())
    parts = [part["digest"].removeprefix("sha256:") for part in (content["config"], *content["layers"])]
    return [own, *parts]


def _write_archive(pipe: IO[bytes], layout: Path, name: str, manifest: dict[str, Any], blobs: list[str]) -> None:
    """Write an OCI archive of one image that leaves out the blobs containerd already has."""
    named = {
        **manifest,
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [named]}).encode()
    with tarfile.open(fileobj=pipe, mode="w|") as tar:
        tar.add(layout / "oci-layout", "oci-layout")
        entry = tarfile.TarInfo("index.json")
        entry.size = len(index)
        tar.addfile(entry, io.BytesIO(index))
        for blob in blobs:
            tar.add(layout / "blobs" / "sha256" / blob, f"blobs/sha256/{blob}")


def _share(copy: Path, original: Path) -> None:
    """Make `copy` a second name of `original`'s bytes, so that gigabytes lie on the disk once."""
    if original.exists() and copy.exists() and not copy.samefile(original):
        unfinished = copy.with_suffix(".link")
        unfinished.hardlink_to(original)
        unfinished.rename(copy)
