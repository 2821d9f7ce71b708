"""Small builders: each gives the least that is valid, and takes what the test is about."""

from datetime import UTC, datetime, timedelta

from flowstill.api.children import Result
from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import ArmResult, GateResult, Interval
from flowstill_operator.engine.loop import Key
from flowstill_operator.platform import kubernetes_platform

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLATFORM = kubernetes_platform("trainer:1", "evaluator:1", "pvc://claim/flowstill", prometheus=True)
DISTILL, ROLLOUT = Key("DistillJob", "robots", "dj"), Key("StudentRollout", "robots", "sr")
"""Keys of a resource of each kind."""
TERMINAL = {"Succeeded", "Completed", "Rejected", "Inconclusive", "Superseded", "RolledBack", "Failed"}
"""Phases in which either has ended."""
GATES = ("S1", "S2", "S3", "P1", "P2", "P3", "P4", "P5", "P6")


def digest(letter):
    return "sha256:" + letter * 64


def ref(kind, letter):
    return StatusRef(uri=f"store://{kind}/{letter}", digest=digest(letter))


STUDENT, TEACHER, RECORDS, EVIDENCE = (
    ref("students", "a"),
    ref("teachers", "b"),
    ref("evidence", "c"),
    ref("evidence", "d"),
)


def later(seconds):
    return NOW + timedelta(seconds=seconds)


def resource(kind, spec, status=None, name="sample", uid="uid-1"):
    metadata = {"name": name, "namespace": "robots", "uid": uid, "generation": 1, "resourceVersion": "1"}
    document = {"apiVersion": "flowstill.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
    return document if status is None else {**document, "status": status}


def distill_spec(**changes):
    return {"teacher": {"uri": "store://teachers/t"}, "dataset": {"uri": "store://datasets/d"}, **changes}


def rollout_spec(**changes):
    spec = {
        "student": {"uri": STUDENT.uri, "digest": STUDENT.digest},
        "evaluation": {"suite": "metaworld", "tasks": ["reach-around"]},
    }
    return {**spec, **changes}


TARGET_SPEC = {"deployment": {"name": "robot"}, "progressDeadlineSeconds": 60}


def trained(**changes):
    values = {
        "kind": "Train",
        "outcome": "Succeeded",
        "reason": "Trained",
        "student": STUDENT,
        "inputs_digest": digest("e"),
    }
    return Result(**{**values, **changes})


def parity(**changes):
    values = {
        "kind": "Parity",
        "outcome": "Succeeded",
        "reason": "Measured",
        "difference": 1e-6,
        "threshold": 1e-3,
        "teacher": TEACHER,
        "baseline": TEACHER,
    }
    return Result(**{**values, **changes})


def records(**changes):
    return Result(**{"kind": "Rollouts", "outcome": "Succeeded", "reason": "Ran", "rollouts": RECORDS, **changes})


def gates(**verdicts):
    return [
        GateResult(
            name=name,
            **{"class": "safety" if name.startswith("S") else "performance"},
            verdict=verdicts.get(name, "Pass"),
        )
        for name in GATES
    ]


def judged(verdict="Pass", **changes):
    spoilt = {} if verdict in ("Pass", None) else {"P1": verdict}
    arms = [
        ArmResult(name=name, success=success, episodes=200, interval=Interval(low=0.8, high=1.0))
        for name, success in (("teacher@10", 0.875), ("student", 0.9), ("student-draws", 0.995))
    ]
    values = {
        "kind": "Judge",
        "outcome": "Succeeded",
        "reason": "Judged",
        "verdict": verdict,
        "gates": gates(**spoilt),
        "arms": arms,
        "evidence": EVIDENCE,
    }
    return Result(**{**values, **changes})


RESULTS = {"train": trained, "parity": parity, "rollouts": records, "judge": judged}


def reused(verdict="Pass", **changes):
    """What parity says of a question that was judged before."""
    found = judged(verdict)
    facts = {name: getattr(found, name) for name in ("verdict", "gates", "arms", "evidence")}
    said = {"reason": "Reused", "reused": True, "message": "judged before as robots/first", "rollouts": RECORDS}
    return parity(**{**said, **facts, **changes})


def deployment(served=None, *, labelled=True, available=True, rollout=None, completed=None, version="7", **entry):
    env = (
        []
        if served is None and not entry
        else [{"name": "FLOWSTILL_POLICY", **({"value": served} if served else entry)}]
    )
    record = {"flowstill.dev/rollout": rollout, "flowstill.dev/last-completed": completed}
    annotations = {key: value for key, value in record.items() if value}
    return {
        "metadata": {
            "name": "robot",
            "namespace": "robots",
            "uid": "uid-robot",
            "resourceVersion": version,
            "generation": 3,
            "labels": {"flowstill.dev/target": "true"} if labelled else {},
            "annotations": annotations,
        },
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "policy", "image": "x", "env": env}]}}},
        "status": {
            "observedGeneration": 3,
            "replicas": 2,
            "updatedReplicas": 2,
            "availableReplicas": 2 if available else 1,
        },
    }


def conditions(status):
    return {c.type: (c.status, c.reason) for c in status.conditions}
