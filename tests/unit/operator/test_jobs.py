"""The Job of a child: restricted, retried by Kubernetes alone, told everything by one file."""

import json

import pytest

from flowstill.api.children import TASK
from flowstill_operator.children import Child, newest, read_child
from flowstill_operator.distilljob import manifests, plan
from flowstill_operator.distilljob.observe import read_resource
from flowstill_operator.jobs import Owner, child_name, claims_of, resolve
from flowstill_operator.platform import local_platform
from flowstill_operator.steps import condition_reason
from tests.unit.operator.builders import NOW, PLATFORM, distill_spec, resource, trained


def job(**runtime):
    spec = distill_spec(teacher={"uri": "pvc://models/t"}, runtime=runtime)
    observed = read_resource(resource("DistillJob", spec), PLATFORM)
    [wanted] = plan.plan(observed, NOW).create
    return manifests.manifest(observed, wanted, PLATFORM)


def test_names_are_deterministic_bounded_and_differ_by_uid():
    one = Owner("DistillJob", "ns", "a" * 40, "1")
    assert child_name(one, "rollouts", reader=True) == child_name(one, "rollouts", reader=True)
    assert len(child_name(one, "rollouts", reader=True)) <= 63
    assert child_name(one, "train") != child_name(Owner("DistillJob", "ns", "a" * 40, "2"), "train")


def test_the_job_is_restricted_and_retried_by_the_job_controller():
    made = job()
    pod = made["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["fsGroup"] == 65532
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    fail, ignore = made["spec"]["podFailurePolicy"]["rules"]
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", list(range(64, 79)))
    assert fail["onExitCodes"]["containerName"] == container["name"]
    assert (ignore["action"], ignore["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert made["spec"]["backoffLimit"] == 3
    [owner] = made["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == ("uid-1", True)


def test_the_spec_travels_in_an_annotation_that_a_volume_shows():
    template = job()["spec"]["template"]
    task = TASK.validate_json(template["metadata"]["annotations"]["flowstill.dev/spec"])
    assert task.work == "store://work/uid-1/train"
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    [item] = volumes["spec"]["downwardAPI"]["items"]
    assert item == {"path": "spec.json", "fieldRef": {"fieldPath": "metadata.annotations['flowstill.dev/spec']"}}
    [container] = template["spec"]["containers"]
    assert container["command"] == [
        "flowstill-train",
        "--spec",
        "/etc/flowstill/spec.json",
        "--output",
        "/var/run/flowstill/volumes/claim/flowstill/work/uid-1/train",
    ]


def test_every_claim_and_every_writable_folder_is_mounted():
    pod = job()["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {
        path.rsplit("/", 1)[1]: volumes[name]["persistentVolumeClaim"]["claimName"]
        for path, name in mounts.items()
        if path.startswith("/var/run/flowstill/volumes/")
    }
    assert claims == {"claim": "claim", "models": "models"}
    assert {"/tmp", "/home/flowstill", "/dev/shm"} <= set(mounts)
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}


def test_a_users_claims_are_mounted_read_only_unless_told_otherwise():
    wanted = [{"claim": "assets", "mountPath": "/assets"}, {"claim": "out", "mountPath": "/out", "readOnly": False}]
    pod = job(volumes=wanted)["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert len(volumes) == len(pod["volumes"])
    for path, claim, read_only in (("/assets", "assets", True), ("/out", "out", False)):
        assert mounts[path]["readOnly"] is read_only
        assert volumes[mounts[path]["name"]]["persistentVolumeClaim"] == {"claimName": claim, "readOnly": read_only}


def refusal(platform=PLATFORM, **runtime):
    return read_resource(resource("DistillJob", distill_spec(runtime=runtime)), platform).problem


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/tmp", "holds /tmp"),
        ("/tmp/x/", "holds /tmp"),
        ("/home", "holds /home/flowstill"),
        ("/var/run/flowstill/volumes/a", "holds /var/run/flowstill"),
        ("/a/../tmp", "without '..'"),
        ("//", "below /"),
        ("assets", "spec.runtime.volumes.0.mountPath"),
    ],
)
def test_a_folder_of_ours_is_no_place_for_a_volume(path, words):
    found = refusal(volumes=[{"claim": "assets", "mountPath": path}])
    assert found.reason == "InvalidSpec"
    assert words in found.message


def test_two_volumes_have_two_places():
    found = refusal(volumes=[{"claim": "a", "mountPath": "/x"}, {"claim": "b", "mountPath": "/x/"}])
    assert found.message.startswith("spec.runtime.volumes: /x is the mountPath of two volumes")


def test_this_machine_mounts_no_claims_and_says_what_to_do():
    found = refusal(local_platform("file:///s"), volumes=[{"claim": "a", "mountPath": "/x"}])
    assert (found.reason, "spec.runtime.env" in found.message) == ("VolumesRefused", True)


def test_where_a_simulator_finds_its_files_is_the_users_to_say():
    assert refusal(env=[{"name": "FLOWSTILL_LIBERO_ASSETS", "value": "/assets"}]) is None
    assert refusal(env=[{"name": "FLOWSTILL_STORE", "value": "x"}]).reason == "EnvRefused"


def test_our_environment_wins_and_gpus_are_limits():
    made = job(env=[{"name": "HOME", "value": "/root"}, {"name": "MINE", "value": "1"}], gpusPerNode=2)
    container = made["spec"]["template"]["spec"]["containers"][0]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert env["FLOWSTILL_STORE"] == "pvc://claim/flowstill"
    assert (env["HOME"], env["MINE"], env["HF_HUB_OFFLINE"]) == ("/home/flowstill", "1", "1")
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    assert job(gpusPerNode=0)["spec"]["template"]["spec"]["containers"][0]["resources"] == {}


AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100", "h200"]}]},
                {"matchExpressions": [{"key": "idle", "operator": "Exists"}]},
            ]
        }
    },
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 50,
                "podAffinityTerm": {
                    "labelSelector": {"matchLabels": {"app": "robot"}},
                    "topologyKey": "kubernetes.io/hostname",
                },
            }
        ]
    },
}


