"""The window after a promotion: every check, every end of it, as tables."""

import pytest

from flowstill.api.actions import Request
from flowstill.api.conditions import find_condition
from flowstill.api.studentrollout import StudentRolloutSpec, StudentRolloutStatus
from flowstill_operator.clusters.interface import Sample
from flowstill_operator.platform import kubernetes_platform, local_platform
from flowstill_operator.rollout.observe import observe, read_resource
from flowstill_operator.rollout.plan import plan
from flowstill_operator.rollout.signals import is_due, restarts_by_pod
from tests.unit.operator.builders import NOW, PLATFORM, conditions, deployment, later, resource
from tests.unit.operator.fake_cluster import FakeCluster
from tests.unit.operator.phases import dump, rolled
from tests.unit.operator.watching import ERRORS, JUDGED, OLD, STUDENT_TEXT, available, look, pod, serving, spec

GOOD, BAD, NONE = ({"errors": sample} for sample in (Sample(0.1), Sample(0.7), Sample(None, "no series")))
ONE = {"robot-abc-1": 0}


def watched(*checks, whole=None, every=60):
    """The status after those checks, (restarts by pod, samples), one an interval."""
    status = available(whole)
    for number, check in enumerate(checks):
        status = dump(look(status, later(number * every), check=check, whole=whole).status)
    return status


def signal(status, name):
    return next(each for each in status["monitoring"]["signals"] if each["name"] == name)


def test_a_window_begins_with_a_check_and_completes_when_it_is_over():
    status = available()
    made = look(status, check=(ONE, GOOD))
    assert (made.status.phase, made.target, made.requeue_after) == ("Monitoring", None, 60.0)
    assert conditions(made.status)["Monitored"] == ("Unknown", "Watching")
    assert made.status.monitoring.start_time == "2026-01-02T03:04:05Z"
    status = watched(*[(ONE, GOOD)] * 10)
    over = look(status, later(600), check=(ONE, GOOD))
    assert (over.status.phase, over.target, over.requeue_after) == ("Monitoring", None, 0.0)
    assert conditions(over.status)["Monitored"] == ("True", "WindowPassed")
    done = look(dump(over.status), later(600))
    assert done.status.phase == "Completed"
    assert dict(done.target.annotations)["flowstill.dev/last-completed"] == STUDENT_TEXT
    assert "watched for 10m" in done.status.message


def test_nothing_is_written_between_two_checks():
    status = watched((ONE, GOOD), (ONE, GOOD))
    made = look(status, later(75))
    assert (dump(made.status), made.events, made.requeue_after) == (status, (), 45.0)


def test_restarts_are_counted_against_those_from_before_and_survive_their_pods():
    status = watched(({"a": 4}, GOOD))
    assert signal(status, "restarts")["value"] == 0
    status = watched(({"a": 4}, GOOD), ({"a": 5}, GOOD))
    assert signal(status, "restarts")["value"] == 1
    status = watched(({"a": 4}, GOOD), ({"a": 5}, GOOD), ({"b": 1}, GOOD))
    assert signal(status, "restarts")["value"] == 2
    assert status["phase"] == "Monitoring"
    status = watched(({"a": 4}, GOOD), ({"a": 5}, GOOD), ({"b": 1}, GOOD), ({"b": 2, "c": 0}, GOOD))
    assert signal(status, "restarts")["value"] == 3
    assert status["phase"] == "Promoting"
    message = find_condition(StudentRolloutStatus.model_validate(status).conditions, "Monitored").message
    assert "restarted 3 times since 2026-01-02T03:04:05Z, more than maxRestarts 2" in message


