"""What is installed where: extras, locks, and the requirements that the images are built from."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def requirements(*extras: str) -> set[str]:
    """The names of the distributions that an image with these extras installs."""
    command = [sys.executable, str(ROOT / "images" / "requirements.py"), str(ROOT / "pyproject.toml"), *extras]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {re.split(r"[\[<>=!~]", line)[0] for line in lines}


@pytest.mark.parametrize("extra", ["trainer", "evaluator", "gpu"])
def test_an_extra_has_exactly_one_build_of_onnx_runtime(extra: str) -> None:
    builds = {name for name in requirements(extra) if name.startswith("onnxruntime")}
    assert builds == {"onnxruntime-gpu" if extra == "gpu" else "onnxruntime"}


def test_the_gpu_extra_is_trainer_and_evaluator_but_for_onnx_runtime() -> None:
    both = requirements("trainer", "evaluator")
    assert requirements("gpu") ^ both == {"onnxruntime", "onnxruntime-gpu"}


def test_the_operator_needs_neither_torch_nor_lerobot() -> None:
    assert not requirements("operator") & {"torch", "lerobot", "onnxruntime", "metaworld"}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-gpu.lock"])
def test_a_lock_pins_exactly_and_names_no_address(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+( ; .+)?", line) for line in lines), lines


def test_every_requirement_is_locked() -> None:
    locked = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for lock in ("requirements.lock", "requirements-gpu.lock")
        for line in (ROOT / lock).read_text().splitlines()
    }
    wanted = {re.sub(r"[-_.]+", "-", name).lower() for extra in EXTRAS for name in requirements(extra)}
    assert not wanted - locked


def test_there_is_one_build_of_opencv() -> None:
    locked = [line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()]
    assert [name for name in locked if name.startswith("opencv")] == ["opencv-python-headless"]
