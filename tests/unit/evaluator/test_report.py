"""The page and the numbers behind it."""

import base64
import json
import re
from dataclasses import replace

import jsonschema
import pytest

from flowstill.api.gates import Gates
from flowstill_evaluator.gates.chain import TITLES, overall, run_gates
from flowstill_evaluator.report import document, drawings
from flowstill_evaluator.report.build import build_report
from flowstill_evaluator.report.media import choose_films
from flowstill_evaluator.report.page import render_page
from flowstill_evaluator.report.summary import arm_results, summarise
from flowstill_evaluator.report.words import confidence, reasons, settings
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.pages import PIXEL, read
from tests.unit.evaluator.reports import judge_task, page_of, report_of, subject


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The document of good records, which most tests only look at."""
    return report_of(syn.write_records(tmp_path_factory.mktemp("good")))


@pytest.mark.parametrize(
    ("kind", "name"), [("flowstill_smolvla", "SmolVLA"), ("flowstill_pi0", "π0"), ("flowstill_pi05", "π0.5")]
)
def test_a_students_policy_has_its_name(good, kind, name):
    about = good.subject.model_copy(update={"policy_type": kind})
    _, text = read(render_page(good.model_copy(update={"subject": about}), {}))
    assert f"A {name} policy was distilled" in text


def test_the_page_answers_the_four_questions(good):
    _, text = read(render_page(good, {}))
    assert "The student may be served" in text
    assert "SmolVLA policy was distilled by SnapFlow" in text
    assert "its teacher at 10 denoising steps" in text
    assert "200 paired episodes" in text
    assert "All nine gates passed." in text
    for name, title in TITLES.items():
        assert name in text
        assert title in text
    for number in ("197 / 200", "176 / 200", "+10.5", "1 214 336", "3 min 51 s", syn.STUDENT, syn.TEACHER):
        assert number in text


def test_the_page_stands_alone(records):
    (records / "videos").mkdir()
    (records / "videos" / "a.png").write_bytes(PIXEL)
    lines = syn.read_lines(records)
    syn.write_lines(records, [e | {"video": None if e["success"] else "videos/a.png"} for e in lines])
    page = page_of(records)
    reader, _ = read(page)
    assert reader.addresses
    within = {address for address in reader.addresses if address.startswith("#")}
    assert {f"#gate-{name}" for name in TITLES} == within <= {f"#{name}" for name in reader.ids}
    assert all(address.startswith("data:") for address in set(reader.addresses) - within)
    assert "script" not in reader.tags
    assert not re.search(r"https?://|@import|url\(", page)


def test_the_same_evidence_gives_the_same_page(records):
    assert page_of(records) == page_of(records)


def test_a_failure_says_which_gate_and_why(tmp_path):
    records = syn.write_records(tmp_path / "r", rates={"student-draws": 0.5})
    _, text = read(page_of(records))
    assert "The student must not be served" in text
    assert "Gates S3, P1, P5 failed." in text
    assert "worse by more than 3 points" in text


def test_the_reasons_stand_at_the_top(tmp_path):
    records = syn.write_records(tmp_path / "r", rates={"student-draws": 0.5})
    (records / "memory.json").unlink()
    named = [gate.name for gate in reasons(report_of(records))]
    assert named == ["S3", "P1", "P5", "P3"]
    _, text = read(page_of(records))
    assert text.index("the records have no memory.json") < text.index("Nine gates")


def test_missing_evidence_is_named(records):
    for name in ("fidelity.json", "latency.json", "episodes.jsonl"):
        (records / name).unlink()
    _, text = read(page_of(records))
    assert "The evidence does not decide" in text
    assert "the records have no fidelity.json" in text
    assert "the records have no episodes.jsonl" in text


def test_how_the_student_was_watched(good):
    curve = syn.curve([300, 600, 900], published=600, reason="nearer than step 900 by 0.1")
    picture = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    reader, text = read(render_page(good.model_copy(update={"training": curve}), {}, picture))
    assert "Published is step 600 of 900: nearer than step 900 by 0.1." in text
    assert "teacher at 10 denoising steps 3 times, on 64 held-out observations with 16 chunks each" in text
    assert picture in reader.addresses
    assert "of the refinement" not in text
    last = curve.looks[-1].model_copy(update={"step": 950, "phase": "refinement"})
    refined = curve.model_copy(update={"looks": [*curve.looks, last]})
    _, text = read(render_page(good.model_copy(update={"training": refined}), {}, picture))
    assert "Of the looks 1 is of the refinement, from step 950 on" in text
    assert "While it was trained" not in read(render_page(good, {}))[1]


def test_nothing_at_all_still_makes_a_page(tmp_path):
    (tmp_path / "empty").mkdir()
    _, text = read(page_of(tmp_path / "empty"))
    assert "the records have no run.json" in text


def test_names_cannot_inject(tmp_path):
    evil = "<script>alert(1)</script>"
    records = syn.write_records(tmp_path / "r", tasks=[evil], episodes=60)
    page = page_of(records, subject(resource=evil, method='"><img src=x>'), tasks=[evil], episodes=60)
    reader, _ = read(page)
    assert "script" not in reader.tags
    assert "img" not in reader.tags


def test_another_baseline_is_called_what_it_is(good):
    other = document.Artifact(uri="store://students/old", digest=syn.TEACHER)
    about = good.subject.model_copy(update={"baseline": other})
    _, text = read(render_page(good.model_copy(update={"subject": about}), {}))
    assert "the policy served now" in text
    assert "store://students/old" in text


def test_summary_of_arms(records):
    evidence = syn.load(records)
    results = run_gates(evidence, Gates())
    arms = summarise(evidence, results, overall(results)).arms
    assert (arms[0].name, arms[-1].name) == ("teacher@10", "student-draws")
    served = arms[-1]
    assert (served.success, served.episodes, sum(served.failures.values())) == (197, 200, 3)
    lines = [e for e in syn.read_lines(records) if e["arm"] == "student-draws"]
    assert served.idle_rate == sum(e["idle_chunks"] for e in lines) / sum(e["chunks"] for e in lines)
    status = arm_results(arms)[-1]
    assert status.success == 0.985
    assert status.interval.low == pytest.approx(0.9568, abs=1e-4)


def test_simulator_errors_are_reported(records):
    syn.write_json(records, "run", syn.read_json(records, "run") | {"errors": [{"task": "x"}, {"task": "y"}]})
    assert "2 episodes could not be run" in read(page_of(records))[1]


def test_a_pair_that_the_simulator_gave_up_is_said_to_be_left_out(records):
    syn.write_lines(records, [e for e in syn.read_lines(records) if (e["arm"], e["episode"]) != ("student-draws", 5)])
    error = {"arm": "student-draws", "task": "reach-around", "episode": 5, "message": "it broke"}
    syn.write_json(records, "run", syn.read_json(records, "run") | {"errors": [error]})
    report = report_of(records)
    assert (report.left_out, report.paired.pairs) == (1, 199)
    assert "1 pair was left out: the simulator gave up an episode." in read(render_page(report, {}))[1]


def test_the_literal_profile_is_named(records, good):
    _, text = read(page_of(records, gates={"profile": "literal"}))
    assert "The profile is literal: point estimates decide" in text
    assert "The profile is literal" not in read(render_page(good, {}))[1]


def test_settings_are_said_in_words_and_empty_ones_are_not_said():
    values = {
        "targetSteps": 10,
        "refine": None,
        "training": {"steps": 1500, "ema": 0.0},
        "renameMap": {},
        "a": ["b", 1],
    }
    assert settings(values, without="tasks") == "targetSteps 10, training (steps 1500, ema 0.0), a b 1"
    assert settings({"tasks": ["x"], "seed": 0}, without="tasks") == "seed 0"


def test_the_page_says_what_each_number_of_fidelity_is(good):
    _, text = read(render_page(good, {}))
    assert "Energy distance, student to teacher" in text
    assert "SnapFlow, targetSteps 10" in text


def test_with_trials_of_ones_own_fidelity_is_not_said_to_be_held_out(good):
    trials = {"uri": "store://evidence/kitchen", "digest": "sha256:" + "1" * 64}
    own = good.model_copy(update={"evaluation": good.evaluation | {"evidence": trials}})
    weaker = "frames of the data that the student was distilled on"
    assert weaker in read(render_page(own, {}))[1]
    assert weaker not in read(render_page(good, {}))[1]


def test_the_checked_in_schema_is_current():
    wanted = document.schema_text()
    for path in document.schema_paths():
        assert path.read_text("utf-8") == wanted, "run: python -m flowstill_evaluator.report.document"


def test_every_report_is_of_the_schema(tmp_path, good):
    schema = json.loads(document.schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    full = good.model_copy(update={"training": syn.curve([300, 600], published=300)})
    (tmp_path / "empty").mkdir()
    for report in (full, report_of(tmp_path / "empty")):
        text = document.as_json(report)
        jsonschema.validate(json.loads(text), schema)
        assert document.Report.model_validate_json(text) == report
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(text) | {"verdict": "Perhaps"}, schema)


def test_the_page_is_drawn_from_the_document_alone(good):
    again = document.Report.model_validate_json(document.as_json(good))
    assert render_page(again, {}) == render_page(good, {})


def test_numbers_that_are_not_finite_do_not_stop_the_report(records):
    run = syn.read_json(records, "run")
    (records / "run.json").write_text(json.dumps(run | {"host": {"load": float("nan")}, "seeds": [float("inf")]}))
    report = report_of(records)
    assert report.run.host == {"load": "nan"}
    assert json.loads(document.as_json(report))["run"]["seeds"] == ["inf"]


def overridden(report, lapsed=False, failed=("P2",)):
    override = document.Override(by="ada", reason="fast <enough>", expires="2026-12-31T00:00:00Z", lapsed=lapsed)
    changes = {name: {"verdict": "Fail", "override": override if name == "P2" else None} for name in failed}
    gates = [g.model_copy(update=changes.get(g.name, {})) for g in report.gates]
    return read(render_page(report.model_copy(update={"gates": gates, "verdict": "Fail"}), {}))[1]


def test_an_override_is_said_with_who_why_and_until_when(good):
    text = overridden(good)
    assert "The student may be served by override" in text
    assert "Overridden by ada until 2026-12-31T00:00:00Z: fast <enough>" in text
    assert text.count("never") >= 3  # one of every safety gate
    assert "Overridden" not in read(render_page(good, {}))[1]


def test_an_override_that_has_lapsed_or_is_of_another_gate_opens_no_way(good):
    lapsed = overridden(good, lapsed=True)
    assert "The student must not be served" in lapsed
    assert "Expired override by ada until 2026-12-31T00:00:00Z: fast <enough>" in lapsed
    assert "The student must not be served" in overridden(good, failed=("S1", "P2"))


def with_threshold(report, gate, threshold):
    gates = [g.model_copy(update={"threshold": threshold}) if g.name == gate else g for g in report.gates]
    return report.model_copy(update={"gates": gates})


def test_margins_are_drawn_where_the_gates_have_them(good):
    figure = drawings.difference_figure(with_threshold(with_threshold(good, "S3", -0.05), "P1", -0.2))
    everything, task = figure.rows
    assert everything.x_limit < task.x_limit < 50.0
    assert (50.0 - everything.x_limit) / (50.0 - task.x_limit) == pytest.approx(4.0, rel=0.01)
    shifts = drawings.shift_figure(with_threshold(good, "S2", 0.001))
    assert {row.kind for row in shifts.rows} == {"beyond"}


def test_the_literal_marks_are_where_its_gates_have_them_and_the_page_says_how_to_read_them(records, good):
    report = report_of(records, gates={"profile": "literal"})
    everything, task = drawings.difference_figure(report).rows
    assert (everything.x_limit, task.x_limit < 50.0) == (50.0, True), "P1 asks for no loss at all"
    reach = max(abs(end) for row in (report.paired, *report.tasks) for end in (row.interval.low, row.interval.high))
    assert 50.0 - task.x_limit == pytest.approx(50.0 * 0.05 / max(reach, 0.065), abs=0.05), "S3 for 5 points"
    said = "the dot must not lie left of it"
    assert (said in read(render_page(report, {}))[1], said in read(render_page(good, {}))[1]) == (True, False)
    assert "the whole interval must lie right of it" in read(render_page(good, {}))[1]


def test_bounds_say_the_level_of_the_look(records, good):
    evidence = syn.load(records)
    looks = (200, 400, 800)
    early = replace(evidence, expected=replace(evidence.expected, looks=looks))
    task = judge_task()
    results = run_gates(early, task.gates)
    report = build_report(
        task, subject(), early, summarise(early, results, overall(results)), choose_films(records, early)
    )
    assert (good.look.level, good.look.looks, report.look.looks) == (0.05, [], list(looks))
    assert report.look.level < 0.05
    assert report.paired.interval.low < good.paired.interval.low
    _, text = read(render_page(report, {}))
    assert "judged at 200 episodes per task; the looks at 200, 400, 800 were fixed beforehand" in text
    assert confidence(report.look.level) in text
    assert "one-sided 95 % bounds" not in text
    assert "one-sided 95 % bounds" in read(render_page(good, {}))[1]


@pytest.mark.parametrize(("level", "said"), [(0.05, "95 %"), (0.0056, "99.4 %"), (0.0244, "98 %"), (6e-5, "99.994 %")])
def test_confidence_is_told_from_certainty(level, said):
    assert confidence(level) == said
