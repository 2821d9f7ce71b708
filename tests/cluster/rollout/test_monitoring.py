"""A promoted student is watched on a real API server: pods that restart, a server of numbers, others who meddle."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.operator_process import OperatorProcess, running_operator
from tests.cluster.prometheus_server import PrometheusServer, prometheus_server
from tests.cluster.scene import TARGET, TARGET_PODS, Scene, student, text
from tests.cluster.waiting import until

FIRST, SECOND = student("a"), student("b")
QUERY = 'sum(increase(stops_total{cell="a"}[5m]))'
SHORT = {"window": "20s", "interval": "10s", "maxRestarts": 1}
LONG = {**SHORT, "window": "1h"}
STOPS = {"name": "stops", "query": QUERY, "comparison": "above", "threshold": 0.5, "failureLimit": 2}


@pytest.fixture(scope="module")
def prometheus() -> Iterator[PrometheusServer]:
    with prometheus_server() as server:
        yield server


@pytest.fixture(scope="module")
def operator(
    plane: ControlPlane, prometheus: PrometheusServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    flag = f"--prometheus-url={prometheus.url}"
    with running_operator(plane, tmp_path_factory.mktemp("operator"), "operator", flag) as process:
        yield process


def serve(scene: Scene, name: str, policy: Any = FIRST, **monitoring: Any) -> str:
    """A rollout of that student whose window has begun; its UID."""
    uid = scene.start(name, policy, monitoring=monitoring)
    scene.judge(name)
    scene.serve(name, "Monitoring")
    return uid


def signals(scene: Scene, name: str) -> dict[str, dict[str, Any]]:
    found = scene.status(name).get("monitoring", {}).get("signals", [])
    return {signal["name"]: signal for signal in found}


def restart(scene: Scene, times: int) -> None:
    """The containers of the target's pods that serve now have been restarted so often."""
    for pod in scene.objects.list("pods", TARGET_PODS):
        if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running":
            scene.kubelet.restart(pod, times)


def test_a_window_that_saw_everything_completes(scene: Scene, prometheus: PrometheusServer) -> None:
    prometheus.values[QUERY] = 0.25
    scene.deploy()
    uid = serve(scene, "good", **SHORT, queries=[STOPS])
    assert "watched-until" in scene.record()
    assert "last-completed" not in scene.record()
    restart(scene, 1)
    status = scene.await_phase("good", "Completed")
    assert scene.condition("good", "Monitored")[:2] == ("True", "WindowPassed")
    found = signals(scene, "good")
    assert (found["restarts"]["value"], found["stops"]["value"], found["stops"]["samples"]) == (1, 0.25, 3)
    assert scene.record() == {
        "policy": text(FIRST), "previous": "", "rollout": uid, "last-completed": text(FIRST)
    }  # fmt: skip
    assert "restarts 1 of at most 1" in status["message"]
    assert set(prometheus.asked) == {QUERY}


def test_restarts_take_a_student_back_and_an_operator_that_was_killed_counts_on(
    scene: Scene, operator: OperatorProcess
) -> None:
    scene.deploy()
    serve(scene, "crashing", **LONG)
    restart(scene, 1)
    until(
        lambda: signals(scene, "crashing")["restarts"]["value"] == 1, "it is counted", lambda: scene.status("crashing")
    )
    operator.kill()
    restart(scene, 2)
    operator.start()
    operator.await_ready()
    status = scene.await_phase("crashing", "RolledBack")
    assert scene.condition("crashing", "Monitored")[:2] == ("False", "SignalBreached")
    assert "restarted 2 times" in status["message"]
    assert "more than maxRestarts 1" in status["message"]
    assert scene.entry() is None
    assert scene.record() == {}


def test_a_breach_in_a_row_puts_back_what_completed_before(scene: Scene, prometheus: PrometheusServer) -> None:
    prometheus.values[QUERY] = 0.25
    scene.deploy()
    serve(scene, "first", FIRST, **SHORT)
    scene.await_phase("first", "Completed")
    serve(scene, "second", SECOND, **LONG, queries=[STOPS])
    assert scene.entry() == text(SECOND)
    prometheus.values[QUERY] = 0.75
    status = scene.await_phase("second", "RolledBack")
    assert "stops is 0.75, above 0.5, 2 times in a row (failureLimit 2)" in status["message"]
    assert scene.entry() == text(FIRST)
    assert scene.record() == {"policy": text(FIRST), "last-completed": text(FIRST)}


