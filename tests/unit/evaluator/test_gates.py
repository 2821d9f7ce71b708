"""Each gate on evidence that passes, fails, is open, is missing, and is not a number."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstill.api.studentrollout import Gates
from flowstill_evaluator.evidence import Gap
from flowstill_evaluator.gates.base import by_bounds, decided, points, shortened
from flowstill_evaluator.gates.chain import TITLES, overall, run_gates
from flowstill_evaluator.gates.margins import within_margin
from flowstill_evaluator.gates.p1_success import p1_success
from flowstill_evaluator.gates.p2_latency import p2_latency
from flowstill_evaluator.gates.p3_memory import p3_memory
from flowstill_evaluator.gates.p4_fidelity import p4_fidelity
from flowstill_evaluator.gates.p5_per_task import p5_per_task
from flowstill_evaluator.gates.p6_failed_clamped import p6_failed_clamped
from flowstill_evaluator.gates.rates import episodes_needed
from flowstill_evaluator.gates.s1_clamp import s1_clamp
from flowstill_evaluator.gates.s2_velocity import joint_shifts, s2_velocity
from flowstill_evaluator.gates.s3_cliff import s3_cliff
from flowstill_evaluator.statistics import LEVEL, Bounds, PairCounts
from tests.unit.evaluator import synthetic as syn

SERVED, BASELINE = "student-draws", "teacher@10"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return syn.write_records(tmp_path_factory.mktemp("template") / "records")


@pytest.fixture
def records(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "records"))


class Judged(dict):
    """Gate results by name, each computed when it is asked for."""

    def __init__(self, evidence, limits):
        self.evidence, self.limits = evidence, limits

    def __missing__(self, name):
        self[name] = GATES[name](self.evidence, getattr(self.limits, name.lower()))
        return self[name]


GATES = {
    "S1": s1_clamp,
    "S2": s2_velocity,
    "S3": s3_cliff,
    "P1": p1_success,
    "P2": p2_latency,
    "P3": p3_memory,
    "P4": p4_fidelity,
    "P5": p5_per_task,
    "P6": p6_failed_clamped,
}


def judged(folder, gates=None, **changes):
    return Judged(syn.load(folder, **changes), Gates.model_validate(gates or {}))


def judged_all(folder, **changes):
    return {r.name: r for r in run_gates(syn.load(folder, **changes), Gates())}


def set_outcomes(folder, student, baseline, task="reach-around", **student_changes):
    """Replace the two compared arms by ones with these successes, in order."""
    lines = [e for e in syn.read_lines(folder) if e["arm"] not in (SERVED, BASELINE) or e["task"] != task]
    for arm, successes in ((SERVED, student), (BASELINE, baseline)):
        changes = student_changes if arm == SERVED else {}
        lines += [syn.episode(arm, task, i, success=bool(x), **changes) for i, x in enumerate(successes)]
    syn.write_lines(folder, lines)


def clamp(folder, arm, episodes):
    syn.write_lines(
        folder,
        [
            e | {"clamped_steps": 3 if e["arm"] == arm and e["episode"] in episodes else 0}
            for e in syn.read_lines(folder)
        ],
    )


def first(count, of=200):
    return [i < count for i in range(of)]


def test_good_evidence_passes_all_nine(records):
    results = judged_all(records)
    assert {name: r.verdict for name, r in results.items()} == dict.fromkeys(TITLES, "Pass")
    assert overall(list(results.values())) == "Pass"
    assert all(
        r.measured is not None and r.threshold is not None and r.interval and r.samples for r in results.values()
    )
    assert all(r.message.endswith((".", ")")) and len(r.message) <= 512 for r in results.values())


def test_classes_follow_the_names(records):
    assert {r.gate_class for n, r in judged_all(records).items() if n[0] == "S"} == {"safety"}
    assert {r.gate_class for n, r in judged_all(records).items() if n[0] == "P"} == {"performance"}


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


# P1 and S3: margins


@pytest.mark.parametrize(
    ("student", "baseline", "verdict"),
    [
        (first(199), first(175), "Pass"),
        (first(200), first(200), "Pass"),
        (first(191), first(190), "Pass"),
        (first(188), first(190), "Inconclusive"),
        (first(160), first(190), "Fail"),
        (first(184), first(190), "Inconclusive"),
    ],
)
def test_success_against_a_margin_of_three_points(records, student, baseline, verdict):
    set_outcomes(records, student, baseline)
    result = judged(records)["P1"]
    assert result.verdict == verdict
    assert result.measured == pytest.approx((sum(student) - sum(baseline)) / 200)
    assert ("paired episodes would decide" in result.message) == (verdict == "Inconclusive")


def test_few_perfect_pairs_need_the_exact_test(tmp_path):
    """88 pairs without a loss: the score bound excludes 3 points, the exact test does not."""
    records = syn.write_records(tmp_path / "r", episodes=88)
    set_outcomes(records, first(88, 88), first(88, 88))
    result = judged(records, episodes=88)["P1"]
    assert result.interval is not None
    assert result.interval.low > -0.03
    assert result.verdict == "Inconclusive"


@pytest.mark.parametrize(("student", "verdict"), [(50, "Pass"), (49, "Pass"), (46, "Inconclusive"), (30, "Fail")])
def test_no_cliff_task_by_task(tmp_path, student, verdict):
    records = syn.write_records(tmp_path / "r", tasks=["easy", "hard"], episodes=50)
    set_outcomes(records, first(50, 50), first(45, 50), task="easy")
    set_outcomes(records, first(student, 50), first(50, 50), task="hard")
    result = judged(records, tasks=["easy", "hard"], episodes=50)["S3"]
    assert result.verdict == verdict
    assert "hard" in result.message
    assert result.samples == 100


def test_an_average_does_not_hide_a_cliff(tmp_path):
    records = syn.write_records(tmp_path / "r", tasks=["a", "b", "c", "d"], episodes=100)
    for task in "abc":
        set_outcomes(records, first(100, 100), first(85, 100), task=task)
    set_outcomes(records, first(60, 100), first(85, 100), task="d")
    results = judged(records, tasks=["a", "b", "c", "d"], episodes=100)
    assert results["P1"].verdict == "Pass"
    assert results["S3"].verdict == "Fail"
    assert results["P5"].verdict == "Fail"
    assert results["P5"].message.startswith("d:")


@pytest.mark.parametrize(
    ("student", "episodes", "verdict"), [(46, 50, "Pass"), (35, 50, "Fail"), (3, 3, "Inconclusive")]
)
def test_per_task_is_holm_corrected(tmp_path, student, episodes, verdict):
    tasks = [f"t{i}" for i in range(10)]
    records = syn.write_records(tmp_path / "r", tasks=tasks, episodes=episodes)
    for task in tasks:
        wins = student if task == "t4" else episodes
        set_outcomes(records, first(wins, episodes), first(episodes, episodes), task=task)
    assert judged(records, tasks=tasks, episodes=episodes)["P5"].verdict == verdict


def test_one_unlucky_task_of_many_is_no_failure(tmp_path):
    """Shown on its own at 5 %, not after correction: losing 5 of 50 against 3 points."""
    tasks = [f"t{i}" for i in range(10)]
    records = syn.write_records(tmp_path / "r", tasks=tasks, episodes=50)
    for task in tasks:
        set_outcomes(records, first(44 if task == "t4" else 50, 50), first(50, 50), task=task)
    assert judged(records, tasks=tasks, episodes=50)["P5"].verdict == "Pass"
    alone = syn.write_records(tmp_path / "alone", tasks=["t4"], episodes=50)
    set_outcomes(alone, first(44, 50), first(50, 50), task="t4")
    assert judged(alone, tasks=["t4"], episodes=50)["P5"].verdict == "Fail"


# S1 and P6: rates


@pytest.mark.parametrize(
    ("student", "baseline", "verdict"),
    [(0, 0, "Pass"), (4, 0, "Pass"), (4, 4, "Pass"), (5, 5, "Fail"), (5, 60, "Fail")],
)
def test_clamp_rate(records, student, baseline, verdict):
    clamp(records, SERVED, range(student))
    lines = syn.read_lines(records)
    for e in lines:
        if e["arm"] == BASELINE:
            e["clamped_steps"] = int(e["episode"] < baseline)
    syn.write_lines(records, lines)
    result = judged(records)["S1"]
    assert result.verdict == verdict
    assert result.measured == student / 2


def test_more_clamping_than_the_baseline_fails_below_the_absolute_limit(tmp_path):
    records = syn.write_records(tmp_path / "r", episodes=400)
    clamp(records, SERVED, range(6))
    result = judged(records, episodes=400)["S1"]
    assert result.verdict == "Fail"
    assert result.measured == 1.5
    assert "more than the baseline" in result.message


def test_ten_clean_episodes_show_no_clean_student(tmp_path):
    records = syn.write_records(tmp_path / "r", episodes=10)
    results = judged(records, episodes=10)
    assert results["S1"].verdict == "Inconclusive"
    assert "it takes 50 episodes" in results["S1"].message
    assert results["P6"].verdict == "Inconclusive"


def test_failed_and_clamped_counts_only_both(records):
    clamp(records, SERVED, range(200))
    set_outcomes(records, first(200), first(180), clamped_steps=4)
    results = judged(records)
    assert (results["S1"].verdict, results["P6"].verdict) == ("Fail", "Pass")
    set_outcomes(records, first(195), first(180), clamped_steps=4)
    assert judged(records)["P6"].verdict == "Fail"


@pytest.mark.parametrize(("limit", "episodes"), [(2.0, 50), (1.0, 100), (0.3, 200), (0.0, 200)])
def test_a_tighter_limit_never_needs_fewer_episodes(limit, episodes):
    assert episodes_needed(limit) == episodes


# S2, P2, P3, P4


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "Pass"), (1.15, "Pass"), (1.2, "Inconclusive"), (1.6, "Fail")])
def test_velocity_shift(records, scale, verdict):
    """Scaled normal velocities are 0.8 (scale − 1) spreads away."""
    arms = dict(np.load(records / "joint_velocity.npz"))
    arms[SERVED] = arms[BASELINE] * scale
    np.savez(records / "joint_velocity.npz", **arms)
    result = judged(records)["S2"]
    assert result.verdict == verdict
    assert result.measured == pytest.approx(0.8 * (scale - 1), abs=0.02)


def test_velocity_is_in_units_of_each_joints_spread(records):
    arms = dict(np.load(records / "joint_velocity.npz"))
    arms[SERVED] = arms[BASELINE] + 0.5 * arms[BASELINE].std(axis=0)
    np.savez(records / "joint_velocity.npz", **arms)
    velocity = syn.load(records).velocity
    assert not isinstance(velocity, Gap)
    assert [s.distance for s in joint_shifts(velocity)] == pytest.approx([0.5] * 7, rel=1e-3)


@pytest.mark.parametrize(("moved", "verdict"), [(0.0, "Pass"), (0.01, "Fail")])
def test_a_joint_that_the_baseline_holds_still(records, moved, verdict):
    arms = dict(np.load(records / "joint_velocity.npz"))
    arms[BASELINE][:, 3] = 0.0
    arms[SERVED][:, 3] = moved
    np.savez(records / "joint_velocity.npz", **arms)
    assert judged(records)["S2"].verdict == verdict


@pytest.mark.parametrize("rows", [0, 499])
def test_too_few_velocities(records, rows):
    arms = dict(np.load(records / "joint_velocity.npz"))
    arms[SERVED] = arms[SERVED][:rows]
    np.savez(records / "joint_velocity.npz", **arms)
    assert judged(records)["S2"].verdict == "Inconclusive"


@pytest.mark.parametrize(("factor", "verdict"), [(0.2, "Pass"), (1.0, "Pass"), (1.1, "Inconclusive"), (1.4, "Fail")])
def test_latency_ratio(records, factor, verdict):
    baseline = [float(x) for x in np.random.default_rng(4).lognormal(3.7, 0.1, 1500)]
    noisy = [factor * x for x in baseline]
    syn.write_json(
        records,
        "latency",
        {SERVED: {"calls": 1500, "milliseconds": noisy}, BASELINE: {"calls": 1500, "milliseconds": baseline}},
    )
    assert judged(records)["P2"].verdict == verdict


def test_too_few_timed_calls(records):
    assert judged(records, {"P2": {"minCalls": 1201}})["P2"].verdict == "Inconclusive"
    not_a_number(records, "latency", lambda v: v[SERVED].update(calls=1300))
    assert "1300 calls" in judged(records)["P2"].message


@pytest.mark.parametrize(("factor", "verdict"), [(0.3, "Pass"), (1.05, "Pass"), (1.06, "Fail")])
def test_memory_ratio_of_medians(records, factor, verdict):
    sizes = [1e9, 1.01e9, 0.99e9, 5e9, 1e9]
    syn.write_json(records, "memory", {BASELINE: sizes, SERVED: [factor * x for x in sizes]})
    result = judged(records)["P3"]
    assert result.verdict == verdict
    assert result.measured == pytest.approx(factor)


def test_too_few_processes(records):
    assert judged(records, {"P3": {"processes": 6}})["P3"].verdict == "Inconclusive"


@pytest.mark.parametrize(
    ("cosine", "spread", "verdict"),
    [(0.95, 0.9, "Pass"), (0.95, 0.49, "Fail"), (0.85, 0.9, "Inconclusive"), (0.6, 0.9, "Fail")],
)
def test_fidelity(records, cosine, spread, verdict):
    values = [cosine + 0.04 * (-1) ** k for k in range(64)]
    record = syn.read_json(records, "fidelity") | {"cosine": values, "spread_ratio": spread}
    syn.write_json(records, "fidelity", record)
    assert judged(records)["P4"].verdict == verdict


def test_too_few_observations(records):
    assert judged(records, {"P4": {"observations": 65}})["P4"].verdict == "Inconclusive"


# Together


@given(st.lists(st.sampled_from(["Pass", "Fail", "Inconclusive"]), min_size=9, max_size=9))
@settings(deadline=None)
def test_overall(verdicts):
    results = [
        decided(name, verdict, "", measured=0.0, threshold=0.0, samples=1)
        for name, verdict in zip(TITLES, verdicts, strict=True)
    ]
    want = "Fail" if "Fail" in verdicts else "Inconclusive" if "Inconclusive" in verdicts else "Pass"
    assert overall(results) == want


def test_a_gate_that_is_not_there_is_not_passed(records):
    results = list(judged_all(records).values())
    assert overall(results) == "Pass"
    assert overall(results[:8]) == "Inconclusive"
    assert overall([]) == "Inconclusive"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_never_passes(bad):
    assert decided("P2", "Pass", "", measured=bad, threshold=1.1, samples=5).verdict == "Inconclusive"
    bounds = Bounds(0.0, bad)
    assert decided("P2", "Pass", "", measured=1.0, threshold=1.1, samples=5, bounds=bounds).verdict == "Inconclusive"


def test_saying_numbers():
    assert points(-0.015) == "−1.5"
    assert points(0.12) == "+12.0"
    assert points(-0.0001) == "0.0"
    assert by_bounds(Bounds(0.1, 0.2), 0.2) == "Pass"
    assert by_bounds(Bounds(0.1, 0.3), 0.2) == "Inconclusive"
    assert by_bounds(Bounds(0.21, 0.3), 0.2) == "Fail"


@given(st.text(max_size=80), st.integers(0, 60))
def test_shortened_text_fits(text, limit):
    assert len(shortened(text, limit)) <= limit
    assert shortened(text, 80) == text


# Operating characteristics of P1: what is promoted, over many evaluations


@pytest.mark.parametrize(
    ("gained", "lost", "least", "most"),
    [(0.025, 0.025, 0.80, 1.0), (0.02, 0.05, 0.0, 0.07), (0.02, 0.10, 0.0, 0.0)],
)
def test_how_often_a_student_is_promoted(gained, lost, least, most):
    """Equal, worse by the margin, and worse by eight points; 450 pairs, margin 3 points."""
    drawn = np.random.default_rng(11).multinomial(450, [gained, lost, 1 - gained - lost], 400)
    tables = [PairCounts(int(rest), int(g), int(b), 0) for g, b, rest in drawn]
    passed = [within_margin(t, 0.03, LEVEL) == "Pass" for t in tables]
    assert least <= np.mean(passed) <= most
