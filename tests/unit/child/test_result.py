import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstill.api.children import MAX_RESULT_BYTES, Result
from flowstill.api.distilljob import Fidelity
from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import ArmResult, GateResult, Interval
from flowstill.artifacts import atomic
from flowstill.child.result import clip, result_line, write_result

DIGEST = "sha256:" + "a" * 64
GATES = ("S1", "S2", "S3", "P1", "P2", "P3", "P4", "P5", "P6")
EVIDENCE = StatusRef(uri=f"store://evidence/sha256-{'a' * 64}", digest=DIGEST)


def judge_result(message: str, sentence: str, arms: int = 12) -> Result:
    interval = Interval(low=0.12345678901234567, high=0.9876543210987654)
    return Result(
        kind="Judge",
        outcome="Succeeded",
        reason="Judged",
        message=message,
        verdict="Inconclusive",
        gates=[
            GateResult(
                name=name,
                gate_class="performance",
                verdict="Inconclusive",
                measured=-0.12345678901234567,
                threshold=0.3333333333333333,
                interval=interval,
                samples=100_000,
                message=sentence,
            )
            for name in GATES
        ],
        arms=[
            ArmResult(name=f"student-draws-{i}", success=0.12345678901234567, episodes=100_000, interval=interval)
            for i in range(arms)
        ],
        evidence=EVIDENCE,
    )


def test_what_fits_is_said_whole() -> None:
    result = Result(kind="Train", outcome="Succeeded", reason="Published", message="3 steps, é", student=EVIDENCE)
    line = result_line(result)
    assert "\n" not in line
    assert Result.model_validate_json(line) == result


@given(st.text(max_size=1024), st.text(max_size=512), st.integers(0, 12))
def test_any_judgement_fits_and_keeps_its_verdicts(message: str, sentence: str, arms: int) -> None:
    result = judge_result(message, sentence, arms)
    line = result_line(result)
    assert len(line.encode()) <= MAX_RESULT_BYTES
    said = Result.model_validate_json(line)
    assert (said.verdict, said.evidence, said.reason) == (result.verdict, result.evidence, result.reason)
    assert [(gate.name, gate.verdict) for gate in said.gates] == [(gate.name, "Inconclusive") for gate in result.gates]
    assert [gate.measured for gate in said.gates] == pytest.approx([gate.measured for gate in result.gates], rel=1e-5)


def test_the_largest_judgement_of_six_arms_keeps_its_arms() -> None:
    said = Result.model_validate_json(result_line(judge_result("é" * 1024, "ü" * 512, arms=6)))
    assert len(said.arms) == 6
    assert said.message.endswith("...")


def test_the_longest_references_fit() -> None:
    far = StatusRef(uri="store://" + "x" * 1016, digest=DIGEST)
    fidelity = [Fidelity(name="n" * 64, distance=0.12345678901234567, spread=0.1) for _ in range(16)]
    parity = Result(
        kind="Parity", outcome="Succeeded", reason="ParityHolds", message="m" * 1024, teacher=far, baseline=far
    )
    train = Result(
        kind="Train", outcome="Succeeded", reason="Published", message="m" * 1024, student=far, fidelity=fidelity
    )
    for result in (parity, train):
        said = Result.model_validate_json(result_line(result))
        assert (said.teacher, said.baseline, said.student) == (result.teacher, result.baseline, result.student)
    with pytest.raises(ValueError, match="cannot be shortened"):
        result_line(parity, limit=1000)


def test_clip() -> None:
    assert clip("abcdef", 6) == "abcdef"
    assert clip("abcdefg", 6) == "abc..."
    assert clip("abcdefg", 0) == ""


def test_file_and_termination_message_say_the_same(tmp_path: Path) -> None:
    termination = tmp_path / "termination-log"
    result = judge_result("m", "s" * 512)
    write_result(result, tmp_path / "work", {"FLOWSTILL_TERMINATION_LOG": str(termination)})
    assert termination.read_text() + "\n" == (tmp_path / "work/result.json").read_text()
    assert json.loads(termination.read_text())["verdict"] == "Inconclusive"


def test_a_full_work_folder_still_gets_a_termination_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    termination = tmp_path / "termination-log"
    result = Result(kind="Train", outcome="UserError", reason="StorageFull", message="full")
    write_result(result, tmp_path, {"FLOWSTILL_TERMINATION_LOG": str(termination)})
    assert Result.model_validate_json(termination.read_text()) == result
    assert "is not written" in caplog.text


def test_an_unwritable_termination_log_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = Result(kind="Train", outcome="Succeeded", reason="Published")
    write_result(result, tmp_path, {"FLOWSTILL_TERMINATION_LOG": str(tmp_path / "no/such/folder")})
    assert Result.model_validate_json((tmp_path / "result.json").read_text()) == result
    assert "termination message" in caplog.text


def test_digits_go_before_sentences() -> None:
    result = judge_result("m" * 300, "s" * 60, arms=6)
    whole = len(result.model_dump_json(by_alias=True, exclude_none=True))
    said = Result.model_validate_json(result_line(result, limit=whole - 200))
    assert said.message == result.message
    assert [gate.message for gate in said.gates] == [gate.message for gate in result.gates]
    assert said.arms[0].success == 0.123457


def test_arms_go_last_and_gates_stay() -> None:
    said = Result.model_validate_json(result_line(judge_result("m", "s" * 60, arms=12), limit=2400))
    assert said.arms == []
    assert len(said.gates) == 9
