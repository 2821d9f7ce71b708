"""The page and the numbers behind it."""

import base64
import re
from html.parser import HTMLParser

import pytest

from flowstill.api.studentrollout import Gates
from flowstill_evaluator.gates.chain import TITLES, overall, run_gates
from flowstill_evaluator.report.figures import Row, forest, ticks_between
from flowstill_evaluator.report.media import MAX_BYTES, embed
from flowstill_evaluator.report.page import reasons, render_page
from flowstill_evaluator.report.subject import Artifact, Subject, Training
from flowstill_evaluator.report.summary import arm_results, summarise
from flowstill_evaluator.statistics import Bounds
from tests.unit.evaluator import synthetic as syn

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "img", "br", "link", "input", "hr"}


def subject(**changes):
    teacher = Artifact("store://teachers/reach-around", syn.TEACHER)
    values = {
        "resource": "default/reach-around",
        "policy_type": "smolvla",
        "method": "snapflow",
        "options": {"targetSteps": 10, "mixRatio": 1.0, "consistencyWeight": 1.0, "bankSize": 4096},
        "draws": 8,
        "teacher_steps": 10,
        "student": Artifact("store://students/sha256-" + "5" * 64, syn.STUDENT),
        "teacher": teacher,
        "baseline": teacher,
        "dataset": Artifact("store://datasets/reach-around", "sha256:" + "3" * 64),
        "rollouts": Artifact("store://evidence/sha256-" + "2" * 64, "sha256:" + "2" * 64),
        "parity_difference": 3.4e-6,
        "parameters": 1_214_336,
        "training_seconds": 231.4,
        "trainer_version": "0.1.0",
        "evaluator_version": "0.1.0",
    }
    return Subject(**(values | changes))


def page_of(folder, tmp_subject=None, gates=None, training=None, **changes):
    evidence = syn.load(folder, **changes)
    limits = Gates.model_validate(gates or {})
    results = run_gates(evidence, limits)
    summary = summarise(evidence, results, overall(results))
    return render_page(tmp_subject or subject(), evidence, summary, limits, folder, training)


@pytest.fixture
def records(tmp_path):
    return syn.write_records(tmp_path / "records")


class Reader(HTMLParser):
    """Collects text and addresses, and checks that every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "poster", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader, re.sub(r"\s+", " ", " ".join(reader.text))


@pytest.mark.parametrize(
    ("kind", "name"), [("flowstill_smolvla", "SmolVLA"), ("flowstill_pi0", "π0"), ("flowstill_pi05", "π0.5")]
)
def test_a_students_policy_has_its_name(records, kind, name):
    _, text = read(page_of(records, subject(policy_type=kind)))
    assert f"A {name} policy was distilled" in text


def test_the_page_answers_the_four_questions(records):
    _, text = read(page_of(records))
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
    assert all(address.startswith("data:") for address in reader.addresses)
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
    evidence = syn.load(records)
    results = run_gates(evidence, Gates())
    named = [gate.name for gate in reasons(summarise(evidence, results, overall(results)))]
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


def test_how_the_student_was_watched(records):
    curve = syn.curve([300, 600, 900], published=600, reason="nearer than step 900 by 0.1")
    picture = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    page = page_of(records, training=Training(curve, picture))
    reader, text = read(page)
    assert "Published is step 600 of 900: nearer than step 900 by 0.1." in text
    assert "teacher at 10 denoising steps 3 times, on 64 held-out observations with 16 chunks each" in text
    assert picture in reader.addresses
    assert "While it was trained" not in read(page_of(records))[1]


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


def test_another_baseline_is_called_what_it_is(records):
    other = Artifact("store://students/old", syn.TEACHER)
    _, text = read(page_of(records, subject(baseline=other)))
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


def test_media_stays_inside_the_records_and_within_its_room(records):
    (records.parent / "secret.png").write_bytes(PIXEL)
    (records / "big.mp4").write_bytes(b"0" * (MAX_BYTES + 1))
    (records / "fine.png").write_bytes(PIXEL)
    (records / "note.txt").write_text("no film")
    videos = [
        "../secret.png",
        "big.mp4",
        "gone.png",
        "note.txt",
        str(records.parent / "secret.png"),
        "fine.png",
        None,
    ]
    lines = [syn.episode("student-draws", "reach-around", i, video=v, success=False) for i, v in enumerate(videos)]
    syn.write_lines(records, lines)
    clips = embed(records, syn.load(records, episodes=7).episodes["student-draws"])
    assert [c.episode.video for c in clips] == ["fine.png"]
    assert not clips[0].is_video


def test_a_film_of_both_arms_is_shown_once_and_says_so(records):
    (records / "both.mp4").write_bytes(b"film")
    lines = syn.read_lines(records)
    failed = next(e["episode"] for e in lines if e["arm"] == "student-draws" and not e["success"])
    filmed = ("student-draws", "teacher@10")
    syn.write_lines(
        records,
        [e | {"video": "both.mp4" if e["episode"] == failed and e["arm"] in filmed else None} for e in lines],
    )
    reader, text = read(page_of(records))
    assert reader.tags.count("video") == 1
    assert "(left), teacher@10 (right)" in text


def test_simulator_errors_are_reported(records):
    syn.write_json(records, "run", syn.read_json(records, "run") | {"errors": [{"task": "x"}, {"task": "y"}]})
    assert "2 episodes could not be run" in read(page_of(records))[1]


def test_forest_places_values_on_its_axis():
    rows = [Row("a", 0.5, Bounds(0.25, 3.0), "half"), Row("b", 0.0, Bounds(-2.0, 0.1), "none")]
    figure = forest("t", rows, 0.0, 1.0, [0, 1], str)
    middle, span = (figure.left + figure.right) / 2, figure.right - figure.left
    assert figure.rows[0].x == pytest.approx(middle)
    assert figure.rows[0].x_low == pytest.approx(figure.left + span / 4)
    assert (figure.rows[0].x_high, figure.rows[1].x_low) == (figure.right, figure.left)


@pytest.mark.parametrize(("low", "high"), [(-0.13, 0.13), (0, 0.2), (-1, 1), (0, 3e-6)])
def test_ticks_are_round_and_inside(low, high):
    ticks = ticks_between(low, high)
    assert 3 <= len(ticks) <= 7
    assert all(low - 1e-12 <= t <= high + 1e-12 for t in ticks)
