"""How many threads a child may compute with, and how they wait for each other.

PyTorch takes a thread for every core of the node, whatever the container's share is, and OpenMP's threads spin
while they wait. Where cores are shared, by a CPU limit or by other pods, that costs up to an order of magnitude:
`bench/threads.py` measures it.
"""

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: its affinity, and its container's CPU limit (cgroup v2 or v1), at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _quota(cgroup)
    return max(1, min(allowed, math.ceil(limit))) if limit else allowed


def settle_threads(environment: MutableMapping[str, str] = os.environ, cgroup: Path = CGROUP) -> None:
    """Set what OpenMP reads when it is loaded; call it before torch is imported. What the user set stays."""
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("OMP_NUM_THREADS", str(usable_cores(cgroup)))


def _quota(cgroup: Path) -> float | None:
    """The CPU limit in cores; None: there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # cgroup v2 writes "max"
    return share if share > 0 else None  # cgroup v1 writes -1
