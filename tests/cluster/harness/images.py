"""The images of `images/`, built into the cache, each named by the hash of what it is made of."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.harness import binaries, layers
from tests.cluster.harness.cache import Report, cache_root, content_key, file_lock, silent
from tests.cluster.harness.errors import HarnessError
from tests.cluster.harness.processes import run

CHECKOUT = Path(__file__).parents[3]
PAUSE = "localhost/pause:1"
_SUITE = "trixie"
_BASE_PACKAGES = "python3,ca-certificates"
_MAX_STEPS = 60
_CERTIFICATES = Path("/etc/ssl/certs")
_CODE = ("flowstill", "operator", "trainer", "evaluator", "lerobot_policy_flowstill", "examples/quickstart")
_FORWARDED = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_CERT", "PIP_DEFAULT_TIMEOUT")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Image:
    """One image: its full name, and how to build it when the store has none of this name.

    `target` is the stage that the image ends with. `keep_steps` keeps every step of the build, so that the next one
    begins at the first that changed. Not for the large ones: their steps would lie on the disk twice, and older
    images of theirs, with those in `above` that are made of them, are dropped before the build and not after it.
    """

    name: str
    containerfile: Path
    context: Path
    arguments: tuple[tuple[str, str], ...] = ()
    target: str | None = None
    keep_steps: bool = False
    above: tuple[str, ...] = ()


class ImageStore:
    """Buildah's storage in the cache; an image is built once for each content hash.

    Args:
        folder: the storage's folder; it grows to about 8 GB.
        report: called with one line of progress at a time.
    """

    def __init__(self, folder: Path | None = None, report: Report = silent) -> None:
        self.folder = folder or cache_root() / "images"
        self._report = report
        self._below: dict[str, str] = {}
        (self.folder / "context").mkdir(parents=True, exist_ok=True)

    def pause(self) -> str:
        """Build the image that holds a pod's namespaces, and return its name."""
        binary = binaries.ensure(binaries.NODE, self._report)["pause"]
        text = 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n'
        context = self._context("pause", text)
        (context / "pause").write_bytes(binary.read_bytes())
        (context / "pause").chmod(0o755)
        key = content_key(binary, text)
        self.ensure(Image(f"localhost/pause-{key}:1", context / "Containerfile", context))
        self.buildah("tag", f"localhost/pause-{key}:1", PAUSE)
        return PAUSE

    def base(self) -> str:
        """Build a minimal Debian with Python, and return its name."""
        name = f"localhost/flowstill-base:{content_key(_SUITE, _BASE_PACKAGES)}"
        if not self.has(name):
            context = self._context("base", "FROM scratch\nADD base.tar /\n")
            archive = context / "base.tar"
            self._report(f"making a Debian {_SUITE} base image (once)")
            run(["mmdebstrap", "--variant=minbase", f"--include={_BASE_PACKAGES}", _SUITE, str(archive)])
            self.ensure(Image(name, context / "Containerfile", context))
            archive.unlink()
        return name

    def learning(self) -> str:
        """Build what trainer and evaluator share (minutes, once per lock file), and return its name."""
        containerfile = CHECKOUT / "images" / "learning" / "Containerfile"
        script, pyproject = CHECKOUT / "images" / "requirements.py", CHECKOUT / "pyproject.toml"
        # Only what the script takes from pyproject.toml counts: a linter's setting must not cost gigabytes.
        wanted = run([sys.executable, str(script), str(pyproject), "trainer", "evaluator"])
        base = self.base()
        key = content_key(containerfile, *sorted(CHECKOUT.glob("requirements*")), wanted, base)
        image = Image(
            f"localhost/flowstill-learning:{key}",
            containerfile,
            CHECKOUT,
            (("BASE_IMAGE", base),),
            above=("localhost/flowstill-trainer", "localhost/flowstill-evaluator"),
        )
        return self.ensure(image)

    def project(self, part: str) -> str:
        """Build the image of `part` (operator, trainer or evaluator) from the checkout; returns its name."""
        is_child = part != "operator"
        containerfile = CHECKOUT / "images" / ("child" if is_child else part) / "Containerfile"
        below = ("LEARNING_IMAGE", self.learning()) if is_child else ("BASE_IMAGE", self.base())
        key = content_key(containerfile, below[1], code_key(CHECKOUT))
        name = f"localhost/flowstill-{part}:{key}"
        self._below[name] = below[1]
        target = part if is_child else None
        return self.ensure(Image(name, containerfile, CHECKOUT, (below,), target=target, keep_steps=not is_child))

    def ensure(self, image: Image) -> str:
        """Build `image` unless the store has it; older images of the same name are dropped. Returns its name.

        Raises:
            HarnessError: the build failed; the message has the end of its output.
        """
        if self.has(image.name):
            return image.name
        started = time.monotonic()
        self._report(f"building {image.name}")
        command = [
            "build",
            "--isolation",
            "chroot",
            f"--layers={str(image.keep_steps).lower()}",
            "--format",
            "oci",
            "--file",
            str(image.containerfile),
        ]
        if image.target is not None:
            command += ["--target", image.target]
        for key, value in (*image.arguments, *_forwarded_arguments()):
            command += ["--build-arg", f"{key}={value}"]
        if _CERTIFICATES.is_dir():
            # A machine's own certificate authorities count in its builds too.
            command += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"]
        with file_lock(self.folder / "build.lock", self._report):
            # What a killed build left is gigabytes, and nobody else builds while the lock is held.
            self.buildah("rm", "--all")
            if not image.keep_steps:
                for repository in (*image.above, image.name.rpartition(":")[0]):
                    self._drop(repository)
            self._build([*command, "--tag", image.name, str(image.context)])
            self._drop(image.name.rpartition(":")[0], but=image.name)
        self._report(f"built {image.name} in {time.monotonic() - started:.0f} s")
        return image.name

    def has(self, name: str) -> bool:
        """Say whether the store has an image of this name."""
        return name in self.names()

    def names(self) -> list[str]:
        """Return the names of all images in the store."""
        return self.buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()

    def push(self, name: str, layout: Path) -> None:
        """Write an image into an OCI layout folder; layers that already lie there are not written again."""
        layers.open_layout(layout)
        if layers.has_image(layout, name):
            return
        if name in self._below:
            # What several images share is written once, whichever of them comes first.
            self.push(self._below[name], layout)
        below, folders = layers.find_below(self.folder / "storage", layout, name)
        config = json.loads(self.buildah("inspect", "--type", "image", name))["OCIv1"]
        layers.write_above(layout, below, name, config, folders)
        layers.drop_older(layout, name)

    def buildah(self, *arguments: str) -> str:
        """Run buildah on this storage and return its output."""
        return run([*self._command(), *arguments])

    def _command(self) -> list[str]:
        storage = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]
        return ["buildah", *storage, "--storage-driver", "overlay"]

    def _build(self, arguments: list[str]) -> None:
        log = self.folder / "build.log"
        scratch = self._scratch()
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        environment = {**os.environ, "TMPDIR": str(scratch)}
        with log.open("wb") as output:
            command = [*self._command(), *arguments]
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
            )
        shutil.rmtree(scratch, ignore_errors=True)
        if done.returncode != 0:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
            raise HarnessError(f"building an image failed; all of it is in {log}:\n{end}")

    def _drop(self, repository: str, but: str | None = None) -> None:
        for other in self.names():
            if other != but and other.rpartition(":")[0] == repository:
                self.buildah("rmi", "--force", other)
        unnamed = self.buildah("images", "--all", "--quiet", "--filter", "dangling=true").split()
        if len(unnamed) > _MAX_STEPS:
            self.buildah("rmi", "--prune", "--force")

    def _scratch(self) -> Path:
        return self.folder / "scratch"

    def _context(self, name: str, containerfile: str) -> Path:
        context = self.folder / "context" / name
        context.mkdir(parents=True, exist_ok=True)
        (context / "Containerfile").write_text(containerfile)
        return context


def code_key(checkout: Path) -> str:
    """Return the hash of the project's own files that go into the images."""
    parts: list[str | bytes | Path] = [checkout / "pyproject.toml", checkout / "README.md"]
    for name in _CODE:
        for path in sorted((checkout / name).rglob("*")):
            if path.is_file() and not _is_left_out(path):
                parts += [str(path.relative_to(checkout)), path]
    return content_key(*parts)


def _is_left_out(path: Path) -> bool:
    return any(part == "__pycache__" or part.endswith(".egg-info") or part == "build" for part in path.parts)


def _forwarded_arguments() -> list[tuple[str, str]]:
    return [(name, os.environ[name]) for name in (*_FORWARDED, *_PROXIES) if os.environ.get(name)]
