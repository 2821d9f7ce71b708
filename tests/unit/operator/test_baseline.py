"""What is compared with is what is served: at every stage, or the rollout is void."""

import pytest

from flowstill_operator.rollout.manifests import manifest
from flowstill_operator.rollout.observe import observe
from flowstill_operator.rollout.plan import plan
from flowstill_operator.steps import ChildJob
from tests.unit.operator.builders import NOW, PLATFORM, conditions, deployment, later, resource
from tests.unit.operator.fake_cluster import FakeCluster
from tests.unit.operator.test_rollout_plan import JUDGED, OLD, SERVED, after, dump, observed, ours, passed, step


@pytest.mark.parametrize("done", [(), ("parity",), JUDGED, (*JUDGED, "judge")])
@pytest.mark.parametrize("target", [deployment(OLD), deployment(OLD, rollout="uid-2")])
def test_another_baseline_ends_a_rollout_at_every_stage_and_stops_its_job(done, target):
    status = after(*done, spec=SERVED, target=deployment())
    running, over = ChildJob("sample-x", "job-1", "rollouts"), ChildJob("y", "job-0", "parity", finished=True)
    made = plan(observed(status, {**SERVED, "suspend": True}, target=target, jobs=(running, over)), later(9))
    assert (made.status.phase, made.create, made.delete, made.target) == ("Superseded", (), (running,), None)
    assert conditions(made.status)["Superseded"] == ("True", "BaselineChanged")
    assert f"serves {OLD}" in made.status.message
    assert made.requeue_after is None
    undecided = ["Validated", "Evaluated", "GatesPassed", "Promoted"][len(done)]
    assert conditions(made.status)[undecided] == ("False", "BaselineChanged")


def test_a_student_of_ours_is_no_other_baseline():
    for target in (ours(), ours(available=False)):
        assert step(passed(deployment()), target).status.phase == "Promoting"


async def test_the_jobs_of_what_is_void_are_looked_for():
    cluster = FakeCluster()
    first = resource("StudentRollout", SERVED)
    cluster.put({"kind": "Deployment", **deployment()})
    wanted = plan(await observe(cluster, first, PLATFORM, NOW), NOW)
    await cluster.create(manifest(observed(spec=SERVED, target=deployment()), wanted.create[0], PLATFORM))
    cluster.put({"kind": "Deployment", **deployment(OLD)})
    later_on = await observe(cluster, {**first, "status": dump(wanted.status)}, PLATFORM, NOW)
    made = plan(later_on, NOW)
    assert [job.name for job in made.delete] == [cluster.created[0]]
    assert made.status.phase == "Superseded"
