"""Evidence that is missing, broken, not a number, or unpaired: no gate passes on it."""

import json

import numpy as np
import pytest

from flowstill_evaluator.gates.chain import TITLES, overall
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.gating import BASELINE, SERVED, judged, judged_all

NEEDS = {
    "episodes.jsonl": {"S1", "S3", "P1", "P5", "P6"},
    "joint_velocity.npz": {"S2"},
    "latency.json": {"P2"},
    "memory.json": {"P3"},
    "fidelity.json": {"P4"},
    "run.json": set(TITLES),
}


@pytest.mark.parametrize(("name", "gates"), NEEDS.items())
def test_a_missing_file_leaves_its_gates_open_and_no_other(records, name, gates):
    (records / name).unlink()
    results = judged_all(records)
    assert {n for n, r in results.items() if r.verdict == "Inconclusive"} == gates
    assert all(name in results[n].message and results[n].measured is None for n in gates)
    assert overall(list(results.values())) == "Inconclusive"


@pytest.mark.parametrize("name", ["episodes.jsonl", "latency.json", "memory.json", "fidelity.json", "run.json"])
@pytest.mark.parametrize("content", ["{", "null", "[]", "[1]", '"x"', '{"student-draws": null}', "\x00\xff"])
def test_a_broken_file_is_never_a_pass(records, name, content):
    (records / name).write_text(content, encoding="latin-1")
    results = judged_all(records)
    assert {n for n, r in results.items() if r.verdict == "Inconclusive"} == NEEDS[name]


def test_a_broken_array_file_is_never_a_pass(records):
    (records / "joint_velocity.npz").write_bytes(b"PK not an archive")
    assert judged(records)["S2"].verdict == "Inconclusive"


# Not a number: JSON's NaN and Infinity, in every file.


def not_a_number(folder, name, change):
    value = syn.read_json(folder, name)
    change(value)
    (folder / f"{name}.json").write_text(json.dumps(value))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 0.0, "fast", None])
def test_latency_of_no_use(records, bad):
    not_a_number(records, "latency", lambda v: v[SERVED]["milliseconds"].__setitem__(3, bad))
    assert judged(records)["P2"].verdict == "Inconclusive"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0, None])
def test_memory_of_no_use(records, bad):
    not_a_number(records, "memory", lambda v: v[BASELINE].__setitem__(0, bad))
    assert judged(records)["P3"].verdict == "Inconclusive"


@pytest.mark.parametrize("bad", [float("nan"), 1.5, None])
def test_fidelity_of_no_use(records, bad):
    not_a_number(records, "fidelity", lambda v: v["cosine"].__setitem__(0, bad))
    assert judged(records)["P4"].verdict == "Inconclusive"


@pytest.mark.parametrize("change", [{"spread_ratio": float("nan")}, {"observations": 80}])
def test_fidelity_that_disagrees_with_itself(records, change):
    not_a_number(records, "fidelity", lambda v: v.update(change))
    assert judged(records)["P4"].verdict == "Inconclusive"


def test_velocity_with_nan(records):
    arms = dict(np.load(records / "joint_velocity.npz"))
    arms[SERVED][17, 2] = np.nan
    np.savez(records / "joint_velocity.npz", **arms)
    assert judged(records)["S2"].verdict == "Inconclusive"


@pytest.mark.parametrize(
    "change",
    [{"reward": float("nan")}, {"success": None}, {"success": 1}, {"clamped_steps": -1}, {"steps": "many"}],
)
def test_an_episode_of_no_use_names_its_line(records, change):
    lines = syn.read_lines(records)
    syn.write_lines(records, [lines[0], lines[1] | change, *lines[2:]])
    results = judged_all(records)
    assert {n for n, r in results.items() if r.verdict == "Inconclusive"} == NEEDS["episodes.jsonl"]
    assert "line 2" in results["P1"].message


