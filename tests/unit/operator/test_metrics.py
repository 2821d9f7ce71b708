"""What the operator counts; that alerts and dashboard ask for nothing else; and how its log is written."""

import json
import logging
import re

import promql_parser
import pytest
import yaml

from flowstill.api.schema import REPOSITORY
from flowstill_operator.engine.logs import set_up
from flowstill_operator.engine.loop import Key, Reconciler
from flowstill_operator.engine.metrics import Metrics, WatchAge
from tests.unit.operator.builders import NOW, PLATFORM, distill_spec, resource
from tests.unit.operator.fake_cluster import FakeCluster

CHART = REPOSITORY / "helm/flowstill"
RULES = yaml.safe_load((CHART / "files/rules.yaml").read_text())
DASHBOARD = json.loads((CHART / "files/dashboard.json").read_text())
EXPRESSIONS = [
    *(rule["expr"] for group in RULES["groups"] for rule in group["rules"]),
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
]
BEGUN = {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}


def samples(metrics: Metrics) -> dict[str, float]:
    lines = metrics.text(3, 0.25, 7.0).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_an_end_is_counted_once_with_its_duration() -> None:
    metrics = Metrics()
    ended = {**BEGUN, "phase": "Failed", "completionTime": "2026-01-01T00:10:00Z"}
    series = 'flowstill_duration_seconds_{}{{kind="DistillJob",phase="Failed"}}'
    assert samples(metrics)[series.format("count")] == 0
    metrics.wrote("DistillJob", {}, BEGUN)
    metrics.wrote("DistillJob", BEGUN, ended)
    metrics.wrote("DistillJob", ended, {**ended, "message": "said differently"})
    assert samples(metrics)[series.format("count")] == 1
    assert samples(metrics)[series.format("sum")] == 600


def test_an_end_before_the_first_child_took_no_time() -> None:
    metrics = Metrics()
    metrics.wrote("StudentRollout", {}, {"phase": "Failed", "completionTime": "2026-01-01T00:10:00Z"})
    assert samples(metrics)['flowstill_duration_seconds_sum{kind="StudentRollout",phase="Failed"}'] == 0


def judged(reason: str, **verdicts: str) -> dict:
    gates = [{"name": name, "verdict": verdict} for name, verdict in verdicts.items()]
    return {**BEGUN, "gates": gates, "conditions": [{"type": "GatesPassed", "status": "?", "reason": reason}]}


def verdicts(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in samples(metrics).items() if "gate_verdicts_total" in name and value}


@pytest.mark.parametrize("reason", ["GatesPassed", "GatesFailed", "Inconclusive", "OverrideLapsed", "GatesOverridden"])
def test_gates_are_counted_with_the_write_that_judges_them(reason: str) -> None:
    metrics = Metrics()
    running = {**BEGUN, "conditions": [{"type": "GatesPassed", "status": "Unknown", "reason": "Running"}]}
    after = judged(reason, S1="Fail", P1="Pass")
    metrics.wrote("StudentRollout", BEGUN, running)
    assert not verdicts(metrics)
    metrics.wrote("StudentRollout", running, after)
    once = {
        'flowstill_gate_verdicts_total{gate="S1",verdict="Fail"}': 1,
        'flowstill_gate_verdicts_total{gate="P1",verdict="Pass"}': 1,
    }
    assert verdicts(metrics) == once
    metrics.wrote("StudentRollout", after, {**after, "phase": "Rejected"})
    metrics.wrote("StudentRollout", after, judged("OverrideLapsed", S1="Fail", P1="Pass"))
    assert verdicts(metrics) == once


def test_of_several_rounds_the_last_word_of_the_gates_is_counted() -> None:
    metrics = Metrics()
    first, last = judged("Undecided", S1="Inconclusive"), judged("GatesFailed", S1="Fail")
    metrics.wrote("StudentRollout", BEGUN, first)
    assert not verdicts(metrics)
    metrics.wrote("StudentRollout", first, last)
    assert verdicts(metrics) == {'flowstill_gate_verdicts_total{gate="S1",verdict="Fail"}': 1}


def test_the_signals_of_a_check_are_counted_once() -> None:
    metrics = Metrics()
    series = 'flowstill_monitoring_samples_total{{outcome="{}"}}'
    signals = [{"name": "a", "breaches": 0}, {"name": "b", "breaches": 2}, {"name": "c", "breaches": 1, "message": "x"}]
    checked = {**BEGUN, "monitoring": {"lastChecked": "2026-01-01T00:01:00Z", "signals": signals}}
    metrics.wrote("StudentRollout", BEGUN, checked)
    metrics.wrote("StudentRollout", checked, {**checked, "phase": "RolledBack"})
    found = samples(metrics)
    assert [found[series.format(outcome)] for outcome in ("good", "breach", "missing")] == [1, 1, 1]


def test_drift_is_counted_when_it_begins() -> None:
    metrics = Metrics()
    drifted = {**BEGUN, "conditions": [{"type": "Drifted", "status": "True"}]}
    for before, after in ((BEGUN, drifted), (drifted, {**drifted, "message": "x"}), (drifted, BEGUN)):
        metrics.wrote("StudentRollout", before, after)
    assert samples(metrics)["flowstill_drifts_total"] == 1


def test_the_moment_is_measured() -> None:
    found = samples(Metrics())
    assert found["flowstill_queue_depth"] == 3
    assert found["flowstill_loop_lag_seconds"] == 0.25
    assert found["flowstill_watch_age_seconds"] == 7


def test_silence_begins_with_the_first_news() -> None:
    now = [5.0]
    age = WatchAge(lambda: now[0])
    assert age.seconds() == 0
    age.heard()
    now[0] = 9.0
    assert age.seconds() == 4


async def test_the_loop_counts_what_it_wrote_and_logs_new_phases(caplog: pytest.LogCaptureFixture) -> None:
    cluster, metrics = FakeCluster(), Metrics()
    cluster.put(resource("DistillJob", distill_spec()))
    with caplog.at_level(logging.INFO, "flowstill_operator"):
        await Reconciler(cluster, PLATFORM, metrics, now=lambda: NOW).reconcile(Key("DistillJob", "robots", "sample"))
    (record,) = [each for each in caplog.records if getattr(each, "phase", None)]
    assert (record.phase, record.kind, record.resource) == ("Queued", "DistillJob", "robots/sample")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_alerts_and_dashboard_ask_for_what_there_is(expression: str) -> None:
    promql_parser.parse(expression)
    metrics = Metrics()
    metrics.child_created("train")
    metrics.phase(Key("DistillJob", "a", "b"), "Running")
    metrics.passed(Key("DistillJob", "a", "b"), "ok", 0.1)
    known = {name.partition("{")[0] for name in samples(metrics)}
    asked = set(re.findall(r"flowstill_\w+", expression))
    assert asked
    assert asked <= known


def test_each_alert_says_what_and_what_to_do() -> None:
    for rule in RULES["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_a_line_of_the_log_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        set_up("info", "json")
        about = {"kind": "DistillJob", "resource": "robots/sample"}
        logging.getLogger("x").warning("it failed: %s", "disk\nfull", extra=about)
        line = json.loads(capsys.readouterr().err)
    finally:
        root.handlers[:], root.level = before[0], before[1]
    assert line.pop("timestamp")
    assert line == {"level": "WARNING", "logger": "x", "message": "it failed: disk\nfull", **about}