def test_more_pods_than_a_status_holds_are_counted_once():
    many = {f"robot-abc-{number}": 1 + number // 300 for number in range(600)}
    status = watched((many, GOOD), (many, GOOD), ({**many, "robot-abc-599": 3}, GOOD))
    assert len(status["monitoring"]["pods"]) == 256
    assert signal(status, "restarts")["value"] == 1


@pytest.mark.parametrize(
    ("checks", "reason"),
    [
        ([(ONE, GOOD), (ONE, BAD), (ONE, BAD)], "SignalBreached"),
        ([(ONE, BAD), (ONE, NONE), (ONE, BAD)], "SignalBreached"),
        ([(ONE, BAD), (ONE, GOOD), (ONE, BAD)], "Watching"),
        ([(ONE, GOOD), (ONE, NONE)], "NoData"),
        ([(ONE, GOOD), (ONE, NONE), (ONE, GOOD)], "Watching"),
        ([(ONE, GOOD), ({}, GOOD)], "NoData"),
        ([(ONE, NONE)] * 9, "NoData"),
    ],
)
def test_what_a_row_of_checks_means(checks, reason):
    status = watched(*checks)
    assert conditions(StudentRolloutStatus.model_validate(status))["Monitored"][1] == reason
    assert status["phase"] == ("Promoting" if reason == "SignalBreached" else "Monitoring")


@pytest.mark.parametrize(("comparison", "value", "breach"), [
    ("above", 0.5, False), ("above", 0.51, True), ("below", 0.5, False), ("below", 0.49, True),
])  # fmt: skip
def test_the_threshold_itself_is_no_breach(comparison, value, breach):
    whole = spec(queries=[{**ERRORS, "comparison": comparison, "failureLimit": 1}])
    status = watched((ONE, {"errors": Sample(value)}), whole=whole)
    assert (status["phase"] == "Promoting") is breach


def test_a_breach_puts_back_what_was_there_and_says_why():
    status = watched((ONE, BAD), (ONE, BAD))
    assert conditions(StudentRolloutStatus.model_validate(status))["Promoted"] == ("False", "SignalBreached")
    back = look(status, later(61))
    assert (back.target.value, dict(back.target.annotations)) == (None, {})
    done = look(dump(back.status), later(62), target=deployment())
    assert (done.target, done.status.phase) == (None, "RolledBack")
    assert "errors is 0.7, above 0.5, 2 times in a row (failureLimit 2)" in done.status.message


@pytest.mark.parametrize(
    ("few", "signal_"), [(NONE, "errors has 0 of at least 1 samples (no"), (GOOD, "restarts has 0")]
)
def test_a_window_that_saw_too_little_is_inconclusive_and_leaves_the_student(few, signal_):
    check = (ONE if few is NONE else {}, few)
    made = look(watched(*[check] * 10), later(600), check=check)
    assert (made.status.phase, made.target, made.requeue_after) == ("Inconclusive", None, None)
    assert conditions(made.status)["Monitored"] == ("False", "NoData")
    assert conditions(made.status)["Promoted"] == ("True", "Available")
    assert signal_ in made.status.message
    assert "stays in place" in made.status.message


def test_fewer_samples_than_asked_for_are_too_few():
    whole = spec(queries=[{**ERRORS, "minSamples": 3}])
    status = watched((ONE, GOOD), *[(ONE, NONE)] * 9, whole=whole)
    made = look(status, later(600), check=(ONE, GOOD), whole=whole)
    assert made.status.phase == "Inconclusive"
    assert "errors has 2 of at least 3 samples" in made.status.message


def test_a_window_does_not_end_in_the_middle_of_a_breach():
    status = watched(*[(ONE, GOOD)] * 10)
    longer = look(status, later(600), check=(ONE, BAD))
    assert (longer.status.phase, longer.requeue_after) == ("Monitoring", 60.0)
    assert conditions(longer.status)["Monitored"] == ("Unknown", "Extended")
    assert conditions(look(dump(longer.status), later(660), check=(ONE, GOOD)).status)["Monitored"][0] == "True"
    assert conditions(look(dump(longer.status), later(660), check=(ONE, BAD)).status)["Monitored"][0] == "False"


@pytest.mark.parametrize(
    "target", [deployment(OLD, rollout="uid-1"), deployment(STUDENT_TEXT, rollout="uid-2"), deployment()]
)
def test_a_target_that_serves_another_ends_the_window(target):
    made = look(watched((ONE, GOOD)), later(10), target=target)
    assert (made.target, made.status.phase) == (None, "Superseded")
    assert conditions(made.status)["Monitored"] == ("False", "TargetChanged")
    ours = target["metadata"]["annotations"].get("flowstill.dev/rollout") == "uid-1"
    assert ("Drifted" in conditions(made.status)) is ours


def test_abort_takes_the_student_back():
    abort = (Request("abort", "t", "alice", "it stutters"),)
    made = look(watched((ONE, GOOD)), later(10), requests=abort)
    assert conditions(made.status)["Monitored"] == ("False", "Aborted")
    back = look(dump(made.status), later(11), requests=abort)
    assert back.target.value is None
    again = look(dump(look(dump(back.status), later(12), target=deployment(), requests=abort).status), later(13),
                 target=deployment(), requests=(*abort, Request("retry", "t", "alice", "mended")))  # fmt: skip
    assert (again.status.monitoring, again.status.promotion_time) == (None, None)
    assert conditions(again.status)["Monitored"] == ("Unknown", "Promoting")


def test_suspend_is_too_late():
    made = look(watched((ONE, GOOD)), later(10), whole={**spec(), "suspend": True})
    assert made.status.phase == "Monitoring"
    assert conditions(made.status)["Suspended"] == ("False", "Promoting")


def test_queries_without_a_prometheus_are_refused_before_anything_runs():
    without = kubernetes_platform("trainer:1", "evaluator:1", "pvc://claim/flowstill")
    made = plan(read_resource(resource("StudentRollout", spec()), without), NOW)
    assert (made.create, made.status.phase) == ((), "Failed")
    assert conditions(made.status)["Validated"] == ("False", "NoPrometheus")
    assert "monitoring.prometheusUrl" in made.status.message
    assert read_resource(resource("StudentRollout", spec(queries=[])), without).problem is None
    local = read_resource(resource("StudentRollout", spec()), local_platform("file:///s"))
    assert "remove spec.target and spec.monitoring" in local.problem.message


async def test_a_query_that_cannot_be_parsed_is_refused_before_anything_runs():
    cluster = FakeCluster()
    cluster.put({"kind": "Deployment", **deployment()})
    fresh = resource("StudentRollout", spec())
    cluster.samples[ERRORS["query"]] = Sample(None, "Prometheus refuses the query: 1:4: parse error", refused=True)
    made = plan(await observe(cluster, fresh, PLATFORM, NOW), NOW)
    assert (made.create, made.status.phase) == ((), "Failed")
    assert conditions(made.status)["Validated"] == ("False", "QueryRefused")
    assert "spec.monitoring.queries, errors: Prometheus refuses the query: 1:4: parse error" in made.status.message
    # Later it is one check without a number: nothing is taken back because of it.
    begun = {**fresh, "status": available()}
    assert (await observe(cluster, begun, PLATFORM, NOW)).problem is None
    cluster.samples[ERRORS["query"]] = Sample(None, "Prometheus does not answer")
    made = plan(await observe(cluster, fresh, PLATFORM, NOW), NOW)
    assert [wanted.role for wanted in made.create] == ["parity"]


def test_a_check_is_due_at_the_start_each_interval_and_at_the_end():
    monitoring = StudentRolloutSpec.model_validate(spec(window="90s")).monitoring

    def due(status, seconds):
        return is_due(monitoring, StudentRolloutStatus.model_validate(status), later(seconds))

    assert due(available(), 0)
    status = watched((ONE, GOOD), whole=spec(window="90s"))
    assert [due(status, seconds) for seconds in (0, 59, 60)] == [False, False, True]
    assert due(status, -3600), "a clock that was set back makes nobody wait for an hour"
    status = watched((ONE, GOOD), (ONE, GOOD), whole=spec(window="90s"))
    assert [due(status, seconds) for seconds in (89, 90)] == [False, True]
    status["conditions"] = [c for c in status["conditions"] if c["type"] != "Promoted"]
    assert not due(status, 90)


def test_only_pods_that_serve_the_student_count():
    pods = [
        pod("robot-abc-1", 2),
        pod("robot-abc-2", 1, policy=OLD),
        pod("robot-xyz-1", 4, owner="other-abc"),
        pod("robot-abc-3", 8, status={}),
        pod("bare", 16, template=None),
    ]
    found = restarts_by_pod(pods, "robot", "policy", "FLOWSTILL_POLICY", STUDENT_TEXT)
    assert found == {"robot-abc-1": 2, "robot-abc-3": 0}
    assert restarts_by_pod(pods, "robot", "sidecar", "FLOWSTILL_POLICY", STUDENT_TEXT) == {}


def test_the_longest_window_is_on_the_target_while_it_lasts():
    judged = rolled(*JUDGED, target=deployment(), monitoring=spec()["monitoring"])
    assert (judged["phase"], judged["rollBackTo"]) == ("Promoting", "")
    put = look(judged, target=deployment())
    assert dict(put.target.annotations)["flowstill.dev/watched-until"] == "2026-01-02T03:15:05Z"
    over = look(watched(*[(ONE, GOOD)] * 10), later(600), check=(ONE, GOOD))
    done = look(dump(over.status), later(600), target=serving())
    assert "flowstill.dev/watched-until" not in dict(done.target.annotations)


def soaking(previous, *, until=1000, completed=None, rollout="uid-0"):
    """The Deployment while another rollout's student is served, and watched until then."""
    found = deployment(previous, rollout=rollout, completed=completed)
    found["metadata"]["annotations"] |= {
        "flowstill.dev/policy": previous,
        "flowstill.dev/watched-until": later(until).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return found


def candidate(target):
    """A judged rollout whose baseline is what that target serves."""
    return rolled(*JUDGED, target=target, monitoring=spec()["monitoring"])


def test_a_candidate_lets_the_one_before_it_end_its_window():
    held = look(candidate(soaking(OLD)), later(10), target=soaking(OLD))
    assert (held.target, held.status.phase, held.requeue_after) == (None, "Judging", 60.0)
    assert conditions(held.status)["Promoted"] == ("Unknown", "WaitingForSoak")
    assert "by rollout uid-0, until 2026-01-02T03:20:45Z" in held.status.message
    assert look(dump(held.status), later(990), target=soaking(OLD)).requeue_after == 11.0
    # It completed: the annotation is gone, and what a roll-back puts is that policy.
    proven = deployment(OLD, rollout="uid-0", completed=OLD)
    proven["metadata"]["annotations"]["flowstill.dev/policy"] = OLD
    chosen = look(dump(held.status), later(20), target=proven)
    assert (chosen.target, chosen.status.phase, chosen.status.roll_back_to) == (None, "Promoting", OLD)
    assert look(dump(chosen.status), later(20), target=proven).target.value == STUDENT_TEXT


@pytest.mark.parametrize(("watcher", "waits"), [("Monitoring", True), ("Inconclusive", False), (None, False)])
async def test_nobody_waits_for_a_rollout_that_was_deleted_or_has_ended(watcher, waits):
    """The Deployment's record names it all the same."""
    cluster = FakeCluster()
    held = dump(look(candidate(soaking(OLD)), later(10), target=soaking(OLD)).status)
    cluster.put(resource("StudentRollout", spec(), held))
    cluster.put({"kind": "Deployment", **soaking(OLD)})
    if watcher is not None:
        cluster.put(resource("StudentRollout", spec(), {"phase": watcher}, "watcher", uid="uid-0"))
    found = await cluster.get("StudentRollout", "robots", "sample")
    made = plan(await observe(cluster, found, PLATFORM, later(20)), later(20))
    reason = "WaitingForSoak" if waits else "Promoting"
    assert (made.target, conditions(made.status)["Promoted"]) == (None, ("Unknown", reason))
    put = plan(await observe(cluster, {**found, "status": dump(made.status)}, PLATFORM, later(20)), later(20))
    assert (put.target is None) == waits


def test_a_candidate_of_a_student_that_was_taken_back_is_superseded():
    held = look(candidate(soaking(OLD)), later(10), target=soaking(OLD))
    made = look(dump(held.status), later(20), target=deployment())
    assert (made.target, made.status.phase) == (None, "Superseded")
    assert conditions(made.status)["Superseded"] == ("True", "BaselineChanged")


def test_a_held_candidate_may_be_suspended():
    held = look(candidate(soaking(OLD)), later(10), target=soaking(OLD))
    made = look(dump(held.status), later(20), target=soaking(OLD), whole={**spec(), "suspend": True})
    assert made.status.phase == "Suspended"


@pytest.mark.parametrize("completed", [None, "store://students/older@sha256:" + "8" * 64])
def test_what_never_completed_is_not_what_is_put_back(completed):
    """The window before was over without a good end: its student is served, and is no proven policy."""
    served = soaking(OLD, until=-1, completed=completed)
    status = candidate(served)
    assert (status["phase"], status["rollBackTo"]) == ("Promoting", completed or "")
    status = dump(look(status, target=served).status)
    now_ours = deployment(STUDENT_TEXT, rollout="uid-1", completed=completed)
    for check in (None, (ONE, BAD), (ONE, BAD)):
        status = dump(look(status, later(70), target=now_ours, check=check).status)
    assert look(status, later(80), target=now_ours).target.value == completed


def test_what_somebody_else_put_is_what_is_put_back():
    assert candidate(deployment(OLD, completed="store://students/older@sha256:" + "8" * 64))["rollBackTo"] == OLD


def test_what_is_put_back_is_written_before_the_target():
    status = {**candidate(deployment(OLD)), "rollBackTo": ""}
    again = look(status, target=deployment(OLD))
    assert (again.target, again.status.roll_back_to, again.requeue_after) == (None, OLD, 0.0)
