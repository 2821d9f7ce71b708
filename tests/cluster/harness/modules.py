"""Files of others that tests apply, out of published Go modules: checked against the sum that is recorded here."""

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.cluster.harness.binaries import TOOLS, find_go
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
    environment = {**os.environ, "GOSUMDB": "off", "GOFLAGS": "-mod=mod"}
    command = [find_go(), "mod", "download", "-json", f"{module.path}@{module.version}"]
    done = subprocess.run(command, cwd=TOOLS, env=environment, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    if done.returncode != 0 or "Dir" not in found:
        raise HarnessError(f"{module.path}@{module.version}: {found.get('Error') or done.stderr.strip()}")
    if found["Sum"] != module.sum:
        raise HarnessError(f"{module.path}@{module.version} has the sum {found['Sum']}, not {module.sum}")
    return Path(found["Dir"])
