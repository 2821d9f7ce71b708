"""``--json``: one document of a shape that does not change within its version."""

import errno
import json
from importlib.metadata import version
from pathlib import Path

import pytest

from flowstill.api import API_VERSION
from flowstill.artifacts.uris import Locations
from flowstill_operator import cli
from flowstill_operator.command import exits
from flowstill_operator.command.outcome import Outcome, conclude, ending
from tests.unit.operator.builders import EVIDENCE, STUDENT, distill_spec, gates

NOTHING = {
    "schemaVersion": 1, "error": None, "resources": [], "output": None, "manifest": None, "document": None,
    "applied": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{tmp_path}/store")  # commands change it, and other tests read it


def printed(capsys, *arguments):
    """The exit code, the document, and what people read."""
    code = cli.main(arguments)
    said = capsys.readouterr()
    return code, json.loads(said.out), said.err


def test_the_fields_of_version_1():
    """What scripts read: a name that is missing here was taken away, which needs another version."""
    schema = Outcome.model_json_schema(by_alias=True)
    fields = {name: set(found["properties"]) for name, found in schema["$defs"].items()}
    assert set(schema["properties"]) >= {*NOTHING, "command", "exitCode", "outcome"}
    assert fields["Problem"] >= {"reason", "field", "message"}
    assert fields["Ending"] >= {
        "kind", "name", "phase", "reason", "message", "verdict", "parity", "arms", "gates", "student", "teacher",
        "baseline", "evidence", "report", "logs",
    }  # fmt: skip
    assert fields["ParityOutcome"] >= {"holds", "difference", "threshold"}
    assert fields["ArmResult"] >= {"name", "success", "episodes", "interval"}
    assert fields["GateResult"] >= {"name", "class", "verdict", "measured", "threshold", "interval", "samples"}
    assert fields["Applied"] >= {"server", "namespace", "kind", "name"}


def test_the_exit_codes_are_these_and_help_says_them(capsys):
    assert exits.NAMES == {0: "completed", 1: "rejected", 2: "refused", 3: "inconclusive", 130: "interrupted"}
    for command in ([], ["run"], ["distill"], ["store", "push"]):
        with pytest.raises(SystemExit):
            cli.main([*command, "--help"])
        said = capsys.readouterr().out
        for code, name in exits.NAMES.items():
            assert f"  {code:<4} {name}:" in said


@pytest.mark.parametrize(
    ("phases", "code"),
    [
        (["Completed", "Succeeded"], 0),
        (["Succeeded", "Inconclusive"], 3),
        (["Inconclusive", "Failed"], 1),
        (["Rejected"], 1),
        (["RolledBack"], 1),
        (["Pending"], 1),
        (["Suspended", "Pending"], 3),
        (["Suspended", "Failed"], 1),
        (["Inconclusive", "Pending"], 1),
    ],
)
def test_the_worst_end_decides(phases, code):
    assert exits.exit_code(phases) == code


def test_bad_input_is_json_too(capsys):
    code, document, said = printed(capsys, "distill", "none", "--dataset", "none", "--json")
    message = (
        "TEACHER: none is no folder here: give a folder of this machine, store://PATH after `flowstill store push`"
    )
    error = {
        "reason": "InvalidInput",
        "field": "TEACHER",
        "message": f"{message}, or hf://ORG/NAME@COMMIT for a commit of the Hugging Face Hub",
    }
    assert (code, document) == (
        2,
        {**NOTHING, "command": "distill", "exitCode": 2, "outcome": "refused", "error": error},
    )
    assert said == f"error: {error['message']}\n"


def test_it_says_its_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"flowstill {version('flowstill')}\n"


@pytest.mark.parametrize("verb", [("store", "push"), ("records", "push", "--student", "x", "--baseline", "y")])
def test_a_file_that_cannot_be_read_ends_like_other_bad_input(capsys, monkeypatch, verb):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "policy/model.safetensors")

    monkeypatch.setattr("flowstill_operator.command.store.push", refused)
    monkeypatch.setattr("flowstill_operator.command.records.read_trials", refused)
    assert cli.main([*verb, "policy", "store://teachers/x"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: policy/model.safetensors: Permission denied; change its permissions"
    )


def test_an_error_of_the_system_that_is_about_no_file_is_a_defect(monkeypatch):
    def broken(*_, **__):
        raise OSError("no file")

    monkeypatch.setattr("flowstill_operator.command.store.push", broken)
    with pytest.raises(OSError, match="no file"):
        cli.main(["store", "push", "policy", "store://teachers/x"])


def test_a_store_that_cannot_be_written_is_refused_before_anything_runs(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    resource = {"apiVersion": API_VERSION, "kind": "DistillJob", "metadata": {"name": "a"}, "spec": distill_spec()}
    (tmp_path / "a.yaml").write_text(json.dumps(resource))
    for line in (["distill", str(tmp_path), "--dataset", str(tmp_path)], ["run", "a.yaml"]):
        assert cli.main([*line, "--store", f"{tmp_path}/file/store", "--state", f"{tmp_path}/state"]) == 2
        assert f"error: --store: {tmp_path}/file/store cannot be the store: {tmp_path}/file is no folder" in (
            capsys.readouterr().err
        )
    assert not (tmp_path / "state").exists()


def test_a_command_line_that_cannot_be_parsed_is_json_too(capsys):
    code, document, said = printed(capsys, "distill", "--json", "none", "--dataset", "d", "--runtime", "modal")
    assert (code, document["exitCode"], document["command"]) == (2, 2, "distill")
    assert document["error"]["reason"] == "InvalidUsage"
    assert "argument --runtime: 'modal': no GPUs are rented" in document["error"]["message"]
    assert said.startswith("usage: flowstill distill")


def test_an_interrupt_outside_a_run_is_json_too(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("flowstill_operator.command.run.read_manifests", interrupted)
    code, document, _ = printed(capsys, "run", "a.yaml", "--json")
    assert (code, document) == (130, {**NOTHING, "command": "run", "exitCode": 130, "outcome": "interrupted"})


def test_a_dry_run_prints_the_resource(capsys):
    line = ("distill", "store://t", "--dataset", "store://d", "--dry-run", "--json")
    code, document, said = printed(capsys, *line)
    assert (code, document["outcome"]) == (0, "completed")
    assert document["document"]["kind"] == "DistillJob"
    assert document["document"]["spec"]["teacher"]["uri"] == "store://t"
    assert "kind: DistillJob" in said


def test_without_the_flag_nothing_is_added(capsys):
    assert cli.main(["distill", "store://t", "--dataset", "store://d", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert (said.out.startswith("# Written by"), said.err) == (True, "")
    options = cli.parser().parse_args(["run", "a.yaml"])
    assert conclude(options, 3) == 3
    assert capsys.readouterr().out == ""


LOCATIONS = Locations("file:///nowhere", Path("/"))


def condition(kind, status, reason):
    return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"}


def rollout(phase, *conditions, **status):
    return {
        "kind": "StudentRollout",
        "metadata": {"name": "sr"},
        "status": {"phase": phase, "conditions": list(conditions), **status},
    }


@pytest.mark.parametrize(
    ("phase", "verdict"),
    [
        ("Completed", "Pass"),
        ("Rejected", "Fail"),
        ("Inconclusive", "Inconclusive"),
        ("Failed", None),
        ("Pending", None),
    ],
)
def test_the_verdict_of_a_rollout(phase, verdict):
    assert ending(rollout(phase), LOCATIONS, {}).verdict == verdict
    job = {**rollout(phase), "kind": "DistillJob"}
    assert ending(job, LOCATIONS, {}).verdict is None


@pytest.mark.parametrize("measured", ["Fail", "Inconclusive"])
def test_an_override_makes_no_pass_of_what_was_measured(measured):
    override = {"by": "ann", "reason": "why", "expires": "2026-12-31T23:59:59Z"}
    gates = [{"name": "P2", "class": "performance", "verdict": measured, "override": override},
             {"name": "P1", "class": "performance", "verdict": "Pass"}]  # fmt: skip
    found = rollout("Completed")
    found["status"] = {**found["status"], "gates": gates}
    assert ending(found, LOCATIONS, {}).verdict == measured


def test_a_rejected_rollout(tmp_path):
    report = tmp_path / "evidence/e/report.html"
    report.parent.mkdir(parents=True)
    report.write_text("")
    found = ending(
        rollout(
            "Rejected",
            condition("Validated", "True", "ParityPassed"),
            condition("GatesPassed", "False", "GatesFailed"),
            condition("Completed", "False", "GatesFailed"),
            message="gates: P1 Fail",
            parityDifference=1e-6,
            gates=[gate.model_dump(mode="json", by_alias=True) for gate in gates(P1="Fail")],
            student=STUDENT.model_dump(),
            evidence={**EVIDENCE.model_dump(), "uri": "store://evidence/e"},
        ),
        Locations(f"file://{tmp_path}", Path("/")),
        {"parity": Path("/logs/p")},
    )
    assert (found.reason, found.verdict, found.message) == ("GatesFailed", "Fail", "gates: P1 Fail")
    assert found.parity is not None
    assert (found.parity.holds, found.parity.difference) == (True, 1e-6)
    assert {gate.name: gate.verdict for gate in found.gates}["P1"] == "Fail"
    assert (found.report, found.logs) == (str(report), {"parity": "/logs/p"})
    assert found.student == STUDENT


@pytest.mark.parametrize(
    ("conditions", "reason", "holds"),
    [
        ([("Validated", "False", "ParityFailed"), ("Completed", "False", "ParityFailed")], "ParityFailed", False),
        ([("Validated", "False", "BackoffLimitExceeded"), ("Failed", "True", "Crashed")], "Crashed", None),
        ([("Validated", "True", "Valid"), ("ParityVerified", "True", "ParityHolds")], None, True),
        ([("Validated", "True", "Valid"), ("Complete", "True", "Reused")], "Reused", None),
        ([], None, None),
    ],
)
def test_reason_and_parity_come_from_the_conditions(conditions, reason, holds):
    found = ending(rollout("Failed", *(condition(*one) for one in conditions)), LOCATIONS, {})
    assert (found.reason, found.parity and found.parity.holds) == (reason, holds)


def test_what_is_not_finite_is_no_json():
    options = cli.parser().parse_args(["run", "a.yaml", "--json"])
    arm = {"name": "student", "success": float("nan"), "episodes": 1, "interval": {"low": 0, "high": 1}}
    with pytest.raises(ValueError, match="finite"):
        conclude(options, 0, resources=[{"kind": "StudentRollout", "name": "sr", "phase": "Failed", "arms": [arm]}])
