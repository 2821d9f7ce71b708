"""A student that is served and watched: its spec, its pods, and its status so far."""

from dataclasses import replace

from flowstill_operator.rollout.observe import read_resource
from flowstill_operator.rollout.plan import plan
from flowstill_operator.rollout.promote import read_target
from flowstill_operator.rollout.signals import Check
from tests.unit.operator.builders import NOW, PLATFORM, STUDENT, TARGET_SPEC, deployment, digest, resource, rollout_spec
from tests.unit.operator.phases import dump, rolled

STUDENT_TEXT = f"{STUDENT.uri}@{STUDENT.digest}"
OLD = f"store://students/old@{digest('9')}"
ERRORS = {"name": "errors", "query": "sum(errors)", "comparison": "above", "threshold": 0.5, "failureLimit": 2}
WINDOW = {"window": "10m", "interval": "1m", "maxRestarts": 2, "queries": [ERRORS]}
JUDGED = ("parity", "rollouts", "judge")


def pod(name, restarts=0, policy=STUDENT_TEXT, template="abc", owner="robot-abc", **changes):
    """A pod of the Deployment ``robot``, as its ReplicaSet makes it."""
    owners = [{"kind": "ReplicaSet", "name": owner, "controller": True}]
    return {
        "metadata": {"name": name, "labels": {"pod-template-hash": template}, "ownerReferences": owners},
        "spec": {"containers": [{"name": "policy", "env": [{"name": "FLOWSTILL_POLICY", "value": policy}]}]},
        "status": {"containerStatuses": [{"name": "policy", "restartCount": restarts}]},
        **changes,
    }


def spec(**monitoring):
    return rollout_spec(target=TARGET_SPEC, monitoring={**WINDOW, **monitoring})


def serving(**changes):
    """The Deployment as it is while this rollout's student is served and watched."""
    found = deployment(STUDENT_TEXT, rollout="uid-1", **changes)
    found["metadata"]["annotations"]["flowstill.dev/policy"] = STUDENT_TEXT
    return found


def look(status, now=NOW, target=None, check=None, whole=None, **changes):
    """One plan; ``check``: restarts by pod, and samples by query."""
    found = read_resource(resource("StudentRollout", whole or spec(), status), PLATFORM)
    seen = read_target(target or serving(), found.spec.target.deployment)
    given = None if check is None else Check(*check)
    return plan(replace(found, target=seen, check=given, **changes), now)


def available(whole=None):
    """The status when the Deployment has become available with the student."""
    whole = whole or spec()
    status = rolled(*JUDGED, target=deployment(), monitoring=whole["monitoring"])
    for target in (deployment(), serving()):
        status = dump(look(status, target=target, whole=whole).status)
    return status