def test_a_prometheus_that_is_away_is_neither_a_pass_nor_a_breach(scene: Scene, prometheus: PrometheusServer) -> None:
    prometheus.values.clear()
    scene.deploy()
    serve(scene, "blind", **SHORT, queries=[STOPS])
    message = scene.await_condition("blind", "Monitored", "NoData")
    assert "0 series: there are no data" in message
    prometheus.broken = True
    try:
        status = scene.await_phase("blind", "Inconclusive")
    finally:
        prometheus.broken = False
    assert scene.condition("blind", "Monitored")[:2] == ("False", "NoData")
    assert "refuses the query: no storage" in status["message"]
    assert scene.entry() == text(FIRST)
    assert "last-completed" not in scene.record()


def candidate_behind_a_watched_one(scene: Scene) -> None:
    """The first student is served and watched; the second has passed its gates, and waits for the end of that."""
    scene.deploy()
    serve(scene, "watched", FIRST, **LONG)
    scene.start("candidate", SECOND, monitoring=LONG)
    scene.judge("candidate")
    scene.await_condition("candidate", "Promoted", "WaitingForSoak")


def test_a_candidate_waits_for_the_window_before_and_goes_with_what_it_was_compared_with(scene: Scene) -> None:
    candidate_behind_a_watched_one(scene)
    assert scene.status("candidate")["baseline"]["digest"] == FIRST.digest
    assert scene.entry() == text(FIRST)
    restart(scene, 3)
    scene.await_phase("watched", "RolledBack")
    scene.await_phase("candidate", "Superseded")
    assert scene.condition("candidate", "Superseded")[:2] == ("True", "BaselineChanged")
    assert scene.entry() is None


def test_a_candidate_does_not_wait_for_a_rollout_that_was_deleted(scene: Scene) -> None:
    candidate_behind_a_watched_one(scene)
    scene.objects.delete("studentrollouts", "watched")
    scene.serve("candidate", "Monitoring")
    assert scene.entry() == text(SECOND)
    restart(scene, 3)
    scene.await_phase("candidate", "RolledBack")
    assert scene.entry() is None, "the first had not completed its window"


def test_of_two_candidates_one_is_promoted_and_the_other_stopped(scene: Scene) -> None:
    scene.deploy()
    for name, policy in (("one", FIRST), ("two", SECOND)):
        scene.start(name, policy)
        scene.play(name, "parity")
    until(lambda: {"one-rollouts", "two-rollouts"} <= set(scene.jobs()), "both evaluate", scene.jobs)
    scene.play("one", "rollouts")
    scene.play("one", "judge")
    status = scene.await_phase("two", "Superseded")
    uid = scene.record()["rollout"]
    assert f"the target serves {text(FIRST)}, put by rollout {uid}" in status["message"]
    until(lambda: "two-rollouts" not in scene.jobs(), "its evaluation is stopped", scene.jobs)
    scene.await_available()
    scene.await_phase("one", "Completed")


def test_drift_is_reported_with_its_manager_and_left_alone(scene: Scene) -> None:
    scene.deploy()
    scene.start("drifted", FIRST)
    scene.judge("drifted")
    before = scene.serve("drifted")
    other = f"FLOWSTILL_POLICY={text(SECOND)}"
    scene.plane.kubectl("set", "env", f"deployment/{TARGET}", "-n", scene.namespace, other)
    message = scene.await_condition("drifted", "Drifted", "EntryChanged")
    assert f"the target serves {text(SECOND)}, set by field manager kubectl-set" in message
    assert "EntryChanged Drifted" in scene.events("drifted", "EntryChanged Drifted")
    assert scene.entry() == text(SECOND)
    after = scene.status("drifted")
    assert (after["phase"], after["completionTime"]) == ("Completed", before["completionTime"])
    back = f"FLOWSTILL_POLICY={text(FIRST)}"
    scene.plane.kubectl("set", "env", f"deployment/{TARGET}", "-n", scene.namespace, back)
    scene.await_condition("drifted", "Drifted", "EntryRestored")
