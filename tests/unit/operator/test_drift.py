"""What others do to a promoted entry is said, once, and never undone."""

from dataclasses import replace

import pytest

from flowstill_operator.clusters.kubernetes import KubernetesCluster
from flowstill_operator.engine.loop import Key, Reconciler
from flowstill_operator.rollout.observe import read_resource
from flowstill_operator.rollout.plan import plan
from flowstill_operator.rollout.promote import read_target
from tests.unit.operator.builders import NOW, PLATFORM, conditions, deployment, later, resource, rollout_spec
from tests.unit.operator.fake_cluster import FakeCluster
from tests.unit.operator.phases import TARGET_SPEC, dump, rolled
from tests.unit.operator.watching import OLD, STUDENT_TEXT, serving

SPEC = rollout_spec(target=TARGET_SPEC)


def entry(container="policy", env="FLOWSTILL_POLICY", fields=None):
    """What managed fields say about the entry of a container."""
    node = {f'k:{{"name":"{env}"}}': fields or {".": {}, "f:name": {}, "f:value": {}}}
    for part in ("f:env", f'k:{{"name":"{container}"}}', "f:containers", "f:spec", "f:template", "f:spec"):
        node = {part: node}
    return node


def managed(served, *managers, **changes):
    """The Deployment of which these managers own the entry."""
    found = deployment(served, rollout="uid-1", **changes)
    found["metadata"]["managedFields"] = [{"manager": manager, "fieldsV1": entry()} for manager in managers]
    return found


def look(status, target, now=NOW):
    found = read_resource(resource("StudentRollout", SPEC, status), PLATFORM)
    return plan(replace(found, target=read_target(target, found.spec.target.deployment)), now)


def completed():
    status = rolled("parity", "rollouts", "judge", target=deployment())
    for target in (deployment(), serving(), serving()):
        status = dump(look(status, target).status)
    assert status["phase"] == "Completed"
    return status


def test_another_entry_is_reported_with_its_manager_and_left_alone():
    before = completed()
    made = look(before, managed(OLD, "kubectl-set"), later(60))
    assert (made.target, made.create, made.requeue_after) == (None, (), None)
    assert conditions(made.status)["Drifted"] == ("True", "EntryChanged")
    (note,) = made.events
    assert (note.type, note.reason) == ("Warning", "EntryChanged")
    for words in (f"serves {OLD}", "field manager kubectl-set", STUDENT_TEXT):
        assert words in note.message
    after = dump(made.status)
    assert {**after, "conditions": [c for c in after["conditions"] if c["type"] != "Drifted"]} == before
    again = look(after, managed(OLD, "kubectl-set"), later(90))
    assert (dump(again.status), again.events) == (after, ())


@pytest.mark.parametrize(
    ("target", "reason"),
    [(managed(STUDENT_TEXT, "flowstill"), "EntryRestored"), (deployment(OLD, rollout="uid-2"), "Replaced"),
     (deployment(OLD), "Replaced")],
)  # fmt: skip
def test_drift_is_over_when_the_entry_is_back_or_another_rollouts(target, reason):
    drifted = dump(look(completed(), managed(OLD, "kubectl-set")).status)
    made = look(drifted, target, later(60))
    assert conditions(made.status)["Drifted"] == ("False", reason)
    assert [note.type for note in made.events] == ["Normal"]


@pytest.mark.parametrize(
    "target", [serving(), deployment(OLD, rollout="uid-2"), deployment(), deployment(labelled=False)]
)
def test_what_is_no_drift_is_not_mentioned(target):
    before = completed()
    made = look(before, target)
    assert (dump(made.status), made.events) == (before, ())


def test_an_entry_that_is_gone_is_drift_by_nobody():
    assert "set by nobody" in look(completed(), managed(None)).events[0].message


def test_only_owners_of_that_very_entry_are_named():
    found = managed(OLD, "one")
    found["metadata"]["managedFields"] += [
        {"manager": "sidecar", "fieldsV1": entry(container="other")},
        {"manager": "store", "fieldsV1": entry(env="FLOWSTILL_STORE")},
        {"manager": "status", "fieldsV1": {"f:status": {}}},
        {"manager": "flowstill", "fieldsV1": entry(fields={".": {}, "f:name": {}})},
        {"manager": "one", "fieldsV1": entry()},
    ]
    assert read_target(
        found, read_resource(resource("StudentRollout", SPEC), PLATFORM).spec.target.deployment
    ).managers == ("one",)


async def test_what_has_ended_asks_for_nothing():
    """The API server has another Deployment by now; what counts for an ended rollout is what was heard."""
    cluster = FakeCluster()
    cluster.put(resource("StudentRollout", SPEC, completed()))
    cluster.put({"kind": "Deployment", **managed(OLD, "kubectl-set")})
    asked = []
    get = cluster.get

    async def counting(kind, namespace, name):
        asked.append(kind)
        return await get(kind, namespace, name)

    async def heard(namespace, name):
        return await get("Deployment", namespace, name)

    cluster.get, cluster.known_deployment = counting, heard
    reconciler = Reconciler(cluster, PLATFORM, now=lambda: NOW)
    for _ in range(2):
        await reconciler.reconcile(Key("StudentRollout", "robots", "sample"))
    assert asked == ["StudentRollout"] * 2
    assert cluster.events == [("StudentRollout", "Warning", "EntryChanged")]
    assert len(cluster.statuses) == 1


async def test_a_cluster_knows_the_deployments_that_it_heard_of():
    cluster, found = KubernetesCluster(None), managed(OLD)
    assert await cluster.known_deployment("robots", "robot") is None
    cluster.heard.note("Deployment", found)
    assert await cluster.known_deployment("robots", "robot") == found
    later = {"metadata": {**found["metadata"], "resourceVersion": "99"}}
    cluster.heard.note("Deployment", later, deleted=True)
    assert await cluster.known_deployment("robots", "robot") is None
