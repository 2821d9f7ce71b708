"""The CRDs on a real API server: what it admits, what it refuses, and that it names the field."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.operator_process import installed_crds
from tests.cluster.resources import DIGEST, distill_job, student_rollout


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with the CRDs applied, and one valid resource of each kind."""
    with installed_crds(control_plane):
        apply(control_plane, distill_job())
        apply(control_plane, student_rollout())
        yield control_plane


def apply(plane: ControlPlane, resource: dict[str, Any]) -> str:
    return plane.kubectl("apply", "-f", "-", stdin=json.dumps(resource))


def refusal(plane: ControlPlane, resource: dict[str, Any]) -> str:
    with pytest.raises(Exception) as caught:
        apply(plane, resource)
    error = caught.value
    return str(error.stderr) if isinstance(error, subprocess.CalledProcessError) else str(error)


def test_defaults_are_filled_in(plane: ControlPlane) -> None:
    spec = plane.get("distilljob", "a")["spec"]
    assert spec["student"] == {"draws": 8, "drawNeighbours": 3, "stateOut": False}
    assert spec["method"]["targetSteps"] == 10
    assert spec["runtime"]["backoffLimit"] == 3


STOPS = {"name": "stops", "query": "sum(stops)", "comparison": "above", "threshold": 0.5}


def watched(**monitoring: Any) -> dict[str, Any]:
    target = {"deployment": {"name": "robot"}}
    return student_rollout("b", target=target, monitoring={"window": "1h", **monitoring})


OVERRIDE = {"gate": "P2", "by": "ann", "reason": "a faster arm comes", "expires": "2026-12-31T23:59:59Z"}
BAD = {
    "draws between 1 and 8": (distill_job("b", student={"draws": 4}), "draws"),
    "too many neighbours": (distill_job("b", student={"drawNeighbours": 5}), "drawNeighbours"),
    "one target step": (distill_job("b", method={"targetSteps": 1}), "targetSteps"),
    "bank of own targets": (distill_job("b", method={"targetSteps": 2, "bankSize": 10}), "bankSize"),
    "a kind without samples": (distill_job("b", method={"mixRatio": 0.99}), "mixRatio"),
    "more parts than samples": (
        distill_job("b", training={"batchSize": 4, "gradientAccumulation": 5}),
        "gradientAccumulation",
    ),
    "unknown precision": (distill_job("b", training={"precision": "fp8"}), "precision"),
    "unknown field": (distill_job("b", method={"name": "snapflow", "lambda": 1}), "lambda"),
    "unknown scheme": (distill_job("b", teacher={"uri": "http://x/y"}), "uri"),
    "branch of the hub": (distill_job("b", teacher={"uri": "hf://org/pi0@main"}), "40 hexadecimal digits of a commit"),
    "branch of a student": (
        student_rollout("b", student={"uri": "hf://org/student", "digest": DIGEST}),
        "git ls-remote https://huggingface.co/",
    ),
    "no bucket": (distill_job("b", teacher={"uri": "s3://key:secret@host/x"}), "spec.teacher.uri"),
    "long name": (distill_job("b" * 41), "name"),
    "learning rate of zero": (distill_job("b", training={"learningRate": 0}), "learningRate"),
    "two students": (
        student_rollout("b", student={"distillJob": "a", "uri": "store://x", "digest": DIGEST}),
        "student",
    ),
    "no student": (student_rollout("b", student={}), "student"),
    "student without digest": (student_rollout("b", student={"uri": "store://x"}), "digest"),
    "no tasks": (student_rollout("b", evaluation={"suite": "metaworld", "tasks": []}), "tasks"),
    "no nodes": (distill_job("b", runtime={"nodes": 0}), "nodes"),
    "evaluation on two nodes": (student_rollout("b", runtime={"nodes": 2}), "spec.runtime.nodes must be 1"),
    "overridden safety gate": (
        student_rollout("b", overrides=[{**OVERRIDE, "gate": "S1"}]),
        "a safety gate can never be overridden",
    ),
    "gate overridden twice": (student_rollout("b", overrides=[OVERRIDE, OVERRIDE]), "overrides"),
    "override without end": (student_rollout("b", overrides=[{**OVERRIDE, "expires": ""}]), "expires"),
    "override until no day": (
        student_rollout("b", overrides=[{**OVERRIDE, "expires": "2026-02-31T00:00:00Z"}]),
        "expires",
    ),
    "trials in shards": (
        student_rollout(
            "b",
            evaluation={
                "suite": "custom",
                "tasks": ["pick"],
                "shards": 2,
                "evidence": {"uri": "store://evidence/x", "digest": DIGEST},
            },
        ),
        "evidence stands in the place of a simulator",
    ),
    "node labels without values": (
        distill_job(
            "b",
            runtime={
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In"}]}]
                        }
                    }
                }
            },
        ),
        "In and NotIn need values",
    ),
    "nothing to watch": (student_rollout("b", monitoring={"window": "1h"}), "spec.monitoring needs spec.target"),
    "window shorter than its interval": (watched(window="30s"), "spec.monitoring.window"),
    "no window": (watched(window="1d"), "window"),
    "window of a year": (watched(window="9999h"), "at most 720h"),
    "interval of an instant": (watched(interval="1s"), "spec.monitoring.interval must be between"),
    "query of a reserved name": (
        watched(queries=[{**STOPS, "name": "restarts"}]),
        "restarts is the name of the signal",
    ),
    "two queries of a name": (watched(queries=[STOPS, STOPS]), "queries"),
    "more samples than checks": (watched(queries=[{**STOPS, "minSamples": 61}]), "minSamples is more than the window"),
    "loosened safety gate": (student_rollout("b", gates={"S3": {"margin": 0.5}}), "S3"),
}


