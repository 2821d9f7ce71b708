"""A disk that is full: said once, nothing lost, and the same command goes on when there is room.

The disk is a small tmpfs of its own, really full; where this process may not mount one, the tests are skipped.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowstill_operator import cli
from flowstill_operator.engine import loop
from tests.support.ground import Ground, may_mount, resource
from tests.support.tiny_run import Tiny
from tests.support.warm_children import LATER_FULL, WarmProcess

pytestmark = pytest.mark.skipif(not may_mount(), reason="a small full disk needs mount: root with CAP_SYS_ADMIN")
KIB = 1024
BLOCK = 4 * KIB


class Disk:
    """A tmpfs of a size that can be changed."""

    def __init__(self, path: Path, kib: int) -> None:
        self.path = path
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", path], check=True)

    def resize(self, kib: int) -> None:
        """Give it another size."""
        subprocess.run(["mount", "-o", f"remount,size={kib}k", self.path], check=True)

    def fill(self) -> Path:
        """A file that takes all of the room there is."""
        path = self.path / "filler"
        fill(path)
        return path

    def remove(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "-l", self.path], check=True)


def fill(path: Path) -> None:
    """Write until there is no room for a byte."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(BLOCK))
        except OSError:
            return


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Disk]]:
    """Makes disks of so many KiB."""
    made: list[Disk] = []

    def make(kib: int) -> Disk:
        made.append(Disk(tmp_path / f"disk-{len(made)}", kib))
        return made[-1]

    yield make
    for one in made:
        one.remove()


