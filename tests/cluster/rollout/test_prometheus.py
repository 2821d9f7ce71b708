"""Students watched by a real Prometheus, which scrapes the real operator and the server of a policy."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowstill_operator.clusters.prometheus import Prometheus
from tests.cluster.harness.cache import Report
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.prometheus import PolicyServer, RealPrometheus, policy_server, rendered_rules
from tests.cluster.resources import distill_job
from tests.cluster.rollout.test_monitoring import FIRST, LONG, SHORT, serve, signals
from tests.cluster.scene import Scene
from tests.cluster.waiting import until
from tests.unit.operator.test_metrics import DASHBOARD

pytestmark = pytest.mark.long

STOPS = 'robot_emergency_stops_total{cell="a"}'
SUCCESS = 'robot_success_ratio{cell="a"}'
STOPPED = {
    "name": "stops",
    "query": f"sum(increase({STOPS}[15s]))",
    "comparison": "above",
    "threshold": 2,
    "failureLimit": 2,
    "minSamples": 2,
}
SUCCEEDED = {
    "name": "success",
    "query": f"avg({SUCCESS})",
    "comparison": "below",
    "threshold": 0.9,
    "failureLimit": 2,
    "minSamples": 2,
}


@dataclass(frozen=True)
class Monitored:
    """A policy's server and an operator, both scraped by the Prometheus that the operator asks."""

    prometheus: RealPrometheus
    robot: PolicyServer
    operator: OperatorProcess
    rules: Path

    def start(self) -> None:
        """Start Prometheus, and return when it has scraped both."""
        targets = {"robot": self.robot.address, "flowstill": f"127.0.0.1:{self.operator.port}"}
        self.prometheus.start(targets, self.rules)
        until(lambda: len(self.prometheus.series("up == 1")) == 2, "both are scraped", limit=60.0)


