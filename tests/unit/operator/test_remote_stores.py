"""Children and the stores that are no claims: who may name which, and what their pods are told."""

from typing import Any

import pytest

from flowstill_operator.distilljob import manifests, plan
from flowstill_operator.distilljob.observe import read_resource
from flowstill_operator.jobs import child_job
from flowstill_operator.platform import Platform, kubernetes_platform, local_platform
from flowstill_operator.remote_stores import HubAccess, RemoteStores, S3Access
from flowstill_operator.rollout.observe import read_resource as read_rollout
from tests.unit.operator.builders import NOW, PLATFORM, distill_spec, resource, rollout_spec

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "sha256:" + "a" * 64
REMOTE = RemoteStores(
    s3=S3Access("https://minio.storage:9000", "eu", True, "store", ("teachers",)),
    hub=HubAccess("https://hub.test", "hub"),
    work="pvc://scratch/flowstill",
    ca="company-ca",
)


def platform(store: str = "s3://models/flowstill", remote: RemoteStores | None = REMOTE) -> Platform:
    return kubernetes_platform("trainer:1", "evaluator:1", store, remote=remote)


def problem(where: Platform, uri: str = "store://t", **runtime: Any) -> str | None:
    spec = distill_spec(teacher={"uri": uri}, runtime=runtime)
    found = read_resource(resource("DistillJob", spec), where).problem
    return None if found is None else f"{found.reason}: {found.message}"


def pod(where: Platform, **changes: Any) -> dict[str, Any]:
    observed = read_resource(resource("DistillJob", distill_spec(**changes)), where)
    [wanted] = plan.plan(observed, NOW).create
    made: dict[str, Any] = manifests.manifest(observed, wanted, where)["spec"]["template"]["spec"]
    return made


def variables(made: dict[str, Any]) -> dict[str, Any]:
    entries = made["containers"][0]["env"]
    assert len({entry["name"] for entry in entries}) == len(entries)
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3://models/elsewhere", None),
        ("s3://teachers/pi0", None),
        (f"hf://org/pi0@{COMMIT}", None),
        (f"hf://datasets/org/frames@{COMMIT}/sub", None),
        ("s3://others/x", "children may use the buckets models, teachers: add others to the chart value"),
        ("s3://models.evil.example/x", "children may use the buckets models, teachers"),
        ("s3://models@evil/x", "InvalidSpec"),
        ("s3://models:80/x", "InvalidSpec"),
        ("s3://127.0.0.1:9000/x", "InvalidSpec"),
        ("s3://teachers/../models/x", "must not contain '..'"),
        ("hf://org/pi0@main", "git ls-remote"),
        ("https://evil/x", "InvalidSpec"),
    ],
)
def test_a_resource_names_only_what_the_chart_allows(uri: str, says: str | None) -> None:
    found = problem(platform(), uri)
    assert (found is None) if says is None else (found is not None and says in found)


def test_without_a_word_in_the_chart_there_are_neither_buckets_nor_the_hub() -> None:
    bare = platform("pvc://claim", RemoteStores(s3=S3Access()))
    assert "children use no buckets: set the chart value store.s3.buckets" in str(problem(bare, "s3://models/x"))
    assert "do not ask the hub: set the chart value store.hub.enabled" in str(problem(bare, f"hf://o/n@{COMMIT}"))
    told = variables(pod(bare))
    assert (told["FLOWSTILL_S3_BUCKETS"], told["FLOWSTILL_HUB"]) == ("", "off")
    assert not {"AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "HF_ENDPOINT", "FLOWSTILL_WORK"} & told.keys()


def test_every_uri_of_a_rollout_is_asked_about() -> None:
    for field in ("student", "teacher", "baseline"):
        spec = rollout_spec(**{field: {"uri": "s3://others/x", "digest": DIGEST}})
        found = read_rollout(resource("StudentRollout", spec), platform()).problem
        assert found is not None
        assert f"spec.{field}.uri: s3://others/x cannot be read here" in found.message


def test_on_this_machine_the_users_own_credentials_decide() -> None:
    assert problem(local_platform("file:///s"), "s3://any-bucket/x", nodes=1) is None


@pytest.mark.parametrize(
    "name",
    [
        "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SECRET_ACCESS_KEY", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "aws_metadata_endpoint", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "https_proxy",
        "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "FLOWSTILL_S3_BUCKETS", "FLOWSTILL_WORK",
    ],
)  # fmt: skip
def test_no_variable_of_a_resource_leads_a_store_elsewhere(name: str) -> None:
    for where in (platform(), PLATFORM, local_platform("file:///s")):
        found = problem(where, env=[{"name": name, "value": "http://evil"}])
        assert found is not None
        assert found.startswith(f"EnvRefused: spec.runtime.env: {name} ")


def test_other_variables_stay_the_users() -> None:
    for name in ("MUJOCO_GL", "HF_HOME", "OMP_NUM_THREADS", "AWSOME"):
        assert problem(platform(), env=[{"name": name, "value": "1"}]) is None


def test_credentials_are_references_to_secrets_of_the_resources_namespace() -> None:
    told = variables(pod(platform()))
    assert told["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "store", "key": "AWS_ACCESS_KEY_ID"}}
    assert told["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "store", "key": "AWS_SECRET_ACCESS_KEY"}}
    assert told["AWS_SESSION_TOKEN"]["secretKeyRef"] == {"name": "store", "key": "AWS_SESSION_TOKEN", "optional": True}
    assert told["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    plain = {
        "AWS_ENDPOINT_URL_S3": "https://minio.storage:9000",
        "AWS_REGION": "eu",
        "FLOWSTILL_S3_PATH_STYLE": "true",
        "FLOWSTILL_S3_BUCKETS": "models,teachers",
        "FLOWSTILL_STORE": "s3://models/flowstill",
        "FLOWSTILL_WORK": "pvc://scratch/flowstill",
        "FLOWSTILL_CA_FILE": "/etc/flowstill-ca/ca.crt",
        "FLOWSTILL_HUB": "on",
        "HF_ENDPOINT": "https://hub.test",
        "HF_HUB_OFFLINE": "1",
    }
    assert {name: told[name] for name in plain} == plain


def test_with_a_bucket_children_work_on_a_claim() -> None:
    made = pod(platform())
    [container] = made["containers"]
    assert container["command"][-1] == "/var/run/flowstill/volumes/scratch/flowstill/uid-1/train"
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in made["volumes"] if "claim" in volume["name"]]
    assert claims == ["scratch"]
    assert {"name": "ca", "configMap": {"name": "company-ca"}} in made["volumes"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted["ca"] == "/etc/flowstill-ca"


def test_who_only_prints_a_file_gets_no_credentials() -> None:
    observed = read_resource(resource("DistillJob", distill_spec()), platform())
    [wanted] = plan.plan(observed, NOW).create
    reader = type(wanted)(**{**wanted.__dict__, "reader": True})
    job = child_job(observed.owner, reader, [], observed.spec.runtime, platform())
    told = variables(job["spec"]["template"]["spec"])
    assert not any(name.startswith(("AWS_", "HF_TOKEN")) for name in told)


def test_a_proxy_is_the_charts_to_say() -> None:
    told = variables(
        pod(platform(remote=RemoteStores(s3=S3Access(), work="pvc://w", proxy="http://p", no_proxy=".svc")))
    )
    assert (told["HTTP_PROXY"], told["HTTPS_PROXY"], told["NO_PROXY"]) == ("http://p", "http://p", ".svc")