def written(folder: Path, pattern: str) -> dict[str, tuple[int, int]]:
    """What lies there: files with inode and time of writing."""
    paths = [path for path in sorted(folder.glob(pattern)) if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def failed_for_want_of_room(ground: Ground, starts: int, *words: str) -> None:
    """The job failed with StorageFull in its last start."""
    failed = ground.condition("DistillJob", "job", "Failed")
    assert failed is not None
    assert (failed["status"], failed["reason"]) == ("True", "StorageFull"), ground.log("job", "train")
    words = ("no space left", "what was done before is kept", *words)
    assert [text for text in words if text not in failed["message"]] == [], failed["message"]
    assert ground.starts("job", "train") == starts


@pytest.mark.parametrize(
    ("room", "place"),
    [(3500, "for the student in"), pytest.param(5400, "store/students", marks=pytest.mark.long)],
    ids=["making-the-student", "publishing-it"],
)
def test_bank_checkpoint_and_publication_on_a_disk_that_grows(
    tmp_path: Path, disk: Callable[[int], Disk], warm: WarmProcess, tiny: Tiny, room: int, place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(LATER_FULL, "1")
    store = disk(1200)
    ground = Ground(tmp_path, warm)
    ground.store = store.path / "store"
    job = resource("DistillJob", "job", {
        "teacher": {"uri": f"file://{tiny.teacher_folder}"}, "dataset": {"uri": f"file://{tiny.dataset_folder}"},
        "method": {"targetSteps": 2 + 1, "bankSize": 4096, "refine": {"steps": 0}},  # two parts of 844 KiB
        "training": {"steps": 8, "batchSize": 4, "warmupSteps": 2, "precision": "fp32", "checkpointEvery": 4},
    })  # fmt: skip

    assert ground.run(job).code == 1
    work = ground.work("DistillJob", "job", "train")
    failed_for_want_of_room(ground, 1, "part-000001", str(work / "bank"))
    bank = written(work, "bank/*")
    assert sorted(bank) == ["bank/bank.json", "bank/part-000000.json", "bank/part-000000.safetensors"]

    store.resize(2900)  # a checkpoint has 744 KiB
    assert ground.run(job).code == 1
    failed_for_want_of_room(ground, 2, str(work / "checkpoints"))
    assert written(work, "bank/*").items() > bank.items()
    bank, first = written(work, "bank/*"), written(work, "checkpoints/**/*")
    assert {name.split("/")[1] for name in first} == {"step-000000004"}

    store.resize(room)  # a student has 1,488 KiB, twice while it is published
    assert ground.run(job).code == 1
    failed_for_want_of_room(ground, 3, place)
    assert not (work / "student").exists()
    assert written(work, "bank/*") == bank
    assert written(work, "checkpoints/**/*").items() > first.items()
    checkpoints = written(work, "checkpoints/**/*")
    assert {name.split("/")[1] for name in checkpoints} == {"step-000000004", "step-000000008"}
    assert written(ground.store, "students/**/*") == {}, "nothing half published"

    store.resize(16 * KIB)
    said = ground.run(job)
    assert (said.code, ground.starts("job", "train")) == (0, 4), ground.log("job", "train")
    assert written(work, "bank/*") == bank
    assert written(work, "checkpoints/**/*") == checkpoints, "nothing was trained again"
    assert ground.resource("DistillJob", "job")["status"]["phase"] == "Succeeded"
    assert written(ground.store, "students/*/manifest.json")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_computed(
    tmp_path: Path, disk: Callable[[int], Disk], warm: WarmProcess, tiny: Tiny
) -> None:
    store = disk(2 * KIB)
    ground = Ground(tmp_path, warm)
    ground.store = store.path / "store"
    job = resource("DistillJob", "job", {
        "teacher": {"uri": f"file://{tiny.teacher_folder}"}, "dataset": {"uri": f"file://{tiny.dataset_folder}"},
        "method": {"targetSteps": 3, "bankSize": 1024, "refine": {"steps": 0}},
        "training": {"steps": 8, "batchSize": 4, "warmupSteps": 2, "precision": "fp32", "checkpointEvery": 4},
    })  # fmt: skip
    assert ground.run(job).code == 1
    failed = ground.condition("DistillJob", "job", "Failed")
    assert failed is not None
    assert failed["reason"] == "StorageFull", ground.log("job", "train")
    words = ("spec.training.keepCheckpoints: the run needs ", "2 checkpoints of 0.7 MiB", " MiB are free")
    assert [text for text in words if text not in failed["message"]] == [], failed["message"]
    work = ground.work("DistillJob", "job", "train")
    assert sorted(path.name for path in work.iterdir()) == ["result.json", "task.json"]

    store.resize(16 * KIB)
    assert ground.run(job).code == 0, ground.log("job", "train")
    assert written(ground.store, "students/*/manifest.json")


def test_a_push_that_does_not_fit_leaves_nothing(tmp_path: Path, disk: Callable[[int], Disk], tiny: Tiny) -> None:
    store = disk(300)
    ground = Ground(tmp_path, None)  # type: ignore[arg-type]
    command = ("store", "push", str(tiny.teacher_folder), "store://teachers/t", "--store", str(store.path))
    said = ground.give(*command)
    assert (said.code, said.output) == (2, "")
    assert said.errors.startswith(f"error: no space left for {tiny.teacher_folder} in {store.path}/teachers: free some")
    assert list(store.path.rglob("*")) == [store.path / "teachers"]
    store.resize(1024)
    assert ground.give(*command).code == 0
    assert (store.path / "teachers/t/model.safetensors").exists()


@pytest.mark.timeout(120)
def test_a_state_folder_that_is_full_from_the_start(tmp_path: Path, disk: Callable[[int], Disk]) -> None:
    state = disk(64)
    filler = state.fill()
    ground = Ground(tmp_path, None)  # type: ignore[arg-type]
    ground.state = state.path / "state"
    said = ground.run(some_job())
    assert said.code == 2
    assert said.errors.startswith(f"error: no space left for the state in {ground.state}: free some")
    assert not list(ground.state.glob("DistillJob/*"))
    filler.unlink()
    assert not list(ground.state.glob("jobs/*"))


FILLING_CHILD = """
import sys
sys.path[:0] = [{root!r}]
from pathlib import Path
from tests.local.test_full_disk import fill
if not Path({filler!r}).exists() and not Path({flag!r}).exists():
    Path({flag!r}).touch()
    fill(Path({filler!r}))
sys.exit(65)
"""


@pytest.mark.timeout(120)
def test_a_state_folder_that_fills_up_ends_the_run_and_not_the_work(
    tmp_path: Path, disk: Callable[[int], Disk], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The child fills the disk before it ends, so its end cannot be written down."""
    state = disk(256)
    filler = state.path / "filler"
    root = str(Path(__file__).parents[2])
    program = FILLING_CHILD.format(root=root, filler=str(filler), flag=str(tmp_path / "flag"))
    controller = loop.CONTROLLERS["DistillJob"]

    def manifest(observed: Any, wanted: Any, platform: Any) -> dict[str, Any]:
        job = controller.manifest(observed, wanted, platform)
        job["spec"]["template"]["spec"]["containers"][0]["command"] = [sys.executable, "-c", program]
        return job

    monkeypatch.setitem(loop.CONTROLLERS, "DistillJob", replace(controller, manifest=manifest))
    ground = Ground(tmp_path, None)  # type: ignore[arg-type]
    ground.state = state.path / "state"
    command = ["run", write(tmp_path, some_job()), "--state", str(ground.state), "--store", str(tmp_path / "store")]
    assert cli.main(command) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: no space left for job.json in {ground.state}/jobs/job-train-")
    assert "Traceback" not in said.err + said.out
    assert ground.resource("DistillJob", "job")["status"]["phase"] in ("Queued", "Running")

    filler.unlink()
    assert cli.main(command) == 1
    assert ground.condition("DistillJob", "job", "Failed")["reason"] == "PodFailurePolicy"  # type: ignore[index]
    assert ground.starts("job", "train") == 2


def some_job() -> dict[str, Any]:
    """A job that is valid as far as its file shows."""
    return resource("DistillJob", "job", {"teacher": {"uri": "store://t"}, "dataset": {"uri": "store://d"}})


def write(folder: Path, document: dict[str, Any]) -> str:
    """A file with that resource."""
    import yaml

    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)