# Pairing


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda e: None if (e["arm"], e["episode"]) == (SERVED, 5) else e, "199 of 200"),
        (lambda e: None if e["arm"] == SERVED else e, "0 of 200"),
        (lambda e: e | {"seed": 1} if (e["arm"], e["episode"]) == (SERVED, 5) else e, "different seeds"),
        (lambda e: e | {"episode": 6} if (e["arm"], e["episode"]) == (SERVED, 5) else e, "twice"),
        (
            lambda e: e | {"episode": 900} if (e["arm"], e["episode"]) == (SERVED, 5) else e,
            "only one of the two",
        ),
        (lambda e: e | {"suite": "other"}, "0 of 200"),
    ],
)
def test_unpaired_episodes_decide_nothing(records, break_it, says):
    syn.write_lines(records, [made for e in syn.read_lines(records) if (made := break_it(e))])
    results = judged_all(records)
    assert {n for n, r in results.items() if r.verdict == "Inconclusive"} == NEEDS["episodes.jsonl"]
    assert says in results["P1"].message


def test_records_of_another_student_decide_nothing(records):
    run = syn.read_json(records, "run")
    for arm in run["arms"]:
        if arm["name"] == SERVED:
            arm["digest"] = "sha256:" + "9" * 64
    syn.write_json(records, "run", run)
    assert {r.verdict for r in judged_all(records).values()} == {"Inconclusive"}


# Episodes that the simulator gave up


def give_up(folder, *keys, arm=SERVED):
    """Take these episodes (task, number) out of an arm, and say so in ``run.json``."""
    lines = [e for e in syn.read_lines(folder) if e["arm"] != arm or (e["task"], e["episode"]) not in keys]
    syn.write_lines(folder, lines)
    run = syn.read_json(folder, "run")
    errors = [{"arm": arm, "task": task, "episode": number, "message": "it broke"} for task, number in keys]
    syn.write_json(folder, "run", run | {"errors": run["errors"] + errors})


@pytest.mark.parametrize("arm", [SERVED, BASELINE])
def test_one_crashed_episode_costs_one_pair(records, arm):
    give_up(records, ("reach-around", 5), arm=arm)
    results = judged_all(records)
    assert {r.verdict for r in results.values()} == {"Pass"}
    assert {results[name].samples for name in ("S1", "S3", "P1", "P5", "P6")} == {199}
    assert "1 pairs were left out" in results["P1"].message


def test_a_pair_broken_in_both_arms_is_left_out_once(records):
    for arm in (SERVED, BASELINE):
        give_up(records, ("reach-around", 5), ("reach-around", 6), arm=arm)
    assert judged(records)["P1"].samples == 198


@pytest.mark.parametrize(("lost", "verdict"), [(4, "Pass"), (5, "Inconclusive")])
def test_too_many_crashes_are_a_gap(records, lost, verdict):
    """Of 200 pairs four may be missing, two in a hundred."""
    give_up(records, *[("reach-around", number) for number in range(lost - 1)])
    give_up(records, ("reach-around", 100), arm=BASELINE)
    result = judged(records)["P1"]
    assert result.verdict == verdict
    assert ("5 of 200 pairs of task reach-around" in result.message) == (verdict != "Pass")


def test_one_crash_a_task_is_too_many_of_all(tmp_path):
    tasks = ["a", "b"]
    records = syn.write_records(tmp_path / "r", tasks=tasks, episodes=40)
    give_up(records, ("a", 1))
    assert judged(records, tasks=tasks, episodes=40)["S3"].samples == 79
    give_up(records, ("b", 2))
    assert "of all tasks" in judged(records, tasks=tasks, episodes=40)["S3"].message


def test_a_task_whose_only_episode_crashed_is_a_gap(tmp_path):
    records = syn.write_records(tmp_path / "r", tasks=["a", "b"], episodes=1)
    give_up(records, ("a", 0))
    assert "gave up 1 of 1" in judged(records, tasks=["a", "b"], episodes=1)["P5"].message


@pytest.mark.parametrize("errors", [None, "broken", [None], [{"arm": SERVED}], [{"arm": 1, "task": [], "episode": 5}]])
def test_a_missing_episode_that_no_error_explains_is_a_gap(records, errors):
    give_up(records, ("reach-around", 5))
    syn.write_json(records, "run", syn.read_json(records, "run") | {"errors": errors})
    assert "199 of 200" in judged(records)["P1"].message


def test_an_episode_that_worked_in_a_later_attempt_counts(records):
    run = syn.read_json(records, "run")
    error = {"arm": SERVED, "task": "reach-around", "episode": 5, "message": "it broke"}
    syn.write_json(records, "run", run | {"errors": [error]})
    result = judged(records)["P1"]
    assert result.samples == 200
    assert "left out" not in result.message
