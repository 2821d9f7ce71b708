"""Records of trials: what is good is read, and what is wrong is named with its file, its line and the fix."""

import csv
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstill.artifacts.trials import CSV, JSONL, Trial, read_trials
from flowstill.artifacts.velocity_logs import read_velocity_log
from flowstill.errors import RecordsRejected

LINE = {"task": "pick", "pair": "1", "arm": "student", "success": True}


def line(**changes):
    return {key: value for key, value in {**LINE, **changes}.items() if value is not None}


def pair(name="1", **changes):
    return [line(pair=name, arm=arm, **changes) for arm in ("student", "baseline")]


def write(folder, lines, *more):
    """Dicts become JSON; texts stay as they are."""
    folder.mkdir(exist_ok=True)
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in [*lines, *more])
    (folder / JSONL).write_text(text + "\n", encoding="utf-8")
    return folder


def write_csv(folder, rows):
    folder.mkdir(exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names)
    writer.writeheader()
    writer.writerows(rows)
    (folder / CSV).write_text(buffer.getvalue(), encoding="utf-8")
    return folder


def log(folder, name, text="a,b\n0.1,0.2\n0.3,0.4\n"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return name


def refusal(folder):
    with pytest.raises(RecordsRejected) as caught:
        read_trials(folder)
    return str(caught.value)


WHOLE = {
    "steps": 120, "seconds": 12.0, "clamped_steps": 3, "peak_velocity": [0.5, 1.25], "notes": "cup, then \"the\" lid",
    "when": "2026-03-01T09:30:00+01:00", "who": "ann",
}  # fmt: skip


def test_every_field_is_read(tmp_path):
    folder = write(tmp_path / "x", [])
    names = [log(folder, f"velocities/1-{arm}.csv") for arm in ("student", "baseline")]
    lines = [
        {
            **one,
            **WHOLE,
            "velocities": name,
            **({} if one["arm"] == "student" else {"success": False, "failure": "drop"}),
        }
        for one, name in zip(pair(), names, strict=True)
    ]
    found = read_trials(write(folder, lines))
    assert found.trials == tuple(Trial(**one) for one in lines)
    assert (found.file, found.tasks, found.joints, found.lacking) == (JSONL, {"pick": ["1"]}, ("a", "b"), {})
    assert found.files == [JSONL, *names]


def test_a_table_says_the_same_as_the_lines(tmp_path):
    lines = [{**one, **WHOLE} for one in pair() + pair("2")]
    table = [{**one, "success": "yes" if one["success"] else "no", "peak_velocity": "0.5 1.25"} for one in lines]
    assert read_trials(write_csv(tmp_path / "c", table)).trials == read_trials(write(tmp_path / "j", lines)).trials


def test_an_empty_cell_is_no_value(tmp_path):
    found = read_trials(write_csv(tmp_path, [{**one, "steps": "", "notes": " "} for one in pair()]))
    assert [(trial.steps, trial.notes) for trial in found.trials] == [(None, None)] * 2


def test_a_spreadsheets_mark_and_line_ends_are_taken(tmp_path):
    rows = ["task,pair,arm,success", "pick,1,student,TRUE", "pick,1,baseline,FALSE", ""]
    (tmp_path / CSV).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    assert [trial.success for trial in read_trials(tmp_path).trials] == [True, False]


def test_a_pair_may_be_a_number(tmp_path):
    assert read_trials(write(tmp_path, pair(7))).tasks == {"pick": ["7"]}


def test_what_is_lacking_is_said_with_the_gates_that_want_it(tmp_path):
    assert list(read_trials(write(tmp_path, pair())).lacking) == ["S1, P6", "S2"]
    assert list(read_trials(write(tmp_path, pair(clamped_steps=0))).lacking) == ["S2"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "trials.jsonl has no trial"),
        ([*pair(), "{"], "trials.jsonl line 3: no JSON object: "),
        ([*pair(), "3"], "line 3: no JSON object; write one object a line"),
        ([*pair(), '{"task": "a", "task": "b"}'], "line 3: no JSON object: the field 'task' is given twice"),
        ([*pair(), "[" * 100_000], "line 3: no JSON object"),
        ([line(arm="teacher"), *pair("2")], "line 1: arm: Input should be 'student' or 'baseline'"),
        ([line(success="yes"), *pair("2")], "line 1: success: Input should be a valid boolean"),
        ([line(success=None), *pair("2")], "line 1: success: it is missing, and every trial needs it"),
        ([line(sucess=True), *pair("2")], "line 1: sucess: there is no such field; the fields are task, pair, arm"),
        ([line(task=" "), *pair("2")], "line 1: task: "),
        ([line(steps=0), *pair("2")], "line 1: steps: "),
        ([line(seconds=-1.0), *pair("2")], "line 1: seconds: "),
        ([line(when="yesterday"), *pair("2")], "line 1: when: "),
        ([line(when="2026-02-31T00:00:00Z"), *pair("2")], "line 1: when: "),
        (['{"task": "p", "pair": "1", "arm": "student", "success": true, "seconds": NaN}'], "line 1: seconds: "),
        ([line(failure="dropped"), *pair("2")], "line 1: a trial that succeeded has no failure"),
        ([line(steps=5, clamped_steps=6), *pair("2")], "line 1: 6 clamped_steps are more than all 5 steps"),
        ([*pair(), line()], "line 3: the student's trial of pair 1 of pick is in line 1 already"),
        ([*pair(), line(pair="2")], "line 3: pair 2 of pick has no trial of the baseline"),
        ([*pair(), line(pair="2", arm="baseline")], "line 3: pair 2 of pick has no trial of the student"),
        ([*pair(), line(task="place")], "line 3: pair 1 of place has no trial of the baseline"),
        ([*pair(clamped_steps=0), *pair("2")], "line 3: no clamped_steps, and line 1 has them"),
        ([line(steps=3), line(arm="baseline")], "line 2: no steps, and line 1 has them"),
        ([line(velocities="../x.csv"), *pair("2")], "line 1: velocities: it must be a path within the folder"),
        ([line(velocities="/x.csv"), *pair("2")], "line 1: velocities: it must be a path within the folder"),
        ([line(velocities="a\u0000b"), *pair("2")], "line 1: velocities: it must be a path within the folder"),
        ([line(velocities=JSONL), *pair("2")], "line 1: velocities: it must be a path within the folder"),
        (pair(velocities="none.csv"), "line 1: velocities: "),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_named(tmp_path, lines, words):
    assert words in refusal(write(tmp_path, lines))


def test_all_findings_come_at_once_and_not_more_than_can_be_read(tmp_path):
    said = refusal(write(tmp_path, [line(pair=str(n), arm="x") for n in range(30)]))
    assert [f"line {n}:" in said for n in (1, 20, 21)] == [True, True, False]
    assert "and 10 more" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task,pair,arm\npick,1,student\n", "trials.csv line 1: the columns success are missing"),
        ("task,pair,arm,success,sucess\n", "line 1: there is no column 'sucess'; the columns are task, pair"),
        ("task,pair,arm,success,task\n", "line 1: the column 'task' is there twice"),
        ("task;pair;arm;success\n", "line 1: the columns are not separated by commas"),
        ("task,pair,arm,success\npick,1,student,yes,\n", "line 2: 5 values for 4 columns"),
        ("task,pair,arm,success\npick,1,student\n", "line 2: success: it is missing"),
        ("task,pair,arm,success\npick,1,student,perhaps\n", "line 2: success: Input should be a valid boolean"),
        ('task,pair,arm,success,notes\npick,1,student,yes,"a\nb"\npick,1,baseline,perhaps,\n', "line 4: success: "),
        ('task,pair,arm,success\n"pick,1,student,yes\n', "line 2: no CSV: "),
        ("", "trials.csv has no trial"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, text, words):
    (tmp_path / CSV).write_text(text)
    assert words in refusal(tmp_path)


def test_the_file_itself(tmp_path):
    assert "neither trials.jsonl nor trials.csv" in refusal(tmp_path)
    write(tmp_path, pair())
    write_csv(tmp_path, pair())
    assert "has both trials.jsonl and trials.csv; leave one" in refusal(tmp_path)
    (tmp_path / CSV).unlink()
    (tmp_path / JSONL).write_bytes(b'{"task": "a"}\n\xff\n')
    assert f"{tmp_path / JSONL} line 2: a byte that is no UTF-8" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: name each joint once in the header"),
        ("a,a\n1,2\n", "line 1: name each joint once"),
        ("0.1,0.2\n0.3,0.4\n", "line 1: numbers, and a header with the joints' names is wanted"),
        ("a,b\n", "has no row below its header"),
        ("a,b\n1\n", "line 2: 1 numbers for 2 joints"),
        ("a,b\n1,fast\n", "line 2: 'fast' is no finite number"),
        ("a,b\n1,2\n1,nan\n", "line 3: 'nan' is no finite number"),
        ('a,b\n"1,2\n', "no CSV"),
    ],
)
def test_what_is_wrong_with_a_log_is_named(tmp_path, text, words):
    log(tmp_path, "v.csv", text)
    with pytest.raises(RecordsRejected, match=r"v\.csv") as caught:
        read_velocity_log(tmp_path / "v.csv")
    assert words in str(caught.value)


