"""A real S3 server on this machine, built like the cluster's binaries and kept in the same cache."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.harness.binaries import S3_SERVER, ensure

ACCESS_KEY, SECRET_KEY = "AKIDOFTHETEST0001", "a-secret-of-the-tests-0001"


@dataclass(frozen=True)
class S3Server:
    """One that runs; every folder below ``root`` is a bucket."""

    url: str
    root: Path

    def bucket(self, name: str) -> Path:
        """Make one."""
        folder = self.root / name
        folder.mkdir()
        return folder

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What a client needs; ``endpoint``: of a proxy before it."""
        return {
            "AWS_ENDPOINT_URL_S3": endpoint or self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }


@contextmanager
def s3_server(certificate: tuple[Path, Path] | None = None, address: str = "127.0.0.1") -> Iterator[S3Server]:
    """Start one on a free port of that address, with TLS when a certificate and its key are given, and stop it."""
    binary = ensure((S3_SERVER,), lambda text: print(f"[s3] {text}", file=sys.stderr))[S3_SERVER.name]
    with tempfile.TemporaryDirectory(prefix="flowstill-s3-") as name:
        root, beside, log = Path(name, "buckets"), Path(name, "metadata"), Path(name, "log")
        root.mkdir()
        beside.mkdir()
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        environment = {**os.environ, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        # The metadata beside the files, since not every file system of a test machine has extended attributes.
        tls = [] if certificate is None else ["--cert", str(certificate[0]), "--key", str(certificate[1])]
        place = ["posix", "--sidecar", str(beside), str(root)]
        command = [str(binary), "--port", f"{address}:{port}", *tls, *place]
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            _wait_for((address, port), process, log)
            yield S3Server(f"{'https' if tls else 'http'}://{address}:{port}", root)
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(place: tuple[str, int], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(place) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server does not answer:\n{log.read_text(errors='replace')[-2000:]}")