@pytest.fixture(scope="module")
def monitored(plane: ControlPlane, report: Report, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("prometheus")
    prometheus = RealPrometheus(folder, report)
    operator = OperatorProcess(plane, folder, "operator", f"--prometheus-url={prometheus.url}")
    with policy_server() as robot:
        robot.values |= {STOPS: 3, SUCCESS: 0.95}
        found = Monitored(prometheus, robot, operator, rendered_rules(folder, report))
        operator.start()
        try:
            operator.await_ready()
            found.start()
            yield found
        finally:
            prometheus.stop()
            operator.stop()
            print(operator.log())


@pytest.fixture
def operator(monitored: Monitored) -> OperatorProcess:
    return monitored.operator


@pytest.fixture
def robot(monitored: Monitored) -> Iterator[PolicyServer]:
    """A policy that does well; what a test changes is as before afterwards."""
    before = {STOPS: 3.0, SUCCESS: 0.95}
    yield monitored.robot
    monitored.robot.growth.clear()
    monitored.robot.values.update(before)


@pytest.mark.parametrize(
    ("query", "value", "why", "refused"),
    [
        ("vector(0.25)", 0.25, "", False),
        ("3", 3.0, "", False),
        ("count(up) > 1", 2.0, "", False),
        ("up{job='nobody'}", None, "0 series: there are no data", False),
        ("up", None, "2 series: aggregate it to one", False),
        ("vector(0) / 0", None, "the query gives NaN, which is no number", False),
        ("vector(1) / 0", None, "the query gives +Inf, which is no number", False),
        ("up[1m]", None, "the query gives matrix", False),
        ("'text'", None, "the query gives string", False),
        ("sum(up", None, "refuses the query: invalid parameter", True),
        ("nothing(up)", None, "unknown function", True),
        ("up + on() up", None, "many-to-many matching not allowed", False),
    ],
)
async def test_what_prometheus_answers_is_understood(
    monitored: Monitored, query: str, value: float | None, why: str, refused: bool
) -> None:
    client = Prometheus(monitored.prometheus.url)
    try:
        found = await client.ask(query)
    finally:
        await client.close()
    assert (found.value, found.refused) == (value, refused), found
    assert why in found.why


@pytest.mark.usefixtures("robot")
def test_a_student_that_does_well_completes(scene: Scene) -> None:
    of_operator = {"name": "queue", "query": "max(flowstill_queue_depth)", "comparison": "above", "threshold": 100}
    scene.deploy()
    serve(scene, "good", **SHORT, queries=[STOPPED, SUCCEEDED, of_operator])
    scene.await_phase("good", "Completed")
    assert scene.condition("good", "Monitored")[:2] == ("True", "WindowPassed")
    found = signals(scene, "good")
    assert {name: found[name]["samples"] for name in ("stops", "success", "queue")} == dict.fromkeys(
        ("stops", "success", "queue"), 3
    )
    assert (found["stops"]["value"], found["success"]["value"]) == (0, 0.95)


def test_a_student_that_stops_robots_is_taken_back_and_the_alert_says_so(
    scene: Scene, monitored: Monitored, robot: PolicyServer
) -> None:
    scene.deploy()
    robot.growth[STOPS] = 1
    serve(scene, "bad", **LONG, queries=[STOPPED, SUCCEEDED])
    status = scene.await_phase("bad", "RolledBack")
    assert scene.condition("bad", "Monitored")[:2] == ("False", "SignalBreached")
    assert "above 2, 2 times in a row (failureLimit 2)" in status["message"]
    assert scene.entry() is None
    firing = 'ALERTS{alertname="FlowstillRolledBack",alertstate="firing",severity="critical"}'
    until(lambda: monitored.prometheus.series(firing), "the alert fires", lambda: monitored.prometheus.get("rules"))


def test_a_series_that_goes_away_is_neither_a_pass_nor_a_breach(scene: Scene, robot: PolicyServer) -> None:
    scene.deploy()
    serve(scene, "blind", **SHORT, queries=[STOPPED, SUCCEEDED])
    del robot.values[SUCCESS]
    message = scene.await_condition("blind", "Monitored", "NoData")
    assert "success: the query gives 0 series: there are no data" in message
    scene.await_phase("blind", "Inconclusive")
    found = signals(scene, "blind")
    assert (found["stops"]["samples"], found["stops"]["missing"]) == (3, 0)
    assert (found["success"]["samples"], found["success"]["missing"]) == (1, 2)
    assert "last-completed" not in scene.record()


def test_a_query_that_prometheus_cannot_parse_starts_nothing(scene: Scene) -> None:
    scene.deploy()
    scene.start("typo", FIRST, monitoring={**SHORT, "queries": [{**STOPPED, "query": "sum(increase(x[15s])"}]})
    message = scene.await_condition("typo", "Validated", "QueryRefused")
    assert "unclosed left parenthesis" in message
    scene.await_phase("typo", "Failed")
    assert scene.jobs() == {}


@pytest.mark.usefixtures("robot")
def test_a_prometheus_that_stops_is_neither_a_pass_nor_a_breach(scene: Scene, monitored: Monitored) -> None:
    scene.deploy()
    serve(scene, "deaf", **SHORT, queries=[STOPPED])
    until(lambda: signals(scene, "deaf").get("stops", {}).get("samples"), "a look", lambda: scene.status("deaf"))
    monitored.prometheus.stop()
    try:
        message = scene.await_condition("deaf", "Monitored", "NoData")
        assert "stops: Prometheus does not answer" in message
        scene.await_phase("deaf", "Inconclusive")
    finally:
        monitored.start()
    assert "last-completed" not in scene.record()


def expressions() -> list[tuple[str, str, str]]:
    """Panel, query and legend of all that the dashboard draws."""
    return [
        (panel["title"], target["expr"], target["legendFormat"])
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]


def test_the_dashboard_draws_what_the_operator_exports(scene: Scene, monitored: Monitored) -> None:
    """Needs the stories before: with them there is something to draw in every panel."""
    prometheus = monitored.prometheus
    scene.plane.apply(distill_job(namespace=scene.namespace))
    drawn = 'flowstill_resources{kind="DistillJob"}'
    until(lambda: len(prometheus.series(f"{drawn} offset 2s")), "the DistillJob is scraped twice")
    exported = set(prometheus.get("label/__name__/values", **{"match[]": '{job="flowstill"}'}))
    for title, expression, legend in expressions():
        assert set(re.findall(r"flowstill_\w+", expression)) <= exported, title
        for result in (prometheus.series(expression), ranged(prometheus, expression)):
            assert result, f"{title} draws nothing: {expression}"
            labels = set(re.findall(r"{{\s*(\w+)\s*}}", legend))
            assert all(labels <= series["metric"].keys() for series in result), title


def ranged(prometheus: RealPrometheus, expression: str) -> list[dict[str, Any]]:
    """As Grafana asks for a graph: the last minute."""
    (now,) = [series["value"][0] for series in prometheus.series("vector(0)")]
    when = {"start": str(now - 60), "end": str(now), "step": "15"}
    found: list[dict[str, Any]] = prometheus.get("query_range", query=expression, **when)["result"]
    return found
