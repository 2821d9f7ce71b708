"""A DistillJob and a StudentRollout with its target, from the first child to the end, through every kind of fault.

The operator, the controllers and the API server are real; a proxy between the first and the last makes the faults, and
keeps what was done: one Job for each stage, nothing decided twice or taken back, only status written.
"""

import pytest

from tests.cluster.faults import history
from tests.cluster.faults.calls import Call
from tests.cluster.faults.kinds import Fault, Kind
from tests.cluster.faults.proxy import FaultProxy
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.resources import distill_job
from tests.cluster.scene import Scene, student, text
from tests.cluster.waiting import until

STUDENT = student("a")
ROLES = ("train", "parity", "rollouts", "judge")


def no_child(call: Call) -> bool:
    """An invalid child or target ends a resource; nothing else that is called invalid may."""
    return call.plural not in ("jobs", "deployments")


ONE_KIND: dict[Kind, tuple[float, int]] = {
    "conflict": (0.2, 3),
    "gone": (0.5, 5),
    "invalid": (0.2, 3),
    "too many": (0.1, 3),
    "error": (0.1, 3),
    "slow": (0.3, 3),
    "lost request": (0.2, 3),
    "lost answer": (0.4, 5),
    "cut": (0.5, 5),
    "silent": (0.5, 5),
    "duplicated": (0.5, 5),
    "reordered": (0.5, 5),
}
"""Of each kind: the chance, and how many are made for certain before."""


def faults(kind: Kind, scale: float = 1.0) -> tuple[Fault, ...]:
    """So many of the kind at once, and then some now and then."""
    chance, first = ONE_KIND[kind]
    where = no_child if kind == "invalid" else lambda _: True
    return Fault(kind, 1.0, where, times=int(first * scale)), Fault(kind, chance * scale, where)


def play_to_the_end(scene: Scene) -> None:
    """Everything succeeds: a student is distilled, judged, and served."""
    scene.deploy()
    scene.plane.apply(distill_job("all", scene.namespace))
    scene.start("all", {"distillJob": "all"})
    for role in ROLES:
        scene.play("all", role)
    until(lambda: scene.entry() is not None, "the student is set", lambda: scene.status("all"), limit=120)
    scene.await_available()
    scene.await_phase("all", "Completed")
    scene.await_phase("all", "Succeeded", "distilljobs")


def holds(scene: Scene, proxy: FaultProxy) -> None:
    """What must be so when both have ended well."""
    history.check(proxy.calls, scene.namespace)
    assert history.created_jobs(proxy.calls, scene.namespace) == {f"all-{role}": 1 for role in ROLES}
    assert sorted(scene.jobs()) == sorted(f"all-{role}" for role in ROLES)
    for plural in ("distilljobs", "studentrollouts"):
        found = scene.objects.get(plural, "all")
        assert found is not None
        assert found["metadata"]["generation"] == 1
    status = scene.status("all")
    assert (status["gatesSummary"], status["success"]) == ("9/9 Pass", "199/200")
    assert scene.entry() == text(STUDENT)
    assert scene.record()["last-completed"] == text(STUDENT)
    assert scene.revision() == 2


@pytest.mark.parametrize("kind", ONE_KIND)
def test_one_kind_of_fault(scene: Scene, proxy: FaultProxy, operator: OperatorProcess, kind: Kind) -> None:
    proxy.faults = faults(kind)
    if kind in ("gone", "cut", "silent"):
        # Watches begin anew, and have the fault from then on.
        operator.kill()
        operator.start()
    play_to_the_end(scene)
    assert proxy.made[kind] >= 2
    holds(scene, proxy)


def test_all_kinds_at_once(scene: Scene, proxy: FaultProxy, operator: OperatorProcess) -> None:
    proxy.faults = tuple(fault for kind in ONE_KIND for fault in faults(kind, scale=0.25))
    operator.kill()
    operator.start()
    play_to_the_end(scene)
    print(dict(proxy.made))
    assert len(proxy.made) >= 8
    holds(scene, proxy)
