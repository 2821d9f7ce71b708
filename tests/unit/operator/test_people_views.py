"""What the command line shows people, over statuses that the operator's plans make; and what it refuses to ask."""

import io
import json
from datetime import UTC, datetime

import pytest
from rich.console import Console

from flowstill.errors import UserError
from flowstill_operator.command.display import COLOURS
from flowstill_operator.people.describing import describe
from flowstill_operator.people.next_steps import next_steps
from flowstill_operator.people.place import ChildView, EventView, Named, Surroundings, parse_name
from flowstill_operator.people.reports import how_to_read, reader_pod
from flowstill_operator.people.requests import check
from flowstill_operator.people.tables import age, duration, left, progress, states, uncut
from flowstill_operator.rollout import manifests, observe, plan
from tests.unit.operator.builders import NOW, PLATFORM, TARGET_SPEC, distill_spec, later, resource, rollout_spec
from tests.unit.operator.phases import DISTILLJOBS, ROLLOUTS

CASES = [("DistillJob", phase) for phase in DISTILLJOBS] + [("StudentRollout", phase) for phase in ROLLOUTS]
WITH_TARGET = {"Promoting", "Monitoring", "RolledBack", "Superseded"}


def document(kind, phase):
    if kind == "DistillJob":
        spec, status = distill_spec(), DISTILLJOBS[phase]()
    else:
        extra = {"target": TARGET_SPEC} if phase in WITH_TARGET else {}
        extra |= {"monitoring": {"window": "10m"}} if phase == "Monitoring" else {}
        extra |= {"approval": "Manual"} if phase == "AwaitingApproval" else {}
        spec, status = rollout_spec(**extra), ROLLOUTS[phase]()
    made = resource(kind, spec, status)
    made["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05Z"
    return made


def printed(show, width=None):
    """Into a pipe, or on a terminal of that width."""
    file = io.StringIO()
    terminal = {"force_terminal": True, "width": width, "color_system": None} if width else {}
    show(Console(file=file, **terminal))
    return file.getvalue()


def test_a_table_in_a_pipe_is_whole():
    every = [document(*case) for case in CASES]
    text = printed(lambda c: uncut(c).print(states(every, later(3600), width=uncut(c).width, namespaces=True)))
    lines = text.splitlines()
    assert lines[0].split() == [
        "NAMESPACE", "NAME", "PHASE", "PROGRESS", "LEFT", "SUCCESS", "BASELINE", "GATES", "AGE", "MESSAGE",
    ]  # fmt: skip
    for (kind, phase), line in zip(CASES, lines[1:], strict=True):
        assert line.split()[:3] == ["robots", f"{'dj' if kind == 'DistillJob' else 'sr'}/sample", phase]
        assert document(kind, phase)["status"].get("message", "") in line
        assert "1h" in line


def test_what_was_stopped_has_no_time_left():
    running = document("DistillJob", "Running")
    running["status"]["progress"]["estimatedRemainingSeconds"] = 7000
    assert "1h56m" in printed(lambda c: uncut(c).print(states([running], later(5), width=100)))
    text = printed(lambda c: uncut(c).print(states([running], later(5), width=100, stopped=lambda _: True)))
    assert "Stopped" in text
    assert "1h56m" not in text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_table_fits_its_terminal_without_cutting_a_phase(width):
    every = [document(*case) for case in CASES]
    text = printed(lambda c: c.print(states(every, later(5), width=c.width)), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for _, phase in CASES:
        assert any(phase in line for line in lines)
    assert ("MESSAGE" in text) == (width >= 130)
    assert "30%" in text
    assert "━" in text


@pytest.mark.parametrize(
    ("kind", "phase", "done"),
    [("DistillJob", "Queued", None), ("DistillJob", "Running", 30), ("DistillJob", "Succeeded", 100),
     ("StudentRollout", "Validating", 0), ("StudentRollout", "Judging", 66), ("StudentRollout", "Promoting", 75),
     ("StudentRollout", "Monitoring", 80),
     ("StudentRollout", "Completed", 100)],
)  # fmt: skip
def test_progress(kind, phase, done):
    assert progress(document(kind, phase)) == done


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (3599, "59m"), (3600, "1h"), (11_520, "3h12m"), (90_000, "1d1h"),
     (86_460, "1d")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_clock_that_is_behind_is_no_negative_age():
    assert age("2026-01-02T03:04:05Z", datetime(2026, 1, 1, tzinfo=UTC)) == "0s"


@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_a_description_has_every_condition_and_what_to_do(kind, phase):
    found = document(kind, phase)
    child = ChildView("sample-train-x", "train", "Active", ("sample-train-x-1 Running",))
    event = EventView("2026-01-02T03:04:05Z", "Warning", "BackOff", "[brackets] are no markup")
    around = Surroundings((child,), (event,), "store://students/old@sha256:1")
    steps = next_steps(found, local=False)
    text = printed(lambda c: describe(uncut(c), found, around, steps, later(60)))
    for condition in found["status"]["conditions"]:
        assert condition["reason"] in text
        assert condition.get("message", "") in text
    for words in ("sample-train-x-1 Running", "[brackets] are no markup", "store://students/old", *steps):
        assert words in text
    assert steps


def waiting(kind, status, reason, phase="Queued"):
    condition = {"type": kind, "status": status, "reason": reason, "lastTransitionTime": "2026-01-02T03:04:05Z"}
    return document("DistillJob", "Queued") | {"status": {"phase": phase, "conditions": [condition]}}


@pytest.mark.parametrize("reason", ["InvalidSpec", "SpecTooLong", "UriRefused"])
def test_a_spec_that_is_wrong_for_good_needs_a_new_name(reason):
    steps = next_steps(waiting("Validated", "False", reason, "Failed"), local=False)
    assert ("a spec that is wrong stays wrong" in steps[-1]) == (reason != "UriRefused")


def test_what_to_do_names_the_command():
    steps = {case: "\n".join(next_steps(document(*case), local=False, prefix="kubectl flowstill")) for case in CASES}
    assert 'kubectl flowstill approve sr/sample -n robots --reason "WHY"' in steps["StudentRollout", "AwaitingApproval"]
    assert "kubectl flowstill report sr/sample -n robots" in steps["StudentRollout", "Rejected"]
    assert "kubectl flowstill retry dj/sample -n robots" in steps["DistillJob", "Failed"]
    assert "kubectl flowstill retry sr/sample -n robots" in steps["StudentRollout", "RolledBack"]
    assert "retry" not in steps["StudentRollout", "Rejected"]
    assert "To take it back now: kubectl flowstill abort sr/sample" in steps["StudentRollout", "Monitoring"]
    assert "waits for its DistillJob" in steps["StudentRollout", "Pending"]
    assert next_steps(waiting("Trained", "Unknown", "WaitingForQuota"), local=False) == [
        "It waits for quota: the condition Admitted names the queue."
    ]
    local = "\n".join(next_steps(document("DistillJob", "Failed"), local=True))
    assert "the same command again" in local
    assert "-n robots" not in local


def test_a_window_says_how_long_it_still_takes():
    found = document("StudentRollout", "Monitoring")
    assert [left(found, later(seconds)) for seconds in (0, 240, 599, 900)] == ["10m", "6m", "1s", "0s"]
    assert left(document("StudentRollout", "Completed"), later(0)) == ""


def test_a_watched_student_shows_its_signals():
    found = document("StudentRollout", "Monitoring")
    text = printed(lambda c: describe(uncut(c), found, Surroundings(), [], later(60)))
    assert "no entry: the initial policy" in text
    lines = text.partition("SIGNAL")[2].splitlines()
    assert lines[1].split() == ["restarts", "0", "3", "1", "0", "0", "60s"]


def test_a_window_that_saw_too_little_asks_for_what_was_missing():
    found = document("StudentRollout", "Inconclusive")
    assert "maxEpisodesPerTask" in next_steps(found, local=False)[1]
    found["status"]["conditions"].append(
        {"type": "Monitored", "status": "False", "reason": "NoData", "lastTransitionTime": "2026-01-02T03:04:05Z"}
    )
    assert "the condition Monitored names" in next_steps(found, local=False)[1]


def test_every_end_has_a_colour():
    ends = {"Completed", "Succeeded", "Failed", "Rejected", "Inconclusive", "Superseded", "RolledBack"}
    assert ends <= set(COLOURS)


@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_what_may_be_asked(kind, phase):
    """The same as the operator's own tables: what it would refuse is refused before it is asked."""
    ended = phase in {"Completed", "Succeeded", "Failed", "Rejected", "Inconclusive", "Superseded", "RolledBack"}
    allowed = {
        "approve": phase == "AwaitingApproval",
        "abort": not ended,
        "retry": phase in {"Failed", "RolledBack"},
    }
    for action, may in allowed.items():
        if may:
            check(action, document(kind, phase))
        else:
            with pytest.raises(UserError, match="sample"):
                check(action, document(kind, phase))


@pytest.mark.parametrize(
    ("text", "named"),
    [("a", Named("a")), ("dj/a", Named("a", "DistillJob")), ("sr/a", Named("a", "StudentRollout")),
     ("StudentRollouts/a", Named("a", "StudentRollout")), ("distilljob/a", Named("a", "DistillJob"))],
)  # fmt: skip
def test_names(text, named):
    assert parse_name(text) == named


@pytest.mark.parametrize("text", ["pod/a", "/a", "dj/"])
def test_other_kinds_are_no_names(text):
    with pytest.raises(UserError, match="dj/NAME"):
        parse_name(text)


def judge_job():
    found = observe.read_resource(resource("StudentRollout", rollout_spec(), ROLLOUTS["Evaluating"]()), PLATFORM)
    (wanted,) = plan.plan(observe.read_resource(resource("StudentRollout", rollout_spec()), PLATFORM), NOW).create
    return manifests.manifest(found, wanted, PLATFORM)


def test_a_report_in_a_claim_is_read_by_a_pod_that_cannot_write():
    job = judge_job()
    pod = reader_pod(job, "sample-report")
    (container,) = pod["spec"]["containers"]
    assert [mount["readOnly"] for mount in container["volumeMounts"]] == [True]
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"]["volumes"]] == ["claim"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    text = how_to_read(document("StudentRollout", "Completed"), "store://evidence/d", job)
    assert "/claim/flowstill/evidence/d/report.html" in text
    assert json.loads(text.partition("<<'END'\n")[2].partition("\nEND")[0]) == pod
    [entry] = [e for e in job["spec"]["template"]["spec"]["containers"][0]["env"] if e["name"] == "FLOWSTILL_STORE"]
    entry["value"] = "s3://models/flowstill"
    text = how_to_read(document("StudentRollout", "Completed"), "store://evidence/d", job)
    assert "give --store s3://models/flowstill, with AWS_ACCESS_KEY_ID" in text
    assert "no Job of sample is left" in how_to_read(
        document("StudentRollout", "Completed"), "store://evidence/d", None
    )
