"""Reading manifests on the command line: what is wrong, where, and what to do."""

from pathlib import Path

import pytest
import yaml

from flowstill.errors import UserError
from flowstill_operator.command.files import read_manifests
from flowstill_operator.platform import local_platform
from tests.unit.operator.builders import TARGET_SPEC, distill_spec, rollout_spec

LOCAL = local_platform("file:///tmp/store")
EXAMPLES = Path(__file__).parents[3] / "examples"


def document(kind="DistillJob", spec=None, name="a", **changes):
    spec = (distill_spec() if kind == "DistillJob" else rollout_spec()) if spec is None else spec
    return {"apiVersion": "flowstill.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec, **changes}


def write(tmp_path, *documents):
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return [path]


def test_the_quickstart_is_valid_and_pins_what_was_measured():
    files = [EXAMPLES / "quickstart/studentrollout.yaml", EXAMPLES / "quickstart/distilljob.yaml"]
    job, rollout = read_manifests(files, LOCAL)
    assert (job.kind, rollout.kind) == ("DistillJob", "StudentRollout")
    assert (job.spec["student"]["draws"], job.spec["method"]["mixRatio"], job.spec["method"]["bankSize"]) == (
        8,
        1.0,
        12000,
    )
    assert (job.spec["training"]["ema"], job.spec["training"]["precision"]) == (0.999, "fp32")
    assert (rollout.spec["evaluation"]["tasks"], rollout.spec["evaluation"]["episodesPerTask"]) == (
        ["reach-around"],
        200,
    )
    assert rollout.spec["student"]["distillJob"] == job.name


def test_the_custom_suites_manifest_is_valid_and_names_its_function():
    [rollout] = read_manifests([EXAMPLES / "custom_suite/studentrollout.yaml"], LOCAL)
    assert rollout.spec["evaluation"]["suite"] == "custom"
    package, _, function = rollout.spec["evaluation"]["custom"]["entryPoint"].partition(":")
    assert f"def {function}(" in (EXAMPLES / "custom_suite" / package / "__init__.py").read_text()


def test_a_time_without_quotes_is_a_string_as_for_the_api_server(tmp_path):
    override = {"gate": "P2", "by": "ann", "reason": "why", "expires": "TIME"}
    [path] = write(tmp_path, document("StudentRollout", rollout_spec(overrides=[override])))
    path.write_text(path.read_text().replace("TIME", "2026-12-31T23:59:59Z"))
    [rollout] = read_manifests([path], LOCAL)
    assert rollout.spec["overrides"] == [{**override, "expires": "2026-12-31T23:59:59Z"}]


def test_defaults_are_filled_in_so_that_equal_specs_are_equal(tmp_path):
    [plain] = read_manifests(write(tmp_path, document()), LOCAL)
    [spelt] = read_manifests(write(tmp_path, document(spec=distill_spec(student={"draws": 8}))), LOCAL)
    assert plain == spelt


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (document(spec=distill_spec(trainer={})), "spec.trainer: unknown field"),
        (document(spec=distill_spec(training={"batch_size": 2})), "spec.training.batch_size: unknown field"),
        (
            document(spec=distill_spec(method={"mixRatio": 2})),
            "file.yaml: spec.method.mixRatio: Input should be less than",
        ),
        (document(spec=distill_spec(teacher={"uri": "data"})), "spec.teacher.uri: write file:///PATH, pvc://CLAIM/"),
        (
            document(spec=distill_spec(runtime={"shmSize": "2GB"})),
            "shmSize: write a quantity of Kubernetes as text, such",
        ),
        (document(spec=distill_spec(runtime={"resources": {"limits": {"cpu": 4}}})), "limits.cpu: write a quantity"),
        (
            document("StudentRollout", rollout_spec(monitoring={"window": 24})),
            "spec.monitoring.window: write a whole number of seconds, minutes or hours, such as 90s, 30m or 24h",
        ),
        (
            document("StudentRollout", rollout_spec(student={"uri": "store://s", "digest": "sha256:ab"})),
            "spec.student.digest: write sha256: and 64 hexadecimal digits",
        ),
        (document(spec={"teacher": {"uri": "store://t"}}), "spec.dataset: Field required"),
        (document(spec=distill_spec(teacher={"uri": "pvc://c/t"})), "flowstill store push"),
        (document("StudentRollout", rollout_spec(target=TARGET_SPEC)), "remove spec.target"),
        (document(kind="Deployment"), "kind: 'Deployment' does not run here"),
        (document(apiVersion="v1"), "apiVersion: 'v1': use flowstill.dev/v1alpha1"),
        (document(name="A_b"), "metadata.name"),
        (document(name="a" * 41), "1 to 40"),
        (document(extra=1), "extra: unknown field"),
        (["a"], "a manifest is a mapping"),
    ],
)
def test_errors_name_file_field_and_fix(tmp_path, given, words):
    with pytest.raises(UserError) as caught:
        read_manifests(write(tmp_path, given), LOCAL)
    assert words in str(caught.value)
    assert "file.yaml" in str(caught.value)
    assert "default factory" not in str(caught.value)


def test_all_errors_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        read_manifests(write(tmp_path, document(name="-"), document(kind="X"), document(), document()), LOCAL)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "document 2" in lines[1]
    assert "given twice" in lines[2]


@pytest.mark.parametrize("text", ["", "a: [", "\x00", "1: a", "kind: A\nkind: A"])
def test_files_that_hold_nothing(tmp_path, text):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"file\.yaml"):
        read_manifests([path], LOCAL)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_manifests([tmp_path / "none.yaml"], LOCAL)


def test_the_deployment_example_is_a_target():
    rollout = yaml.safe_load((EXAMPLES / "deployment/studentrollout.yaml").read_text())
    documents = list(yaml.safe_load_all((EXAMPLES / "deployment/deployment.yaml").read_text()))
    [deployment] = [d for d in documents if d["kind"] == "Deployment"]
    wanted = rollout["spec"]["target"]["deployment"]
    assert deployment["metadata"]["labels"]["flowstill.dev/target"] == "true"
    assert deployment["metadata"]["name"] == wanted["name"]
    containers = {c["name"]: c for c in deployment["spec"]["template"]["spec"]["containers"]}
    assert 'flowstill.load(os.environ["FLOWSTILL_POLICY"])' in containers[wanted["container"]]["command"][-1]
