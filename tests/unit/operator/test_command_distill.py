"""``flowstill distill``: from flags to a DistillJob, and where the student and the manifest go."""

import argparse
import os
import re
from pathlib import Path

import pytest
import yaml

from flowstill.api.distilljob import DistillJobSpec
from flowstill.api.fields import StatusRef
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.stores import fetch, publish
from flowstill.errors import UserError
from flowstill_operator import cli
from flowstill_operator.command.delivery import check_output, deliver
from flowstill_operator.command.distill import FLAGS, HEADER, add_arguments, order
from flowstill_operator.command.files import manifest_of, read_manifests
from flowstill_operator.command.flags import check_name, write_manifest
from flowstill_operator.platform import local_platform
from tests.unit.artifacts.samples import make_folder, student_properties

STORE = "file:///tmp/store"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """A folder with a teacher and a dataset, and a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{tmp_path}/store")
    (tmp_path / "runs/My_Policy/checkpoints/0100/pretrained_model").mkdir(parents=True)
    (tmp_path / "runs/My_Policy/checkpoints/last").symlink_to("0100")
    (tmp_path / "data").mkdir()


def options(*arguments, teacher="runs/My_Policy/checkpoints/last/pretrained_model", dataset="data"):
    return cli.parser().parse_args(["distill", teacher, "--dataset", dataset, *arguments])


def asked(*arguments, **inputs):
    return order(options(*arguments, **inputs), STORE)


def refused(*arguments, **inputs):
    with pytest.raises(UserError) as caught:
        asked(*arguments, **inputs)
    return str(caught.value)


def field(spec, path):
    for name in path.split("."):
        spec = spec[name]
    return spec


def test_without_flags_it_is_the_models_defaults(tmp_path):
    made = asked()
    spec = made.document["spec"]
    assert spec["teacher"]["uri"] == f"file://{tmp_path}/runs/My_Policy/checkpoints/0100/pretrained_model"
    assert spec["dataset"] == {"uri": f"file://{tmp_path}/data"}
    assert set(spec) == {"teacher", "dataset", "student", "method", "training", "export", "validation"}
    assert asked("--gpus", "2").document["spec"]["runtime"] == {"gpusPerNode": 2}
    inputs = {"teacher": {"uri": "store://t"}, "dataset": {"uri": "store://d"}}
    plain = DistillJobSpec.model_validate(inputs)
    assert made.spec.model_copy(update={"teacher": plain.teacher, "dataset": plain.dataset}) == plain
    # The seed's, so that its command line does here what it did there.
    assert (spec["training"]["steps"], spec["training"]["learningRate"], spec["training"]["batchSize"]) == (
        10000,
        1e-4,
        32,
    )
    assert (spec["method"]["mixRatio"], spec["validation"]) == (1.0, {"after": False})
    assert (made.output, made.manifest) == (tmp_path / "student-export", tmp_path / "student-export.yaml")
    assert options().runtime == "local"


GIVEN = {
    "--steps": ("7000", 7000),
    "--mix-ratio": ("1", 1.0),
    "--lr": ("5e-4", 5e-4),
    "--batch-size": ("128", 128),
    "--gradient-accumulation": ("4", 4),
    "--warmup-steps": ("3", 3),
    "--ema": ("0.999", 0.999),
    "--fidelity-every": ("50", 50),
    "--precision": ("fp32", "fp32"),
    "--export-precision": ("fp16", "fp16"),
    "--seed": ("7", 7),
    "--target-steps": ("4", 4),
    "--bank-size": ("100", 100),
    "--refine-steps": ("1500", 1500),
    "--draws": ("16", 16),
    "--teacher-steps": ("5", 5),
    "--threshold": ("0.01", 0.01),
    "--gpus": ("2", 2),
    "--nodes": ("2", 2),
}


@pytest.mark.parametrize("flag", FLAGS.flags, ids=lambda flag: flag.name)
def test_each_flag_sets_its_field_and_only_that(flag):
    text, value = GIVEN[flag.name]
    # On a cluster every flag means something.
    cluster, inputs = ("--runtime", "kubernetes", "--validate-after"), {"teacher": "store://t", "dataset": "store://d"}
    spec = asked(*cluster, flag.name, text, **inputs).document["spec"]
    assert field(spec, flag.field) == value
    section, name, *_ = flag.field.split(".")
    plain = asked(*cluster, **inputs).document["spec"]
    left = {**spec[section]}
    left.pop(name)
    before = {key: item for key, item in plain.get(section, {}).items() if key != name}
    assert left == before
    assert {key: item for key, item in spec.items() if key != section} == {
        key: item for key, item in plain.items() if key != section
    }


def test_the_help_says_the_defaults():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = " ".join(parser.format_help().split())
    assert "training steps (default: 10000)" in text
    assert "after the training; 0: none (default: 500)" in text
    assert "Undefined" not in text
    said = {action.option_strings[0]: action.help for action in parser._actions if action.option_strings}
    assert [flag.name for flag in FLAGS.flags if "(default: " not in said[flag.name]] == []


def test_every_flag_names_a_field_that_is_there():
    for path in FLAGS.flag_of:
        schema = DistillJobSpec.model_json_schema(by_alias=True)
        definitions = schema["$defs"]
        for name in path.split("."):
            assert name in schema["properties"], path
            found = schema["properties"][name]
            model = found.get("$ref") or found.get("anyOf", [{}])[0].get("$ref", "")
            schema = definitions.get(model.rpartition("/")[2], {})


def test_switches_and_renamed_cameras():
    spec = asked("--validate-after", "--state-out", "--rename-map", "a=b", "--rename-map", "c=d").document["spec"]
    assert (spec["validation"]["after"], spec["student"]["stateOut"]) == (True, True)
    assert spec["dataset"]["renameMap"] == {"a": "b", "c": "d"}


@pytest.mark.parametrize(("steps", "warmup"), [("10000", 500), ("1000", 100), ("5", 0)])
def test_warm_up_takes_at_most_a_tenth_unless_it_is_given(steps, warmup):
    assert asked("--steps", steps).spec.training.warmup_steps == warmup
    assert asked("--steps", steps, "--warmup-steps", "400").spec.training.warmup_steps == 400


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "many"], "--steps: many: Input should be a valid integer"),
        (["--batch-size", "1"], "--batch-size: 1: Input should be greater than or equal to 2"),
        (["--lr", "0"], "--lr: 0: Input should be greater than 0"),
        (["--mix-ratio", "nan"], "--mix-ratio: nan: Input should be a finite number"),
        (["--precision", "fp8"], "--precision: fp8: Input should be 'fp32' or 'bf16'"),
        (["--refine-steps", "-1"], "--refine-steps: -1: Input should be greater than or equal to 0"),
        (["--draws", "4"], "--draws must be 1 or 8 to 64"),
        (["--target-steps", "1"], "--target-steps must be between 2 and 100"),
        (["--bank-size", "9", "--target-steps", "2"], "--bank-size needs --target-steps > 2"),
        (["--bank-size", "9", "--mix-ratio", "0"], "--bank-size needs --mix-ratio > 0"),
        (["--nodes", "2"], "--nodes: this machine is one node, not 2: set it to 1, or apply the resource to a cluster"),
        (["--gpus", "-1"], "--gpus: -1: Input should be greater than or equal to 0"),
        (["--threshold", "0.1"], "--threshold: it is the limit of --validate-after; give that too"),
        (["--rename-map", "front=" + "x" * 129], "--rename-map: " + "x" * 129 + ": String should have at most 128"),
        (["--rename-map", "front"], "--rename-map: 'front': use OLD=NEW"),
        (["--name", "My_Policy"], "--name: 'My_Policy': use 1 to 40 lower-case letters"),
        (["--namespace", "robots"], "--namespace: it belongs to --runtime kubernetes"),
    ],
)
def test_bad_values_name_the_flag_and_the_fix(arguments, words):
    assert refused(*arguments).startswith(words)


def test_all_bad_values_at_once():
    assert refused("--mix-ratio", "2", "--steps", "0", "--lr", "2").splitlines() == [
        "--mix-ratio: 2: Input should be less than or equal to 1",
        "--steps: 0: Input should be greater than or equal to 1",
        "--lr: 2: Input should be less than or equal to 1",
    ]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            {"teacher": "lerobot/pi0"},
            "TEACHER: lerobot/pi0 is no folder here: give a folder of this machine, store://PATH",
        ),
        ({"dataset": "none"}, "--dataset: none is no folder here"),
        ({"dataset": __file__}, f"--dataset: {__file__} is a file: give a folder"),
        ({"teacher": "pvc://claim/t"}, "TEACHER: pvc://claim/t cannot be read here: there are no Persistent"),
        ({"dataset": "hf://a/b"}, "--dataset: hf://a/b: hf:// needs the 40 hexadecimal digits of a commit"),
        ({"teacher": "http://x/y"}, "TEACHER: http://x/y: write file:///PATH, pvc://CLAIM/PATH, s3://"),
        ({"teacher": "store://a/../b"}, "TEACHER: store://a/../b must not contain '..'"),
    ],
)
def test_inputs_that_cannot_be_read_name_the_flag_and_the_fix(inputs, words):
    assert refused(**inputs).startswith(words)


def test_a_folder_whose_name_no_uri_can_have(tmp_path):
    (tmp_path / "what?").mkdir()
    assert re.match(r"TEACHER: .*rename the folder", refused(teacher="what?"))


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        ("runs/My_Policy/checkpoints/last/pretrained_model", "my-policy"),
        ("store://teachers/reach-around", "reach-around"),
        ("store://teachers/" + "a" * 39 + "-b", "a" * 39),
        ("store://teachers/π0", "0"),
        ("store://teachers/--/", "teachers"),
    ],
)
def test_the_name_is_made_from_the_teachers_path(teacher, name):
    made = asked(teacher=teacher)
    assert made.name == made.document["metadata"]["name"] == name


def test_a_path_without_a_name_asks_for_one():
    assert refused(teacher="store://00/last").startswith("--name: store://00/last has no part that makes a name")
    assert asked("--name", "mine", teacher="store://00/last").name == "mine"


def on_cluster(*arguments, teacher="store://teachers/t", dataset="pvc://claim/d"):
    return ["--runtime", "kubernetes", *arguments], {"teacher": teacher, "dataset": dataset}


def test_on_a_cluster_the_store_keeps_the_student():
    arguments, inputs = on_cluster("--namespace", "robots", "--validate-after")
    made = asked(*arguments, **inputs)
    assert made.document["metadata"] == {"name": "t", "namespace": "robots"}
    assert (made.output, made.manifest) == (None, Path("t.yaml"))
    assert made.document["spec"]["dataset"] == {"uri": "pvc://claim/d"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (on_cluster(teacher="runs/My_Policy"), "TEACHER: runs/My_Policy is a folder of this machine: a pod sees no"),
        (on_cluster(dataset="file:///data"), "--dataset: file:///data cannot be read here: a pod sees no"),
        (on_cluster("--output", "here"), "--output: the student stays in the cluster's store; leave it out"),
        (on_cluster("--fresh"), "--fresh: a resource of a cluster cannot be run anew; give another --name"),
    ],
)
def test_what_a_cluster_cannot_do(given, words):
    arguments, inputs = given
    assert refused(*arguments, **inputs).startswith(words)


def test_a_dry_run_prints_a_manifest_that_runs_and_does_nothing(tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["distill", "runs/My_Policy", "--dataset", "data", "--steps", "9", "--dry-run"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    [read] = read_manifests([path], local_platform(STORE))
    made = order(options("--steps", "9", teacher="runs/My_Policy"), STORE)
    assert read == manifest_of(made.document, local_platform(STORE))
    assert yaml.safe_load(made.text) == made.document


def test_bad_input_ends_with_the_code_of_flowstill_run(tmp_path, capsys):
    assert cli.main(["distill", "none", "--dataset", "data"]) == 2
    assert "error: TEACHER: none is no folder" in capsys.readouterr().err
    assert cli.main(["distill", "none"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: flowstill distill ")
    assert "error: the following arguments are required: --dataset" in said
    assert not list(tmp_path.glob("student-export*"))


def test_the_manifest_is_written_anew_but_never_over_somebody_elses(tmp_path):
    path = tmp_path / "deep" / "a.yaml"
    write_manifest(path, HEADER + "a: 1\n")
    write_manifest(path, HEADER + "a: 2\n")
    assert path.read_text().endswith("a: 2\n")
    path.write_text("a: mine\n")
    with pytest.raises(UserError, match=r"--manifest: .*a\.yaml was not written by this command; give another file"):
        write_manifest(path, HEADER)
    assert path.read_text() == "a: mine\n"
    with pytest.raises(UserError, match=r"--manifest: .* cannot be written"):
        write_manifest(path / "b.yaml", HEADER)


def test_a_name_belongs_to_the_flags_that_it_was_run_with(tmp_path):
    from flowstill_operator.clusters.local import LocalCluster

    platform = local_platform(STORE)
    first, other = (manifest_of(asked(*flags).document, platform) for flags in ([], ["--steps", "5"]))
    state = tmp_path / "state"
    check_name(first, state, fresh=False)
    LocalCluster(state).declare("DistillJob", first.name, first.spec, fresh=False)
    check_name(first, state, fresh=False)
    with pytest.raises(UserError, match=r"--name: DistillJob my-policy was run with other flags: .* --fresh"):
        check_name(other, state, fresh=False)
    check_name(other, state, fresh=True)


def published(tmp_path, spec, **changes):
    method = spec.method.model_dump(mode="json", by_alias=True)
    method["training"] = spec.training.model_dump(mode="json", by_alias=True)
    folder = make_folder(tmp_path / "work", **{"policy/config.json": str(changes)})
    inputs = {
        name: StatusRef(uri=source.uri, digest="sha256:" + "a" * 64)
        for name, source in (("teacher", spec.teacher), ("dataset", spec.dataset))
    }
    return publish(folder, "Student", student_properties(**{"method": method, **inputs, **changes}))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("there", [False, True], ids=["new folder", "empty folder"])
def test_the_students_folder_is_a_copy_of_the_published_one(tmp_path, there):
    student, output = published(tmp_path, asked().spec), tmp_path / "deep/out"
    if there:
        output.mkdir(parents=True)
    check_output(output, asked().spec)
    deliver(student, output)
    assert contents(output) == contents(fetch(student))
    inodes = {path.stat().st_ino for path in output.rglob("*")}
    check_output(output, asked().spec)
    deliver(student, output)
    assert {path.stat().st_ino for path in output.rglob("*")} == inodes
    assert os.listdir(output.parent) == ["out"]


def test_a_folder_with_something_else_is_refused_before_anything_runs(tmp_path, capsys):
    output = tmp_path / "student-export"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    assert cli.main(["distill", "runs/My_Policy", "--dataset", "data"]) == 2
    assert "--output: " in (said := capsys.readouterr().err)
    assert "is not empty and holds no student; give another, or remove it" in said
    assert not (tmp_path / "student-export.yaml").exists()
    assert contents(output) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    "flags", [["--steps", "5"], ["--draws", "1"], ["--mix-ratio", "0.5"], ["--teacher-steps", "4"]]
)
def test_a_student_of_other_options_is_refused_before_anything_runs(tmp_path, flags):
    output = tmp_path / "out"
    deliver(published(tmp_path, asked().spec), output)
    check_output(output, asked().spec)
    with pytest.raises(UserError, match=r"--output: .* holds a student of other options; give another, or remove it"):
        check_output(output, asked(*flags).spec)


@pytest.mark.parametrize("what", ["teacher", "dataset"])
def test_a_student_of_other_inputs_is_refused_before_anything_runs(tmp_path, what):
    spec, output, moved = asked().spec, tmp_path / "out", tmp_path / "moved"
    moved.mkdir()
    (moved / "config.json").write_text("{}")
    there = StatusRef(uri=moved.as_uri(), digest=tree_digest(moved))
    deliver(published(tmp_path, spec, **{what: there}), output)
    folder = Path(getattr(spec, what).uri.removeprefix("file://"))
    (folder / "config.json").write_text("another")
    with pytest.raises(UserError, match=rf"--output: .* student of another {what} \(file:.*/moved\); give another"):
        check_output(output, spec)
    (folder / "config.json").write_text("{}")
    check_output(output, spec)


def test_another_student_of_the_same_options_is_kept(tmp_path):
    spec, output = asked().spec, tmp_path / "out"
    deliver(published(tmp_path, spec), output)
    before = contents(output)
    check_output(output, spec)
    with pytest.raises(UserError, match=r"--output: .* holds another student than store://.*does not train again"):
        deliver(published(tmp_path, spec, seed=1), output)
    assert contents(output) == before


def test_a_damaged_copy_is_not_taken_for_the_student(tmp_path):
    student, output = published(tmp_path, asked().spec), tmp_path / "out"
    deliver(student, output)
    (output / "policy/config.json").write_text("other")
    with pytest.raises(UserError, match=r"--output: .*config\.json has other bytes.*remove .*out, and give the same"):
        deliver(student, output)


def test_a_student_that_is_gone_from_the_store(tmp_path):
    gone = StatusRef(uri="store://students/none", digest="sha256:" + "a" * 64)
    with pytest.raises(UserError, match=r"status\.student\.uri: store://students/none cannot be read"):
        deliver(gone, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_path_that_cannot_be_an_output(tmp_path):
    with pytest.raises(UserError, match=r"--output: .*give another"):
        check_output(tmp_path / "what?", asked().spec)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output: .*holds no student"):
        check_output(tmp_path / "file", asked().spec)
    student = published(tmp_path, asked().spec)
    with pytest.raises(UserError, match=r"--output: .* cannot be written .*does not train again"):
        deliver(student, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "text", [None, "", "apiVersion: [", "a: b"], ids=["missing", "empty", "broken", "another file"]
)
@pytest.mark.parametrize("namespace", [(), ("--namespace", "robots")], ids=["its namespace", "given namespace"])
def test_without_a_kubeconfig_nothing_is_applied(tmp_path, monkeypatch, capsys, text, namespace):
    config = tmp_path / "kubeconfig"
    if text is not None:
        config.write_text(text)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
    arguments, inputs = on_cluster(*namespace)
    assert cli.main(["distill", inputs["teacher"], "--dataset", inputs["dataset"], *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --runtime kubernetes: no kubeconfig can be read (")
    assert "set KUBECONFIG" in said
