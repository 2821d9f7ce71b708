"""``flowstill records push``: what it checks, what it says, and what it publishes."""

import json

import pytest

from flowstill.api.fields import ArtifactRef
from flowstill.artifacts.manifest import Manifest, RecordsProperties, describe_files, read_manifest
from flowstill.artifacts.records import fetch_records
from flowstill.artifacts.stores import publish, push
from flowstill.artifacts.trials import read_trials
from flowstill.errors import ArtifactError, DigestMismatch, RecordsRejected
from flowstill_operator import cli
from flowstill_operator.command.records import summary
from tests.unit.artifacts.samples import make_folder, student_properties
from tests.unit.operator.builders import digest, ref

STUDENT, BASELINE = f"store://students/a@{digest('a')}", f"store://students/b@{digest('b')}"
URI = "store://evidence/pick"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """Commands run in a folder of their own, with its store; what they leave in the process goes with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSTILL_STORE", (tmp_path / ".flowstill/store").as_uri())
    return tmp_path / ".flowstill/store"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "trials"
    (made / "velocities").mkdir(parents=True)
    lines = []
    for pair in range(3):
        for arm in ("student", "baseline"):
            name = f"velocities/{pair}-{arm}.csv"
            (made / name).write_text("a,b\n0.1,0.2\n")
            success = arm == "baseline" or pair > 0
            lines.append({"task": "pick", "pair": pair, "arm": arm, "success": success, "velocities": name})
    (made / "trials.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return made


def run(folder, *more, student=STUDENT, baseline=BASELINE, uri=URI):
    return cli.main(["records", "push", str(folder), uri, "--student", student, "--baseline", baseline, *more])


def test_it_is_published_with_the_policies_that_it_is_about(folder, store, capsys):
    (folder / "photo.txt").write_text("not named by any trial")
    assert run(folder) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "pick: 3 pairs; the student succeeded in 2, the baseline in 3"
    assert said[1].startswith("S1, P6 will be Inconclusive: the trials have no clamped_steps")
    assert said[2] == "left out, as no trial names them: photo.txt"
    uri, _, pinned = said[3].partition("@")
    about, trials = fetch_records(ArtifactRef(uri=uri, digest=pinned), "evidence")
    assert (uri, about.pairs, about.joints) == (URI, {"pick": 3}, ["a", "b"])
    assert (about.student.digest, about.baseline.digest) == (digest("a"), digest("b"))
    assert len(trials.trials) == 6
    there = store / "evidence/pick"
    assert (there / "trials.jsonl").read_bytes() == (folder / "trials.jsonl").read_bytes()
    assert not (there / "photo.txt").exists()
    assert read_manifest(there).kind == "Records"


def test_the_same_twice_is_the_same(folder, capsys):
    assert (run(folder), run(folder)) == (0, 0)
    said = capsys.readouterr().out.splitlines()
    assert said[2] == said[5]


def test_other_bytes_are_replaced_only_by_force(folder, capsys):
    assert run(folder) == 0
    assert run(folder, baseline=f"store://students/c@{digest('c')}") == 2
    assert "holds other bytes" in capsys.readouterr().err
    assert run(folder, "--force", baseline=f"store://students/c@{digest('c')}") == 0


def test_a_dry_run_checks_everything_and_writes_nothing(folder, store, capsys):
    assert run(folder, "--dry-run") == 0
    assert "valid; nothing was written" in capsys.readouterr().out
    assert not store.exists()
    (folder / "velocities/1-student.csv").unlink()
    assert run(folder, "--dry-run") == 2
    assert "line 3: velocities: " in capsys.readouterr().err


def test_policies_of_the_store_are_read_for_their_digests(folder, tmp_path, capsys):
    student = publish(make_folder(tmp_path / "student"), "Student", student_properties())
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/config.json").write_text("{}")
    teacher = push(tmp_path / "teacher", "store://teachers/t")
    assert run(folder, student=student.uri, baseline=teacher.uri) == 0
    uri, _, pinned = capsys.readouterr().out.splitlines()[-1].partition("@")
    about, _ = fetch_records(ArtifactRef(uri=uri, digest=pinned), "evidence")
    assert (about.student, about.baseline) == (student, teacher)
    assert run(folder, student=teacher.uri, baseline=student.uri) == 2
    assert "--student: store://teachers/t is no student" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": "store://students/none"}, "--student: store://students/none cannot be read"),
        ({"student": "students/none"}, "--student: "),
        ({"baseline": "store://students/b@sha256:abc"}, "--baseline: store://students/b@sha256:abc is not URI@sha256"),
        ({"baseline": STUDENT}, "--baseline: it is the student itself"),
        ({"uri": "evidence/pick"}, "evidence/pick"),
    ],
)
def test_bad_references_are_named(folder, store, changes, words, capsys):
    assert run(folder, **changes) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (store / "evidence").exists()


def test_bad_trials_are_named(folder, capsys):
    with (folder / "trials.jsonl").open("a") as file:
        file.write('{"task": "pick", "pair": "9", "arm": "student", "success": 1}\n')
    assert run(folder) == 2
    assert "trials.jsonl line 7: success: Input should be a valid boolean" in capsys.readouterr().err


def test_only_whole_records_are_read_back(folder, tmp_path):
    run(folder)
    with pytest.raises(DigestMismatch, match=r"spec\.evaluation\.evidence\.digest"):
        fetch_records(ArtifactRef(uri=URI, digest=digest("0")), "spec.evaluation.evidence")
    student = publish(make_folder(tmp_path / "student"), "Student", student_properties())
    with pytest.raises(ArtifactError, match=r"of kind Student, not Records.*flowstill records push"):
        fetch_records(ArtifactRef(uri=student.uri, digest=student.digest), "spec.evaluation.evidence")


def test_records_that_would_not_be_published_are_not_believed(folder):
    """Whoever writes a manifest of his own has still to write good trials."""
    path = folder / "trials.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    about = RecordsProperties(
        pairs={"pick": 1}, student=ref("students", "a"), baseline=ref("students", "b"), flowstill="0"
    )
    manifest = Manifest(kind="Records", files=describe_files(folder), properties=about)
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    pushed = push(folder, URI)
    with pytest.raises(RecordsRejected, match="no trial of the baseline"):
        fetch_records(ArtifactRef(uri=pushed.uri, digest=pushed.digest), "evidence")


def test_long_lists_of_other_files_are_cut(folder):
    for number in range(12):
        (folder / f"{number:02}.txt").write_text("x")
    *_, said = summary(read_trials(folder))
    assert said.endswith("09.txt …")