def test_a_watched_rollout_is_stored_as_it_was_written(plane: ControlPlane) -> None:
    apply(plane, watched(queries=[{**STOPS, "minSamples": 60}]))
    found = plane.get("sr", "b")["spec"]["monitoring"]
    assert (found["window"], found["interval"], found["maxRestarts"]) == ("1h", "60s", 3)
    assert found["queries"] == [{**STOPS, "minSamples": 60, "failureLimit": 3}]
    plane.kubectl("delete", "sr", "b")


@pytest.mark.parametrize("case", BAD)
def test_a_bad_spec_is_refused_by_name(plane: ControlPlane, case: str) -> None:
    resource, field = BAD[case]
    assert field in refusal(plane, resource)


def test_buckets_and_pinned_commits_are_taken(plane: ControlPlane) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    teacher, dataset = f"hf://org/pi0.5@{commit}", "s3://my-bucket.eu/datasets/x"
    apply(plane, distill_job("remote", teacher={"uri": teacher}, dataset={"uri": dataset}))
    spec = plane.get("distilljob", "remote")["spec"]
    assert (spec["teacher"]["uri"], spec["dataset"]["uri"]) == (teacher, dataset)


def test_a_bank_of_two_steps_is_for_state_out_students(plane: ControlPlane) -> None:
    method = {"targetSteps": 2, "bankSize": 10}
    assert "stateOut" in refusal(plane, distill_job("b", method=method))
    apply(plane, distill_job("state-out", method=method, student={"stateOut": True}))


CHANGED = {
    "teacher": distill_job(teacher={"uri": "store://other"}),
    "added digest": distill_job(teacher={"uri": "store://t", "digest": DIGEST}),
    "student": distill_job(student={"draws": 16}),
    "nodes": distill_job(runtime={"nodes": 2}),
    "added image": distill_job(runtime={"image": "x"}),
    "added target": student_rollout(target={"deployment": {"name": "d"}}),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_spec_is_immutable(plane: ControlPlane, case: str) -> None:
    assert "new name" in refusal(plane, CHANGED[case])


def set_status(plane: ControlPlane, name: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    plane.kubectl("patch", "sr", name, "--subresource=status", "--type=merge", "-p", patch)


@pytest.mark.parametrize("end", ["promotionTime", "completionTime"])
def test_overrides_may_change_until_the_student_is_promoted(plane: ControlPlane, end: str) -> None:
    name = end.lower()
    apply(plane, student_rollout(name))
    set_status(plane, name, {"phase": "Evaluating"})
    apply(plane, student_rollout(name, overrides=[OVERRIDE]))
    apply(plane, student_rollout(name, overrides=[{**OVERRIDE, "reason": "another"}]))
    set_status(plane, name, {"phase": "Promoting", end: "2026-01-01T00:00:00Z"})
    for overrides in ({}, {"overrides": [OVERRIDE]}):
        assert "only until the student is promoted" in refusal(plane, student_rollout(name, **overrides))
    assert plane.get("sr", name)["spec"]["overrides"][0]["reason"] == "another"


def test_the_time_to_live_may_change(plane: ControlPlane) -> None:
    apply(plane, distill_job(runtime={"ttlSecondsAfterFinished": 5}))
    assert plane.get("distilljob", "a")["spec"]["runtime"]["ttlSecondsAfterFinished"] == 5
    apply(plane, distill_job())


def test_suspend_may_change_and_nothing_else_with_it(plane: ControlPlane) -> None:
    for suspend in (True, False):
        apply(plane, distill_job(suspend=suspend))
        assert plane.get("distilljob", "a")["spec"]["suspend"] is suspend
        apply(plane, student_rollout(suspend=suspend))
        assert plane.get("studentrollout", "a")["spec"]["suspend"] is suspend
    assert "new name" in refusal(plane, distill_job(suspend=True, student={"draws": 16}))
    assert plane.get("distilljob", "a")["spec"]["suspend"] is False


def test_status_is_a_subresource_and_is_printed(plane: ControlPlane) -> None:
    status = {"phase": "Running", "progress": {"step": 5, "progressPercentage": 3, "loss": 0.5}}
    patch = json.dumps({"status": status})
    plane.kubectl("patch", "dj", "a", "--subresource=status", "--type=merge", "-p", patch)
    header, row = plane.kubectl("get", "dj", "a").splitlines()
    assert header.split() == ["NAME", "PHASE", "STEP", "PROGRESS", "ETA", "LOSS", "STUDENT", "AGE"]
    assert row.split()[:4] == ["a", "Running", "5", "3"]