def test_a_log_is_numbers_by_joint(tmp_path):
    log(tmp_path, "v.csv", "shoulder, elbow\n0.5,-1\n\n2e-1,3\n")
    found = read_velocity_log(tmp_path / "v.csv")
    assert (found.joints, found.rows) == (("shoulder", "elbow"), [[0.5, -1.0], [0.2, 3.0]])


def test_logs_have_the_same_joints_and_one_trial_each(tmp_path):
    first, second = log(tmp_path, "1.csv"), log(tmp_path, "2.csv", "a,c\n1,2\n")
    said = refusal(write(tmp_path, [line(velocities=first), line(arm="baseline", velocities=second)]))
    assert "line 2: 2.csv has the joints a, c, and the logs before it have a, b" in said
    assert "line 2: 1.csv is line 1's log already" in refusal(write(tmp_path, pair(velocities=first)))


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)
mangled = st.one_of(
    st.text(max_size=60).filter(lambda text: text.strip()),
    st.builds(json.dumps, st.dictionaries(st.sampled_from([*Trial.model_fields, "other"]), values)),
    st.builds(lambda cut: json.dumps(LINE)[:cut], st.integers(1, len(json.dumps(LINE)) - 1)),
)


@given(mangled, st.integers(0, 2))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_malformed_line_is_an_error_that_names_it(tmp_path, text, place):
    """Between the two good lines of a pair: even a whole trial would be one without its partner."""
    good = [json.dumps(one) for one in pair()]
    lines = [*good[:place], text.replace("\n", " ").replace("\r", " "), *good[place:]]
    (tmp_path / JSONL).write_bytes("\n".join(lines).encode())
    assert f"line {place + 1}:" in refusal(tmp_path)


@given(st.binary(max_size=200), st.sampled_from([JSONL, CSV]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(tmp_path, content, name):
    for other in (JSONL, CSV):
        (tmp_path / other).unlink(missing_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordsRejected, match=name):
        read_trials(tmp_path)
