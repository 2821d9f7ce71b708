"""Files of others that tests apply, out of published Go modules: checked against the sum that is recorded here."""

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.cluster.harness.binaries import TOOLS, Tool, find_go
from tests.cluster.harness.errors import HarnessError


class Module(NamedTuple):
    """One version of a module, and the ``h1:`` sum of its contents."""

    path: str
    version: str
    sum: str


PROMETHEUS_OPERATOR = Module(
    "github.com/prometheus-operator/prometheus-operator", "v0.86.1", "h1:pHUuiRErcFb3nFDox7RxoxpEN0FyT24GtYOkr2GBu04="
)


def folder_of(module: Module) -> Path:
    """Where its files lie, read-only, in Go's module cache; downloaded when they do not.

    Raises:
        HarnessError: Go is missing, the module cannot be had, or its contents are not those that are recorded.
    """
    # The sum below takes the place of the checksum database, which not every proxy passes on.
    found = _download(f"{module.path}@{module.version}", TOOLS, {"GOSUMDB": "off", "GOFLAGS": "-mod=mod"})
    if found["Sum"] != module.sum:
        raise HarnessError(f"{module.path}@{module.version} has the sum {found['Sum']}, not {module.sum}")
    return Path(found["Dir"])


def source_of(tool: Tool, module: str) -> Path:
    """The same of a module that `tool` is built from, in the version and with the sum of its go.mod and go.sum."""
    return Path(_download(module, tool.module, {})["Dir"])


def _download(module: str, folder: Path, environment: dict[str, str]) -> dict[str, str]:
    command = [find_go(), "mod", "download", "-json", module]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    found: dict[str, str] = json.loads(done.stdout or "{}")
    if done.returncode != 0 or "Dir" not in found:
        raise HarnessError(f"{module}: {found.get('Error') or done.stderr.strip()}")
    return found
