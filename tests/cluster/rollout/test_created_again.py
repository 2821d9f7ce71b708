"""A rollout that GitOps deletes and creates again: nothing is evaluated twice, and its target stays as it is."""

from tests.cluster.scene import Scene, student, text
from tests.cluster.waiting import until
from tests.unit.operator.builders import reused

FIRST = student("a")


def test_a_rollout_that_is_created_again_evaluates_nothing_and_rolls_nothing_out(scene: Scene) -> None:
    scene.deploy()
    scene.start("again", FIRST)
    scene.judge("again")
    before = scene.serve("again")
    scene.objects.delete("studentrollouts", "again")
    until(lambda: scene.jobs() == {}, "its Jobs are gone", scene.jobs)
    assert scene.entry() == text(FIRST)
    assert scene.revision() == 2

    uid = scene.start("again", FIRST)
    scene.play("again", "parity", reused())
    status = scene.await_phase("again", "Completed")
    assert set(scene.jobs()) == {"again-parity"}
    assert scene.condition("again", "Evaluated")[:2] == ("True", "Reused")
    assert status["evidence"] == before["evidence"]
    assert [gate["verdict"] for gate in status["gates"]] == ["Pass"] * 9
    assert scene.revision() == 2
    assert scene.record() == {
        "policy": text(FIRST), "previous": "", "rollout": uid, "last-completed": text(FIRST)
    }  # fmt: skip