def test_runtime_reaches_the_pod_and_users_labels_cannot_replace_ours():
    made = job(
        labels={"flowstill.dev/role": "judge", "team": "arms"},
        nodeSelector={"gpu": "yes"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        affinity=AFFINITY,
        imagePullSecrets=["registry"],
        activeDeadlineSeconds=60,
        backoffLimit=0,
    )
    template = made["spec"]["template"]
    assert template["metadata"]["labels"]["flowstill.dev/role"] == "train"
    assert template["metadata"]["labels"]["team"] == "arms"
    assert template["spec"]["nodeSelector"] == {"gpu": "yes"}
    assert template["spec"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert template["spec"]["affinity"] == AFFINITY
    assert "affinity" not in job()["spec"]["template"]["spec"]
    assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert [made["spec"][key] for key in ("activeDeadlineSeconds", "backoffLimit")] == [60, 0]


@pytest.mark.parametrize(
    ("uri", "store", "path"),
    [
        ("store://work/u", "pvc://c", "/var/run/flowstill/volumes/c/work/u"),
        ("store://work/u", "pvc://c/sub/", "/var/run/flowstill/volumes/c/sub/work/u"),
        ("store://work/u", "file:///data/store", "/data/store/work/u"),
        ("pvc://d/x", "pvc://c", "/var/run/flowstill/volumes/d/x"),
    ],
)
def test_where_a_uri_is_mounted(uri, store, path):
    assert resolve(uri, store) == path


def test_claims_are_found_anywhere_in_a_task():
    task = {"a": [{"uri": "pvc://x/1"}], "b": {"uri": "pvc://y"}, "c": "store://z", "d": "pvc://x/2"}
    assert claims_of(task, "pvc://s/p") == ["s", "x", "y"]


def pod(name, created, message="", **status):
    terminated = {"terminated": {"message": message}}
    return {
        "metadata": {"name": name, "creationTimestamp": created},
        "status": {"containerStatuses": [{"name": "child", "state": terminated}], **status},
    }


def ended(kind, **more):
    made = job()
    made["status"] = {"conditions": [{"type": kind, "status": "True", **more}], "failed": 1, "succeeded": 1}
    return made


LINE = trained().model_dump_json(by_alias=True, exclude_none=True)


def test_the_result_is_the_newest_pods_last_line():
    pods = [pod("b", "2026-01-01T00:00:02Z", f"a warning\n{LINE}\n"), pod("a", "2026-01-01T00:00:01Z", "old")]
    child = read_child(ended("Complete"), pods, "uid-1")
    assert (child.state, child.result, child.attempts) == ("Succeeded", trained(), 2)
    assert newest(pods)["metadata"]["name"] == "b"


@pytest.mark.parametrize("message", ["", "no JSON", LINE[:-20], json.dumps({"kind": "Train"})])
def test_a_message_that_cannot_be_read_is_none(message):
    assert read_child(ended("Complete"), [pod("a", "1", message)], "uid-1").result is None


def test_failed_waiting_suspended_and_foreign_jobs():
    failed = read_child(ended("Failed", reason="PodFailurePolicy", message="exit 65"), [], "uid-1")
    assert (failed.state, failed.reason, failed.message) == ("Failed", "PodFailurePolicy", "exit 65")
    assert read_child(job(), [], "other") == Child("Running", ours=False)
    assert read_child(None, [], "uid-1").state == "Missing"
    waiting = pod("a", "1", phase="Pending")
    waiting["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ErrImagePull", "message": "no"}}
    assert read_child(job(), [waiting], "uid-1").reason == "ErrImagePull"
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    assert (
        read_child(job(), [{"metadata": {}, "status": {"conditions": [unschedulable]}}], "uid-1").message == "0/1 nodes"
    )
    suspended = job()
    suspended["spec"]["suspend"] = True
    assert read_child(suspended, [], "uid-1").reason == "WaitingForQuota"
    running = pod("a", "1", phase="Running")
    assert read_child(job(), [running], "uid-1").state == "Running"


@pytest.mark.parametrize(("reason", "fixed"), [("Error: x", "Errorx"), ("1st", "Reason1st"), ("", "Reason")])
def test_reasons_are_made_valid(reason, fixed):
    assert condition_reason(reason) == fixed


@pytest.mark.parametrize(
    ("phase", "state"),
    [("Pending", "Queued"), ("Running", "Running"), ("Succeeded", "Running"), ("Failed", "Queued")],
)
def test_a_child_whose_pod_ended_well_is_at_work_until_its_job_says_so(phase, state):
    pod = {"metadata": {"name": "a"}, "status": {"phase": phase}}
    assert read_child(job(), [pod], "uid-1").state == state
