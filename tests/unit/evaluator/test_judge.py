"""The judge from published records to published evidence, in a store of its own."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstill.api.children import MAX_RESULT_BYTES, ParityTask, Result
from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import ArmResult, GateResult, Interval, Override
from flowstill.artifacts.manifest import read_manifest
from flowstill.artifacts.stores import fetch
from flowstill.errors import ArtifactError, DigestMismatch, UserError
from flowstill_evaluator.cli import main
from flowstill_evaluator.decision import MAX_DECISION_BYTES, fitted_result
from flowstill_evaluator.gates.chain import TITLES
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.judging import published, run


def test_good_records_end_in_published_evidence(store, tmp_path):
    task = published(tmp_path)
    result, quiet = run(task, tmp_path)
    assert (result.outcome, result.verdict, result.reason) == ("Succeeded", "Pass", "GatesPassed")
    assert [g.name for g in result.gates] == list(TITLES)
    assert {a.name for a in result.arms} == set(syn.RATES)
    assert quiet.told[-1] == (4, 4, "Pass")

    folder = fetch(result.evidence, "evidence")
    manifest = read_manifest(folder)
    assert manifest.kind == "Evidence"
    assert manifest.properties.verdict == "Pass"
    assert manifest.properties.rollouts.digest == task.rollouts.digest
    assert {e.path for e in manifest.files} == {"decision.json", "report.json", "report.html"}

    raw = (folder / "decision.json").read_bytes()
    decision = json.loads(raw)
    assert len(raw) <= MAX_DECISION_BYTES
    assert decision["verdict"] == "Pass"
    assert decision["student"]["digest"] == task.student.digest
    assert decision["rollouts"]["digest"] == task.rollouts.digest
    assert (decision["tasks"], decision["pairedEpisodes"]) == (1, 200)
    assert {g["name"]: g["verdict"] for g in decision["gates"]} == dict.fromkeys(TITLES, "Pass")
    report = json.loads((folder / "report.json").read_text())
    assert [a["success"] for a in report["arms"] if a["name"] == "student-draws"] == [197]
    assert len(report["velocityShifts"]) == 7
    assert "The student may be served" in (folder / "report.html").read_text()


def test_the_students_curve_is_in_the_report(store, tmp_path):
    curve = syn.curve([300, 600], published=300)
    result, _ = run(published(tmp_path, curve=curve.model_dump_json(by_alias=True)), tmp_path)
    folder = fetch(result.evidence, "evidence")
    assert "data:image/png;base64,YSBwaWN0dXJl" in (folder / "report.html").read_text()
    report = json.loads((folder / "report.json").read_text())
    assert report["training"] == curve.model_dump(by_alias=True)


def test_a_student_without_a_curve_is_judged_all_the_same(store, tmp_path):
    result, _ = run(published(tmp_path), tmp_path)
    assert json.loads((fetch(result.evidence, "evidence") / "report.json").read_text())["training"] is None


def test_a_curve_that_cannot_be_read_is_named(store, tmp_path):
    with pytest.raises(ArtifactError, match=r"curve\.json is no curve that this version reads: looks"):
        run(published(tmp_path, curve=syn.curve([], published=1).model_dump_json(by_alias=True)), tmp_path)


def test_the_command_says_it_in_one_line(store, tmp_path, monkeypatch):
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setenv("FLOWSTILL_TERMINATION_LOG", str(log))
    spec, work = tmp_path / "spec.json", tmp_path / "work"
    spec.write_text(published(tmp_path).model_dump_json(by_alias=True))
    assert main(["judge", "--spec", str(spec), "--output", str(work)]) == 0
    line = log.read_bytes()
    assert len(line) <= MAX_RESULT_BYTES
    said = Result.model_validate_json(line)
    assert said.verdict == "Pass"
    assert said == Result.model_validate_json((work / "result.json").read_bytes())
    assert all(gate.message for gate in said.gates if gate.verdict != "Pass")


def test_what_more_episodes_can_decide_is_no_verdict(store, tmp_path):
    result, _ = run(published(tmp_path, episodes=50, most=200), tmp_path)
    assert (result.outcome, result.verdict, result.reason) == ("Succeeded", None, "MoreEpisodes")
    assert (result.wanted_episodes, result.evidence) == (100, None)
    assert {gate.name for gate in result.gates if gate.verdict == "Inconclusive"} >= {"P1"}
    assert {arm.episodes for arm in result.arms} == {50}
    assert len(list((store / "evidence").iterdir())) == 1, "the records, and nothing that was judged"


def test_judging_twice_gives_the_same_evidence(store, tmp_path):
    task = published(tmp_path)
    assert run(task, tmp_path)[0] == run(task, tmp_path)[0]
    assert len(list((store / "evidence").iterdir())) == 2


@pytest.mark.parametrize(
    ("records", "verdict", "reason"),
    [
        ({"rates": {"student-draws": 0.4}}, "Fail", "GatesFailed"),
        ({"episodes": 20}, "Inconclusive", "EvidenceInconclusive"),
        ({"break_records": lambda f: (f / "memory.json").unlink()}, "Inconclusive", "EvidenceInconclusive"),
        ({"break_records": lambda f: (f / "run.json").unlink()}, "Inconclusive", "EvidenceInconclusive"),
    ],
)
def test_other_verdicts(store, tmp_path, records, verdict, reason):
    result, _ = run(published(tmp_path, **records), tmp_path)
    assert (result.outcome, result.verdict, result.reason) == ("Succeeded", verdict, reason)
    assert (fetch(result.evidence, "evidence") / "report.html").is_file()


OVERRIDES = [
    {"gate": "P1", "by": "ann", "reason": "a pilot line", "expires": "2026-01-03T00:00:00Z"},
    {"gate": "P3", "by": "bob", "reason": "long ago", "expires": "2026-01-01T00:00:00Z"},
]


def test_overrides_are_in_the_record_and_change_no_verdict(store, tmp_path):
    task = published(tmp_path, rates={"student-draws": 0.4})
    told = task.model_copy(
        update={"overrides": [Override(**one) for one in OVERRIDES], "asked": "2026-01-02T00:00:00Z"}
    )
    result, _ = run(told, tmp_path)
    assert result.verdict == "Fail"
    assert all(gate.override is None for gate in result.gates), "the operator knows them; the message is short of room"
    folder = fetch(result.evidence, "evidence")
    expected = {
        "P1": {"by": "ann", "reason": "a pilot line", "expires": "2026-01-03T00:00:00Z", "lapsed": False},
        "P3": {"by": "bob", "reason": "long ago", "expires": "2026-01-01T00:00:00Z", "lapsed": True},
    }
    for name in ("decision.json", "report.json"):
        found = json.loads((folder / name).read_text())
        assert found["verdict"] == "Fail"
        assert {gate["name"]: gate["override"] for gate in found["gates"] if gate.get("override")} == expected
        assert {gate["name"]: gate["verdict"] for gate in found["gates"]}["P1"] == "Fail"
    page = (folder / "report.html").read_text()
    assert "Overridden by ann until 2026-01-03T00:00:00Z" in page
    assert "Expired override by bob until 2026-01-01T00:00:00Z" in page


@pytest.mark.parametrize(("expires", "reason"), [("2026-01-03", "MoreEpisodes"), ("2026-01-01", "GatesFailed")])
def test_a_failed_gate_that_somebody_answers_for_does_not_end_the_evaluation(store, tmp_path, expires, reason):
    def more_memory(folder):
        syn.write_json(folder, "memory", {"teacher@10": [1e8] * 5, "student-draws": [2e8] * 5})

    override = Override(gate="P3", by="ann", reason="a pilot line", expires=f"{expires}T00:00:00Z")
    task = published(tmp_path, episodes=50, most=200, break_records=more_memory)
    told = task.model_copy(update={"overrides": [override], "asked": "2026-01-02T00:00:00Z"})
    assert run(told, tmp_path)[0].reason == reason


def test_six_overrides_fit_into_a_decision(store, tmp_path):
    long = [
        Override(gate=f"P{n}", by="ö" * 256, reason="because " * 60, expires="2026-01-03T00:00:00Z")
        for n in range(1, 7)
    ]
    told = published(tmp_path).model_copy(update={"overrides": long, "asked": "2026-01-02T00:00:00Z"})
    folder = fetch(run(told, tmp_path)[0].evidence, "evidence")
    raw = (folder / "decision.json").read_bytes()
    assert len(raw) <= MAX_DECISION_BYTES
    kept = [gate["override"] for gate in json.loads(raw)["gates"] if "override" in gate]
    assert len(kept) == 6
    assert all(override["by"].startswith("öö") and override["reason"].startswith("because") for override in kept)
    whole = json.loads((folder / "report.json").read_text())
    assert whole["gates"][-1]["override"]["reason"] == long[0].reason


def test_a_one_draw_student_is_served_with_one_draw(store, tmp_path):
    result, _ = run(published(tmp_path, draws=1, rates={"student": 0.5}), tmp_path)
    assert result.verdict == "Fail"
    p1 = next(g for g in result.gates if g.name == "P1")
    assert p1.measured == pytest.approx(0.5 - 0.88)


def test_records_of_another_student_are_not_believed(store, tmp_path):
    def other(folder):
        run_record = syn.read_json(folder, "run")
        for arm in run_record["arms"]:
            arm["digest"] = syn.STUDENT
        syn.write_json(folder, "run", run_record)

    result, _ = run(published(tmp_path, break_records=other), tmp_path)
    assert {g.verdict for g in result.gates} == {"Inconclusive"}


def test_changed_records_are_refused(store, tmp_path):
    task = published(tmp_path)
    path = fetch(task.rollouts, "rollouts") / "memory.json"
    path.chmod(0o644)
    path.write_text("{}")
    with pytest.raises(DigestMismatch, match="rollouts"):
        run(task, tmp_path)


def test_another_childs_task_is_refused(store, tmp_path):
    task = published(tmp_path)
    values = task.model_dump(exclude={"kind", "rollouts", "episodes", "parity_difference", "overrides", "asked"})
    with pytest.raises(UserError, match="kind"):
        run(ParityTask.model_validate(values), tmp_path)


gates = st.builds(
    lambda name, verdict, message, numbers: GateResult(
        name=name,
        gate_class="safety" if name[0] == "S" else "performance",
        verdict=verdict,
        measured=numbers[0],
        threshold=numbers[1],
        interval=Interval(low=numbers[2], high=numbers[3]),
        samples=1_000_000,
        message=message,
    ),
    st.sampled_from(list(TITLES)),
    st.sampled_from(["Pass", "Fail", "Inconclusive"]),
    st.text(min_size=300, max_size=512),
    st.lists(st.sampled_from([-0.012346, 12345.0, -1.2346e-05]), min_size=4, max_size=4),
)


@given(st.lists(gates, min_size=9, max_size=9))
@settings(max_examples=30, deadline=None)
def test_a_result_fits_into_a_termination_message(results):
    arm = ArmResult(
        name="student-draws", success=0.87654, episodes=100_000, interval=Interval(low=0.81234, high=0.91234)
    )
    ref = StatusRef(uri="store://evidence/sha256-" + "a" * 64, digest="sha256:" + "a" * 64)
    long = Result(
        kind="Judge",
        outcome="Succeeded",
        reason="EvidenceInconclusive",
        message="Gates S1, S2, S3, P1, P2, P3, P4, P5, P6 could not be decided; none failed.",
        verdict="Inconclusive",
        gates=results,
        arms=[arm] * 7,
        evidence=ref,
    )
    short = fitted_result(long)
    assert len(short.model_dump_json(by_alias=True).encode()) <= MAX_RESULT_BYTES
    assert [(g.name, g.verdict, g.measured, g.interval) for g in short.gates] == [
        (g.name, g.verdict, g.measured, g.interval) for g in results
    ]
    assert short.arms == long.arms
    assert short.evidence == ref


def test_the_reasons_that_matter_are_cut_last():
    def gate(name, verdict):
        return GateResult(name=name, gate_class="performance", verdict=verdict, message="because " * 40)

    long = Result(
        kind="Judge",
        outcome="Succeeded",
        reason="GatesFailed",
        verdict="Fail",
        gates=[gate("P1", "Fail"), *[gate(name, "Pass") for name in list(TITLES) if name != "P1"]],
    )
    short = fitted_result(long)
    assert len(short.gates[0].message) > 300
    assert all(len(g.message) < len(short.gates[0].message) for g in short.gates[1:])
