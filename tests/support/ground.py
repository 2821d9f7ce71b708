"""A folder in which ``flowstill run`` is given and looked at afterwards."""

import contextlib
import io
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowstill_operator import cli
from flowstill_operator.command import single
from flowstill_operator.engine import loop
from flowstill_operator.jobs import child_job
from tests.support.warm_children import WarmProcess, warmed

API_VERSION = "flowstill.dev/v1alpha1"


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    output: str
    errors: str


class Ground:
    """The command line in a folder of its own, its children forks of the warm process."""

    def __init__(self, folder: Path, warm: WarmProcess, store: Path | None = None) -> None:
        self.folder, self.warm = folder, warm
        self.state, self.store = folder / ".flowstill/state", store or folder / ".flowstill/store"

    def give(self, *arguments: str) -> Said:
        """One ``flowstill`` command, to its end."""
        output, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for kind, controller in list(loop.CONTROLLERS.items()):
                manifest = warmed(controller.manifest, self.warm)
                patch.setitem(loop.CONTROLLERS, kind, replace(controller, manifest=manifest))
            patch.setattr(single, "child_job", self._warm_job)
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                code = cli.main(arguments)
        return Said(code, output.getvalue(), errors.getvalue())

    def _warm_job(self, *arguments: Any) -> dict[str, Any]:
        """The Job of a child without a resource, run by the warm process."""
        job = child_job(*arguments)
        container = job["spec"]["template"]["spec"]["containers"][0]
        container["command"] = self.warm.command(container["command"])
        return job

    def run(self, *documents: dict[str, Any], options: tuple[str, ...] = ()) -> Said:
        """``flowstill run`` with these resources in one file, from the folder's own state and store."""
        path = self.folder / "resources.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        return self.give("run", str(path), "--state", str(self.state), "--store", str(self.store), *options)

    def resource(self, kind: str, name: str) -> dict[str, Any]:
        """A resource as it is on disk."""
        document: dict[str, Any] = json.loads((self.state / kind / f"{name}.json").read_text())
        return document

    def condition(self, kind: str, name: str, condition: str) -> dict[str, Any] | None:
        """A condition of it."""
        found = self.resource(kind, name)["status"].get("conditions", [])
        return next((c for c in found if c["type"] == condition), None)

    def starts(self, name: str, role: str) -> int:
        """How often that child was started."""
        return len(list(self.state.glob(f"jobs/{name}-{role}-????????/attempt-*")))

    def work(self, kind: str, name: str, role: str) -> Path:
        """That child's work folder."""
        return self.store / "work" / self.resource(kind, name)["metadata"]["uid"] / role

    def log(self, name: str, role: str) -> str:
        """What its attempts wrote."""
        paths = sorted(self.state.glob(f"jobs/{name}-{role}-????????/attempt-*/log.txt"))
        return "\n".join(path.read_text() for path in paths)


def resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A manifest."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def may_mount() -> bool:
    """Whether this process may mount a file system of its own."""
    return os.geteuid() == 0 and Path("/proc/self/status").exists() and _has_capability(21)


def _has_capability(number: int) -> bool:
    """CAP_SYS_ADMIN is 21."""
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(line.split()[1] for line in lines if line.startswith("CapEff"))
    return bool(int(effective, 16) >> number & 1)
