"""Every alert of the chart, by Prometheus' own tool: it fires when it should, and at no other time."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import binaries
from tests.cluster.harness.cache import Report
from tests.cluster.harness.processes import CommandError, run
from tests.cluster.prometheus import rendered_rules

pytestmark = pytest.mark.long

MINUTES = 150
OPERATOR = {"job": "flowstill", "instance": "10.0.0.7:8080"}


@dataclass(frozen=True)
class Scene:
    """What is exported, a value a minute in promtool's notation, and what is to fire at some minutes.

    Attributes:
        title: what happens.
        alert: the name of the alert that is looked at.
        series: values by metric with its own labels; those of the scrape are added.
        fires: at that minute, labels besides the severity, and the summary.
        silent: minutes at which it does not fire.
    """

    title: str
    alert: str
    series: dict[str, str]
    fires: dict[int, list[tuple[dict[str, str], str]]] = field(default_factory=dict)
    silent: tuple[int, ...] = ()


def ends(kind: str, phase: str) -> str:
    return f'flowstill_duration_seconds_count{{kind="{kind}",phase="{phase}"}}'


def errors(kind: str) -> str:
    return f'flowstill_reconcile_total{{kind="{kind}",outcome="error"}}'


def passes(kind: str, most: str) -> str:
    return f'flowstill_reconcile_seconds_bucket{{kind="{kind}",le="{most}"}}'


def looks(outcome: str) -> str:
    return f'flowstill_monitoring_samples_total{{outcome="{outcome}"}}'


def verdicts(gate: str, verdict: str) -> str:
    return f'flowstill_gate_verdicts_total{{gate="{gate}",verdict="{verdict}"}}'


DEPTH, LAG, DRIFTS = "flowstill_queue_depth", "flowstill_loop_lag_seconds", "flowstill_drifts_total"
DOWN = "No Flowstill operator is scraped."
SLOW = "One pass in a hundred takes more than 5 s."
BLIND = "Signals of watched students give no numbers."
DRIFTED = "Somebody changed the policy that a rollout had promoted."
AGAIN = "{}: passes fail again and again."
OF_JOBS = {**OPERATOR, "kind": "DistillJob", "phase": "Failed"}
OF_ROLLOUTS = {**OPERATOR, "kind": "StudentRollout", "phase": "RolledBack"}

SCENES = [
    Scene("nothing was ever scraped", "FlowstillOperatorDown", {}, {10: [({}, DOWN)]}, (9,)),
    Scene("it works", "FlowstillOperatorDown", {DEPTH: "0x150"}, silent=(10, 60, 149)),
    Scene("it goes away", "FlowstillOperatorDown", {DEPTH: "0x19 stale"}, {30: [({}, DOWN)]}, (19, 29)),
    Scene("it is replaced", "FlowstillOperatorDown", {DEPTH: "0x19 stale _x7 0x120"}, silent=(25, 31, 60)),
    Scene(
        "one kind fails each minute",
        "FlowstillReconcileErrors",
        {errors("DistillJob"): "0+1x150", errors("StudentRollout"): "0x150"},
        {60: [({"kind": "DistillJob"}, AGAIN.format("DistillJob"))]},
        (15,),
    ),
    Scene(
        "now and then", "FlowstillReconcileErrors", {errors("DistillJob"): "0+1x4 4x10 4+1x4 8x120"}, silent=(14, 30)
    ),
    Scene("a burst", "FlowstillReconcileErrors", {errors("DistillJob"): "0x30 20x120"}, silent=(31, 40, 45, 60)),
    Scene(
        "the last percent is slow",
        "FlowstillReconcileSlow",
        {
            passes("DistillJob", "5.0"): "0+98x150",
            passes("DistillJob", "7.5"): "0+100x150",
            passes("DistillJob", "+Inf"): "0+100x150",
        },
        {60: [({}, SLOW)]},
        (10,),
    ),
    Scene(
        "all are quick",
        "FlowstillReconcileSlow",
        {passes("DistillJob", "5.0"): "0+100x150", passes("DistillJob", "+Inf"): "0+100x150"},
        silent=(30, 60),
    ),
    Scene(
        "nothing happens at night",
        "FlowstillReconcileSlow",
        {passes("DistillJob", "5.0"): "9x150", passes("DistillJob", "+Inf"): "10x150"},
        silent=(30, 60),
    ),
    Scene(
        "it hangs",
        "FlowstillLoopLag",
        {LAG: "0x9 6x140"},
        {20: [(OPERATOR, "The operator's event loop is 6s late.")]},
        (9, 14),
    ),
    Scene("a hiccup", "FlowstillLoopLag", {LAG: "0x9 20x3 0x140"}, silent=(11, 20)),
    Scene("at the limit", "FlowstillLoopLag", {LAG: "5x150"}, silent=(20, 60)),
    Scene(
        "one fails",
        "FlowstillDistillJobFailed",
        {ends("DistillJob", "Failed"): "0x4 1x145", ends("DistillJob", "Succeeded"): "0+1x150"},
        {5: [(OF_JOBS, "A DistillJob failed.")], 60: [(OF_JOBS, "A DistillJob failed.")]},
        (4, 66),
    ),
    Scene(
        "others end",
        "FlowstillDistillJobFailed",
        {ends("DistillJob", "Succeeded"): "0+1x150", ends("StudentRollout", "Failed"): "0+1x150"},
        silent=(5, 60),
    ),
    Scene("a restart", "FlowstillDistillJobFailed", {ends("DistillJob", "Failed"): "3x30 0x110"}, silent=(30, 31, 60)),
    Scene(
        "one is taken back",
        "FlowstillRolledBack",
        {ends("StudentRollout", "RolledBack"): "0x4 1x145"},
        {5: [(OF_ROLLOUTS, "A student was taken back.")]},
        (4, 66),
    ),
    Scene(
        "others are refused",
        "FlowstillRolledBack",
        {ends("StudentRollout", phase): "0+1x150" for phase in ("Rejected", "Completed", "Superseded", "Inconclusive")},
        silent=(5, 60),
    ),
    Scene("an entry is changed", "FlowstillDrifted", {DRIFTS: "0x4 1x145"}, {5: [(OPERATOR, DRIFTED)]}, (4, 66)),
    Scene("nobody meddles", "FlowstillDrifted", {DRIFTS: "2x150"}, silent=(5, 60)),
    Scene(
        "no numbers",
        "FlowstillMonitoringBlind",
        {looks("missing"): "0+1x150", looks("good"): "0x150"},
        {60: [({**OPERATOR, "outcome": "missing"}, BLIND)]},
        (10,),
    ),
    Scene(
        "a gap",
        "FlowstillMonitoringBlind",
        {looks("missing"): "0+1x8 8x140", looks("good"): "0+1x150", looks("breach"): "0+1x150"},
        silent=(10, 25, 60),
    ),
    Scene(
        "a safety gate fails",
        "FlowstillSafetyGateFailed",
        {verdicts("S2", "Fail"): "0x4 1x145", verdicts("S1", "Fail"): "0x150", verdicts("S2", "Pass"): "0+1x150"},
        {5: [({"gate": "S2"}, "A student failed safety gate S2.")]},
        (4, 66),
    ),
    Scene(
        "it is undecided, and a gate of performance fails",
        "FlowstillSafetyGateFailed",
        {verdicts("S2", "Inconclusive"): "0+1x150", verdicts("P1", "Fail"): "0+1x150"},
        silent=(5, 60),
    ),
]
"""Whole minutes: a look every 30 s would say the same."""

Promtool = Callable[..., str]


@pytest.fixture(scope="module")
def rules(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered_rules(tmp_path_factory.mktemp("rules"), report)


@pytest.fixture(scope="module")
def promtool(report: Report) -> Promtool:
    binary = binaries.ensure((binaries.PROMTOOL,), report)[binaries.PROMTOOL.name]
    return lambda *arguments: run([str(binary), *arguments])


def alerts(rules: Path) -> dict[str, dict[str, Any]]:
    groups = json.loads(rules.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def scraped(name: str) -> str:
    """The series with the labels that a scrape adds."""
    labels = ",".join(f'{key}="{value}"' for key, value in OPERATOR.items())
    return f"{name[:-1]},{labels}}}" if name.endswith("}") else f"{name}{{{labels}}}"


def story(scene: Scene, rules: Path) -> dict[str, Any]:
    """A test as promtool reads it."""
    rule = alerts(rules)[scene.alert]
    looks: list[dict[str, Any]] = []
    for minute, expected in [*scene.fires.items(), *((minute, []) for minute in scene.silent)]:
        found = [
            {
                "exp_labels": {**rule["labels"], **labels},
                "exp_annotations": {"summary": summary, "description": rule["annotations"]["description"]},
            }
            for labels, summary in expected
        ]
        looks.append({"eval_time": f"{minute}m", "alertname": scene.alert, "exp_alerts": found})
    series = [{"series": scraped(name), "values": values} for name, values in scene.series.items()]
    test = {"interval": "1m", "name": scene.title, "input_series": series, "alert_rule_test": looks}
    return {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}


def test_prometheus_reads_the_rules_and_its_linter_finds_nothing(promtool: Promtool, rules: Path) -> None:
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", str(rules))
    assert f"SUCCESS: {len(alerts(rules))} rules found" in said


def test_every_alert_has_a_scene_in_which_it_fires_and_one_in_which_it_does_not(rules: Path) -> None:
    firing = {scene.alert for scene in SCENES if scene.fires}
    quiet = {scene.alert for scene in SCENES if not scene.fires}
    assert firing == quiet == alerts(rules).keys()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"{scene.alert}: {scene.title}")
def test_an_alert_fires_when_it_should(promtool: Promtool, rules: Path, tmp_path: Path, scene: Scene) -> None:
    file = tmp_path / "story.json"
    file.write_text(json.dumps(story(scene, rules)))
    promtool("test", "rules", str(file))


def test_the_tool_says_so_when_an_alert_does_not_fire(promtool: Promtool, rules: Path, tmp_path: Path) -> None:
    file = tmp_path / "story.json"
    wrong = Scene("never", "FlowstillDrifted", {DRIFTS: "0x150"}, {5: [(OPERATOR, DRIFTED)]})
    file.write_text(json.dumps(story(wrong, rules)))
    with pytest.raises(CommandError, match="FAILED"):
        promtool("test", "rules", str(file))
