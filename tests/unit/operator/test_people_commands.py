"""``flowstill get | describe | logs | report`` on a state folder of this machine, as they are typed."""

import json

import pytest

from flowstill.artifacts.stores import push
from flowstill_operator import cli
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.jobs import ROLE_LABEL
from tests.unit.operator.builders import distill_spec, resource, rollout_spec
from tests.unit.operator.phases import DISTILLJOBS, ROLLOUTS


@pytest.fixture
def state(stopped):
    """A folder with a DistillJob that runs and has a log, and a rollout that completed and has a report."""
    with LocalCluster(stopped).locked(["DistillJob/dj"]):
        yield stopped


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """The same, but the command that ran the DistillJob was stopped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{tmp_path}/.flowstill/store")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    folder = tmp_path / ".flowstill/state"
    report = tmp_path / "evidence"
    report.mkdir()
    (report / "report.html").write_text("<p>all gates passed</p>")
    evidence = push(report, "store://evidence/x")
    completed = {**ROLLOUTS["Completed"](), "evidence": evidence.model_dump()}
    write(folder / "DistillJob/dj.json", resource("DistillJob", distill_spec(), DISTILLJOBS["Running"](), "dj", "u-dj"))
    write(folder / "StudentRollout/sr.json", resource("StudentRollout", rollout_spec(), completed, "sr", "u-sr"))
    write_job(folder, "train", "first\n", "one\ntwo\nthree\n")
    return folder


def write_job(folder, role, *logs):
    """A child of the DistillJob that has failed, with the log of each attempt."""
    owner = {"uid": "u-dj", "controller": True}
    labels = {ROLE_LABEL: role, "flowstill.dev/owner-name": "dj"}
    name = f"dj-{role}-x"
    metadata = {"name": name, "labels": labels, "ownerReferences": [owner], "creationTimestamp": "2026"}
    done = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}
    write(folder / "jobs" / name / "job.json", {"job": {"metadata": metadata, "spec": {}, "status": done}, "pods": []})
    for number, text in enumerate(logs):
        log = folder / "jobs" / name / f"attempt-{number}/log.txt"
        log.parent.mkdir()
        log.write_text(text)


def write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def test_get_is_of_this_machine_where_something_was_run(state, capsys):
    assert cli.main(["get"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["NAME", "dj/dj", "sr/sr"]
    assert cli.main(["get", "sr", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"]["phase"] == "Completed"
    assert cli.main(["get", "-o", "name"]) == 0
    assert capsys.readouterr().out == "dj/dj\nsr/sr\n"


@pytest.mark.parametrize("arguments", [["get", "-n", "robots"], ["get", "--context", "x"], ["get", "-A"]])
def test_a_flag_of_a_cluster_means_a_cluster(state, capsys, arguments):
    assert cli.main(arguments) == 2
    assert "set KUBECONFIG" in capsys.readouterr().err


def test_kubectl_flowstill_means_a_cluster(state, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["kubectl-flowstill", "get"])
    assert cli.kubectl_main() == 2
    assert "set KUBECONFIG" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["get", "nobody"], "no DistillJob and no StudentRollout nobody"),
        (["get", "--state", "nowhere"], "nowhere"),
        (["get", "--state", ".", "-n", "x"], "--namespace"),
        (["get", "--watch", "-o", "json"], "--watch"),
        (["describe", "pod/x"], "dj/NAME"),
        (["logs", "sr"], "none was started"),
        (["logs", "dj", "--role", "parity"], "train"),
        (["report", "dj"], "has no report"),
        (["approve", "sr", "--reason", "x"], "spec.approval is Automatic"),
        (["abort", "sr", "--reason", "x"], "has ended"),
        (["abort", "dj", "--reason", " "], "say why"),
        (["abort", "dj", "--reason", "x"], "press Ctrl-C"),
        (["retry", "dj", "--reason", "x"], "abort it first"),
        (["retry", "sr", "--reason", "x"], "new name"),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(state, capsys, arguments, words):
    assert cli.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_describe_names_the_log(state, capsys):
    assert cli.main(["describe", "dj"]) == 0
    out = capsys.readouterr().out
    assert "jobs/dj-train-x/attempt-1/log.txt" in out
    assert "Failed: BackoffLimitExceeded" in out


@pytest.mark.parametrize(
    ("flags", "text"), [([], "one\ntwo\nthree\n"), (["--tail", "1"], "three\n"), (["--follow"], "one\ntwo\nthree\n")]
)
def test_logs_are_those_of_the_newest_attempt(state, capfdbinary, flags, text):
    assert cli.main(["logs", "dj", *flags]) == 0
    assert capfdbinary.readouterr().out.decode() == text


def test_who_follows_a_log_waits_until_it_begins(state, capfd, monkeypatch):
    looks = []

    def a_moment(_):
        looks.append(1)
        assert len(looks) < 4, "the log is there"
        if len(looks) == 2:
            write_job(state, "parity", "of parity\n")

    monkeypatch.setattr("time.sleep", a_moment)
    assert cli.main(["logs", "dj", "--role", "parity", "--follow"]) == 0
    out, error = capfd.readouterr()
    assert (out, len(looks)) == ("of parity\n", 2)
    assert error == "waiting: dj has no log of parity; children: train\n", "what does not change is said once"


def test_what_was_stopped_is_said_to_be_and_not_waited_for(stopped, capsys, monkeypatch):
    assert cli.main(["get"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["dj/dj", "Stopped"],
        ["sr/sr", "Completed"],
    ]
    assert cli.main(["describe", "dj"]) == 0
    assert "the command that was stopped goes on when it is given again" in capsys.readouterr().out
    monkeypatch.delattr("time.sleep")
    assert cli.main(["logs", "dj", "--role", "parity", "--follow"]) == 2
    assert cli.main(["get", "dj", "-o", "json"]) == 0
    assert '"phase": "Running"' in capsys.readouterr().out, "the API knows no other"


def test_another_run_of_the_folder_does_not_work_on_it(stopped, capsys):
    with LocalCluster(stopped).locked(["StudentRollout/other"]):
        assert cli.main(["get", "dj"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["dj/dj", "Stopped"]


def test_nobody_waits_for_a_log_of_what_has_ended(state, capsys, monkeypatch):
    monkeypatch.delattr("time.sleep")
    assert cli.main(["logs", "sr", "--follow"]) == 2
    assert "none was started" in capsys.readouterr().err


def test_a_report_is_checked_and_found(state, tmp_path, capsys):
    assert cli.main(["report", "sr"]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert cli.main(["report", "sr", "-o", "copy.html"]) == 0
    assert (tmp_path / "copy.html").read_text() == "<p>all gates passed</p>"
    (found,) = (tmp_path / ".flowstill/store").rglob("report.html")
    found.write_text("<p>all gates passed!</p>")
    assert cli.main(["report", "sr"]) == 2


def test_a_watch_in_a_pipe_prints_what_changed(state, capsys, monkeypatch):
    path, looks = state / "DistillJob/dj.json", []

    def a_moment(_):
        looks.append(1)
        if len(looks) == 2:
            write(path, resource("DistillJob", distill_spec(), DISTILLJOBS["Succeeded"](), "dj", "u-dj"))
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", a_moment)
    assert cli.main(["get", "--watch"]) == 130
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["NAME", "PHASE"],
        ["dj/dj", "Running"],
        ["sr/sr", "Completed"],
        ["NAME", "PHASE"],
        ["dj/dj", "Succeeded"],
    ]
