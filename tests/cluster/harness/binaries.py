"""The cluster's binaries, built from Go modules into the cache and checked against their recorded digests."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.harness.cache import Report, cache_root, content_key, file_digest, file_lock, silent
from tests.cluster.harness.errors import HarnessError

TOOLS = Path(__file__).parents[2] / "tools"
KUBERNETES_VERSION = "1.36.3"
_VERSION_PACKAGE = "k8s.io/component-base/version"
_STRIPPED = "-s -w"
_KUBERNETES_FLAGS = " ".join(
    [
        _STRIPPED,
        f"-X {_VERSION_PACKAGE}.gitVersion=v{KUBERNETES_VERSION}",
        f"-X {_VERSION_PACKAGE}.gitMajor={KUBERNETES_VERSION.split('.')[0]}",
        f"-X {_VERSION_PACKAGE}.gitMinor={KUBERNETES_VERSION.split('.')[1]}",
    ]
)


@dataclass(frozen=True)
class Tool:
    """One binary: its name, the module folder it is built in, the Go package, linker flags, and build tags."""

    name: str
    module: Path
    package: str
    link_flags: str = _STRIPPED
    tags: str = ""


def _kubernetes(name: str) -> Tool:
    return Tool(name, TOOLS / "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _KUBERNETES_FLAGS)


CONTROL_PLANE = (
    _kubernetes("kube-apiserver"),
    Tool("etcd", TOOLS / "etcd", "."),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubectl"),
)
NODE = (_kubernetes("kubelet"), _kubernetes("kube-proxy"), Tool("pause", TOOLS / "pause", "."))
COREDNS = Tool("coredns", TOOLS / "coredns", ".")
HELM = Tool("helm", TOOLS / "helm", "helm.sh/helm/v4/cmd/helm")
S3_SERVER = Tool("versitygw", TOOLS / "versitygw", "github.com/versity/versitygw/cmd/versitygw")
KUEUE = Tool("kueue", TOOLS / "kueue", "sigs.k8s.io/kueue/cmd/kueue")
KWOK = Tool("kwok", TOOLS / "kwok", "sigs.k8s.io/kwok/cmd/kwok")


def _prometheus(name: str) -> Tool:
    # Without the tag it knows the clouds' service discoveries, and with `builtinassets` it would have a web UI
    # (its README, "Building from source").
    return Tool(name, TOOLS / "prometheus", f"github.com/prometheus/prometheus/cmd/{name}", _STRIPPED, "remove_all_sd")


PROMETHEUS, PROMTOOL = _prometheus("prometheus"), _prometheus("promtool")
"""Minutes each."""


def ensure(tools: tuple[Tool, ...], report: Report = silent) -> dict[str, Path]:
    """Build what is missing or damaged in the cache, and return each tool's path by its name.

    Raises:
        HarnessError: Go is missing or too old, or a build failed.
    """
    go = find_go()
    version = _run([go, "env", "GOVERSION"], TOOLS)
    return {tool.name: _ensure_one(tool, go, version, report) for tool in tools}


def _ensure_one(tool: Tool, go: str, go_version: str, report: Report) -> Path:
    sources = sorted(
        path for path in tool.module.iterdir() if path.name in {"go.mod", "go.sum"} or path.suffix == ".go"
    )
    key = content_key(*sources, go_version, f"{tool.link_flags}{tool.tags}")
    folder = cache_root() / "bin" / key
    target, record = folder / tool.name, folder / f"{tool.name}.sha256"
    with file_lock(folder / f"{tool.name}.lock", report):
        if _is_whole(target, record):
            return target
        started = time.monotonic()
        report(f"building {tool.name} with {go_version} (once per version; kept in {folder})")
        unfinished = folder / f"{tool.name}.unfinished"
        build = [go, "build", "-trimpath", "-tags", tool.tags, "-ldflags", tool.link_flags]
        _run([*build, "-o", str(unfinished), tool.package], tool.module)
        record.write_text(file_digest(unfinished))
        unfinished.rename(target)
        report(f"built {tool.name} in {time.monotonic() - started:.0f} s, {target.stat().st_size / 1e6:.0f} MB")
    return target


def _is_whole(target: Path, record: Path) -> bool:
    return target.exists() and record.exists() and file_digest(target) == record.read_text()


def find_go() -> str:
    """The path of ``go``.

    Raises:
        HarnessError: there is none.
    """
    go = shutil.which("go")
    if go is None:
        raise HarnessError("there is no `go` on PATH: install Go 1.26 or newer (https://go.dev/dl/), then run again")
    return go


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_lines = "\n".join(done.stderr.strip().splitlines()[-20:])
        raise HarnessError(
            f"`{' '.join(command[:2])}` failed in {folder} (exit code {done.returncode}); it needs "
            f"a way to Go modules (GOPROXY), Go 1.26 or newer, and 8 GB of free disk:\n{last_lines}"
        )
    return done.stdout.strip()
