"""``flowstill eval``: from flags to a StudentRollout, and where the evidence goes."""

import json
from pathlib import Path

import pytest
import yaml

from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import StudentRolloutSpec
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.manifest import EvidenceProperties
from flowstill.artifacts.stores import publish
from flowstill.errors import UserError
from flowstill_operator import cli
from flowstill_operator.command.delivery import check_evidence_folder, deliver_evidence
from flowstill_operator.command.evaluate import FLAGS, order, per_task
from flowstill_operator.command.files import manifest_of, read_manifests
from flowstill_operator.command.policies import pinned
from flowstill_operator.command.shared import store_uri
from flowstill_operator.platform import kubernetes_platform, local_platform
from tests.unit.artifacts.samples import DIGEST, make_folder, student_properties

SUITE = ("--suite", "metaworld", "--tasks", "reach-v3,push-v3")
CLUSTER = ("--runtime", "kubernetes")
THERE = f"store://students/sha256-{'b' * 64}"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """A folder with a student, its teacher and something else, and a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{tmp_path}/.flowstill/store")
    made = publish(make_folder(tmp_path / "work"), "Student", student_properties())
    Path(".flowstill/store", made.uri.removeprefix("store://")).rename("student-export")
    make_folder(tmp_path / "teacher", **{"config.json": "{}", "model.safetensors": "w"})


def asked(*arguments, student="student-export", suite=SUITE):
    options = cli.parser().parse_args(["eval", student, *suite, *arguments])
    return order(options, f"file://{Path.cwd()}/.flowstill/store")


def spec(*arguments, **inputs):
    return asked(*arguments, **inputs).document["spec"]


def refused(*arguments, **inputs):
    with pytest.raises(UserError) as caught:
        asked(*arguments, **inputs)
    return str(caught.value)


def test_folders_may_be_given_from_the_folder_above(tmp_path, monkeypatch):
    Path("deeper").mkdir()
    monkeypatch.chdir("deeper")
    assert store_uri("../.flowstill/store") == f"file://{tmp_path}/.flowstill/store"
    assert asked("--output", "../out", student="../student-export").output == tmp_path / "out"


def test_without_flags_it_is_the_models_defaults(tmp_path):
    made = asked()
    student = {"uri": f"file://{tmp_path}/student-export", "digest": tree_digest(Path("student-export"))}
    assert made.document["spec"]["student"] == student
    evaluation = {"suite": "metaworld", "tasks": ["reach-v3", "push-v3"]}
    plain = StudentRolloutSpec.model_validate({"student": student, "evaluation": evaluation})
    assert StudentRolloutSpec.model_validate(made.document["spec"]) == plain
    assert (made.name, made.output, made.manifest) == ("student-export", None, Path("student-export-eval.yaml"))
    assert "runtime" not in made.document["spec"]


GIVEN = {
    "--episodes-per-task": ("60", 60),
    "--max-episodes-per-task": ("70", 70),
    "--seed": ("3", 3),
    "--shards": ("2", 2),
    "--action-steps": ("4", 4),
    "--runner": ("torch", "torch"),
    "--videos": ("none", "none"),
    "--threshold": ("1e-4", 1e-4),
    "--samples": ("8", 8),
    "--gpus": ("2", 2),
}


@pytest.mark.parametrize("flag", [flag for flag in FLAGS.flags if flag.name in GIVEN], ids=lambda flag: flag.name)
def test_each_flag_sets_its_field_and_only_that(flag):
    text, value = GIVEN[flag.name]
    given, plain = spec(*CLUSTER, flag.name, text, student=THERE), spec(*CLUSTER, student=THERE)
    section, name = flag.field.split(".")
    assert given.pop(section, {}) == {**plain.pop(section, {}), name: value}
    assert given == plain


def test_every_flag_is_tested():
    assert {flag.name for flag in FLAGS.flags} - set(GIVEN) == {"--entry-point"}


def test_a_suite_of_ones_own():
    custom = ("--suite", "custom", "--tasks", "wipe")
    assert spec("--entry-point", "my_lab.envs:make", suite=custom)["evaluation"]["custom"]["entryPoint"] == (
        "my_lab.envs:make"
    )
    assert refused(suite=custom) == "--entry-point and the suite custom belong together"


@pytest.mark.parametrize(
    ("flags", "each", "most"),
    [
        (("--num-episodes", "50"), 25, 25),
        (("--num-episodes", "50", "--max-episodes-per-task", "100"), 25, 100),
        (("--episodes-per-task", "50"), 50, None),
        ((), 50, None),
    ],
)
def test_episodes_are_counted_over_all_tasks(flags, each, most):
    evaluation = spec(*flags)["evaluation"]
    assert (evaluation["episodesPerTask"], evaluation.get("maxEpisodesPerTask")) == (each, most)


@pytest.mark.parametrize(
    ("episodes", "tasks", "fix"),
    [(50, 3, "give 48 or 51"), (2, 3, "give at least 3"), (0, 1, "give at least 1"), (-5, 10, "give at least 10")],
)
def test_episodes_that_cannot_be_shared_out(episodes, tasks, fix):
    with pytest.raises(UserError, match=rf"--num-episodes: {episodes} episodes are not the same .*: {fix}"):
        per_task(episodes, tasks)


def test_names_by_commas_or_several_flags():
    evaluation = spec("--arms", "teacher@10, student", "--arms", "student-draws", "--tasks", "c")["evaluation"]
    assert evaluation["arms"] == ["teacher@10", "student", "student-draws"]
    assert evaluation["tasks"] == ["reach-v3", "push-v3", "c"]
    assert spec("--rename-map", "a=b")["evaluation"]["renameMap"] == {"a": "b"}


def test_other_limits_of_gates_come_from_a_file():
    path = Path("gates.yaml")
    path.write_text("P1: {margin: 0.05}")
    assert spec("--gates", "gates.yaml")["gates"]["P1"] == {"margin": 0.05}
    assert spec()["gates"]["P1"] != {"margin": 0.05}
    for text, words in [
        ("P4: {min_cosine: 0.9}", "--gates: gates.yaml: gates.P4.min_cosine: unknown field"),
        ("P1: {margin: 2}", "--gates: gates.yaml: gates.P1.margin: Input should be less"),
        ("S3: {margin: 0.5}", "--gates: gates.yaml: gates.S3.margin: Input should be less"),
        ("- P1", "--gates: gates.yaml is no mapping of gates"),
        ("P1: [", "gates.yaml: no valid YAML"),
    ]:
        path.write_text(text)
        assert refused("--gates", "gates.yaml").startswith(words)
    assert refused("--gates", "none") == "--gates: none is no file; give the YAML of spec.gates"


def test_libero_alone_is_the_ten_tasks_of_libero_object():
    found = spec("--num-episodes", "50", suite=("--suite", "libero"))["evaluation"]
    assert found["tasks"] == [f"libero_object/{number}" for number in range(10)]
    assert (found["episodesPerTask"], found["maxEpisodesPerTask"]) == (5, 5)
    assert refused(suite=("--suite", "metaworld")).startswith("--tasks: name the tasks of suite metaworld")


def test_teacher_and_baseline_are_pinned_to_their_bytes():
    digest = tree_digest(Path("teacher"))
    found = spec("--reference", "teacher", "--baseline", f"teacher@{digest}")
    assert found["teacher"] == found["baseline"] == {"uri": f"file://{Path.cwd()}/teacher", "digest": digest}
    wrong = refused("--baseline", f"teacher@{DIGEST}")
    assert wrong.startswith(f"--baseline: file://{Path.cwd()}/teacher ")
    assert f"has digest {digest}, not {DIGEST}" in wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "robocasa"], "--suite: robocasa: Input should be 'metaworld', 'libero' or 'custom'"),
        (["--tasks", "a,,b"], "--tasks: 'reach-v3,push-v3,a,,b' has an empty name"),
        (["--arms", "teacher@3,student"], "--arms: teacher@3: Input should be 'teacher@10'"),
        (["--seed", "-1"], "--seed: -1: Input should be greater than or equal to 0"),
        (["--threshold", "0"], "--threshold: 0: Input should be greater than 0"),
        (["--max-episodes-per-task", "9"], "--max-episodes-per-task must be at least --episodes-per-task"),
        (["--num-episodes", "4", "--episodes-per-task", "2"], "--num-episodes: it says the same as --episodes-per"),
        (["--reference", "none"], "--reference: none is no folder here"),
        (["--reference", "hf://a/b"], "--reference: hf://a/b: hf:// needs the 40 hexadecimal digits of a commit"),
        (["--namespace", "robots"], "--namespace: it belongs to --runtime kubernetes"),
        (["--rename-map", "a"], "--rename-map: 'a': use OLD=NEW"),
        (["--name", "No"], "--name: 'No': use 1 to 40"),
    ],
)
def test_bad_values_name_the_flag_and_the_fix(arguments, words):
    assert refused(*arguments).startswith(words)


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("none", "STUDENT: none is no folder here: give a folder"),
        ("teacher", "STUDENT: file://.*/teacher is no student .*give the folder that `flowstill distill` wrote"),
        ("store://students/none", "STUDENT: store://students/none is no student"),
        ("pvc://claim/s", "STUDENT: pvc://claim/s cannot be read here"),
        (f"student-export@{DIGEST}", "STUDENT: file://.*has digest sha256:.*, not sha256:a"),
    ],
)
def test_what_is_no_student_is_refused_before_anything_runs(student, words):
    with pytest.raises(UserError, match=f"^{words}"):
        asked(student=student)


def test_a_damaged_student_is_refused():
    Path("student-export/onnx/student.onnx").write_text("other")
    assert refused().startswith(f"STUDENT: file://{Path.cwd()}/student-export: ")
    assert "has other bytes" in refused()


def test_on_a_cluster_a_policy_is_pinned_by_whoever_asks():
    platform = kubernetes_platform("", "", "pvc://theirs")
    digest = f"sha256:{'b' * 64}"
    assert pinned(THERE, "STUDENT", platform) == {"uri": THERE, "digest": digest}
    assert pinned(f"pvc://c/s@{DIGEST}", "STUDENT", platform) == {"uri": "pvc://c/s", "digest": DIGEST}
    assert pinned(f"{THERE}@{DIGEST}", "STUDENT", platform)["digest"] == DIGEST
    with pytest.raises(UserError, match=r"^--baseline: pvc://c/s cannot be looked at from here: pin it"):
        pinned("pvc://c/s", "--baseline", platform)
    made = asked(*CLUSTER, "--namespace", "robots", "--name", "mine", student=THERE)
    assert made.document["metadata"] == {"name": "mine", "namespace": "robots"}
    assert (made.output, made.manifest) == (None, Path("mine-eval.yaml"))
    assert asked(*CLUSTER, student=f"pvc://c/my-student@{DIGEST}").name == "my-student"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--output", "here"), "--output: the evidence stays in the cluster's store; leave it out"),
        (("--fresh",), "--fresh: a resource of a cluster cannot be run anew"),
    ],
)
def test_what_a_cluster_cannot_do(flags, words):
    assert refused(*CLUSTER, *flags, student=THERE).startswith(words)
    assert refused(*CLUSTER).startswith("STUDENT: student-export is a folder of this machine: a pod sees no")


def test_a_dry_run_prints_a_manifest_that_runs_and_does_nothing(tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    line = ["eval", "student-export", *SUITE, "--num-episodes", "50", "--dry-run"]
    assert cli.main(line) == 0
    text = capsys.readouterr().out
    assert cli.main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["document"] == yaml.safe_load(text)
    assert sorted(tmp_path.rglob("*")) == before
    Path("printed.yaml").write_text(text)
    platform = local_platform(f"file://{tmp_path}/.flowstill/store")
    [read] = read_manifests([Path("printed.yaml")], platform)
    assert read == manifest_of(asked("--num-episodes", "50").document, platform)


def evidence(tmp_path, text):
    ref = StatusRef(uri="store://teachers/t", digest=DIGEST)
    properties = EvidenceProperties(
        suite="metaworld", tasks=["a"], arms=["student"], seeds=[0], versions={}, student=ref, teacher=ref, baseline=ref
    )
    folder = make_folder(tmp_path / text, **{"report.html": text})
    return publish(folder, "Evidence", properties, "store://evidence")


def test_evidence_is_copied_in_the_place_of_other_evidence_and_of_nothing_else(tmp_path):
    output = tmp_path / "deep/eval_output"
    for text in ("first", "second", "second"):
        check_evidence_folder(output)
        ref = evidence(tmp_path, text)
        deliver_evidence(ref, output)
        assert (tree_digest(output), (output / "report.html").read_text()) == (ref.digest, text)
    for folder in ("student-export", "teacher"):
        before = tree_digest(Path(folder))
        with pytest.raises(UserError, match=r"^--output: .*give another, or remove"):
            check_evidence_folder(tmp_path / folder)
        assert cli.main(["eval", "student-export", *SUITE, "--output", folder]) == 2
        assert tree_digest(Path(folder)) == before
    with pytest.raises(UserError, match=r"^--output: .*give another"):
        check_evidence_folder(tmp_path / "what?")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output: .* cannot be written .*runs no episode again"):
        deliver_evidence(ref, tmp_path / "file" / "out")
    assert not (tmp_path / "student-export-eval.yaml").exists()
