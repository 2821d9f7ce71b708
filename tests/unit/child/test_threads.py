import os
from pathlib import Path

import pytest

from flowstill.child.threads import settle_threads, usable_cores

ALL = len(os.sched_getaffinity(0))


def v2(folder: Path, text: str) -> Path:
    (folder / "cpu.max").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "cores"),
    [("100000 100000\n", 1), ("50000 100000\n", 1), ("max 100000\n", ALL), ("99900000 100000\n", ALL), ("", ALL)],
)
def test_a_container_has_the_cores_of_its_limit(tmp_path: Path, text: str, cores: int) -> None:
    assert usable_cores(v2(tmp_path, text)) == cores


@pytest.mark.parametrize(("quota", "cores"), [("100000", 1), ("-1", ALL)])
def test_the_limit_of_the_older_cgroups_counts_too(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == cores


def test_without_a_limit_it_is_the_affinity(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == ALL


def test_what_the_user_set_stays(tmp_path: Path) -> None:
    environment = {"OMP_NUM_THREADS": "7"}
    settle_threads(environment, v2(tmp_path, "100000 100000"))
    assert environment == {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "PASSIVE"}


def test_torch_computes_with_the_containers_share(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    settle_threads(environment, v2(tmp_path, "100000 100000"))
    assert environment["OMP_NUM_THREADS"] == "1"
