"""Shards and rounds: however the episodes are shared out, what is merged is what one process writes."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstill.api.children import JudgeRoundsTask, Result, RolloutsTask, shard_work
from flowstill.api.fields import StatusRef
from flowstill.artifacts.manifest import RolloutsProperties, read_manifest
from flowstill.artifacts.stores import fetch, publish
from flowstill.errors import FlowstillError, UserError
from flowstill_evaluator import videos
from flowstill_evaluator.evidence import load_evidence
from flowstill_evaluator.measures import MEASURED
from flowstill_evaluator.merging import PartsDiffer, merge, read_part
from flowstill_evaluator.records import (
    Episode,
    EpisodeTable,
    Outcome,
    episodes_of,
    stored,
    velocity_rows,
    write_json,
    write_published,
)
from flowstill_evaluator.shards import Shard, episodes_in_round, shard_of
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.judging import published, run

TASKS = ("reach", "push")
ARMS = ("teacher@10", "student-draws")
ROWS = 7


def outcome(episode: Episode, arm: str) -> Outcome:
    """Keyed by its own name, as a real one is."""
    generator = np.random.default_rng([episode.seed, len(episode.task), ARMS.index(arm)])
    steps, success = int(generator.integers(1, 30)), bool(generator.random() < 0.6)
    return Outcome(
        episode=episode,
        success=success,
        failure=None if success else "timeout",
        steps=steps,
        reward=float(generator.normal()),
        clamped_steps=0,
        idle_chunks=0,
        chunks=-(-steps // 8),
        actions_TD=generator.normal(size=(steps, 4)).astype(np.float32),
        velocity_TJ=generator.normal(size=(steps, 7)).astype(np.float32),
    )


def write_part(folder, episodes, *, measures: bool, errors=(), mode="failures", of_round=None) -> Path:
    """What a rollouts child publishes of these episodes."""
    folder.mkdir()
    log = EpisodeTable()
    for arm in ARMS:
        for each in episodes:
            log.keep(stored(outcome(each, arm), "metaworld", arm, ROWS))
    films = videos.choose(log, ARMS[1], ARMS[0], mode)
    for film in films:
        (folder / film.path).parent.mkdir(exist_ok=True)
        (folder / film.path).write_text(f"{film.task} {film.episode}")
    paths = {(arm, f.task, f.episode): f.path for f in films for arm in f.arms}
    write_published(log, ARMS, folder, paths)
    for name in MEASURED if measures else ():
        write_json(folder / name, {"measured": name})
    indices = [e.index for e in episodes]
    first, count = of_round or (min(indices), max(indices) - min(indices) + 1)
    description = {
        "suite": "metaworld",
        "arms": [{"name": a, "uri": "u", "digest": "d", "seconds": 1.5} for a in ARMS],
        "served": ARMS[1],
        "baseline": ARMS[0],
        "student": {}, "teacher": {}, "action_steps": 8, "velocity_rows": ROWS, "versions": {"python": "3"},
        "seeds": {
            "evaluation": 0,
            "first_episode": first,
            "episodes_per_task": count,
            "environment": [min(e.seed for e in episodes), max(e.seed for e in episodes)],
        },
        "errors": [{"arm": a, "task": t, "episode": i, "message": "broke"} for a, t, i in errors],
        "videos": None,
        "shard": {"index": 0, "of": 1},
    }  # fmt: skip
    write_json(folder / "run.json", description)
    return folder


def refs(parts):
    return [(StatusRef(uri=f"store://evidence/{n}", digest="sha256:" + "a" * 64), part) for n, part in enumerate(parts)]


def merged(parts, folder, mode="failures"):
    folder.mkdir()
    merge(refs(parts), mode, folder)
    return json.loads((folder / "run.json").read_text())


def content(folder: Path):
    with np.load(folder / "joint_velocity.npz") as velocities:
        arrays = {arm: (velocities[arm].shape, velocities[arm].tobytes()) for arm in velocities}
    lines = (folder / "episodes.jsonl").read_bytes()
    return lines, arrays, sorted(p.name for p in folder.glob("videos/*"))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from(["failures", "all", "none"]),
    st.randoms(use_true_random=False),
)
def test_any_split_merges_to_what_one_process_writes(rounds, shards, mode, random):
    with tempfile.TemporaryDirectory() as root:
        whole = write_part(Path(root, "whole"), episodes_of(TASKS, sum(rounds), 3), measures=True, mode=mode)
        parts = []
        for number, count in enumerate(rounds):
            every = episodes_of(TASKS, count, 3, sum(rounds[:number]))
            for index in range(min(shards, len(every))):
                part = Shard(index, shards).slice(every)
                folder = Path(root, f"{number}-{index}")
                of_round = (sum(rounds[:number]), count)
                parts.append(write_part(folder, part, measures=not parts, mode=mode, of_round=of_round))
        random.shuffle(parts)
        description = merged(parts, Path(root, "merged"), mode)
        assert content(Path(root, "merged")) == content(whole)
        assert description["seeds"] == json.loads((whole / "run.json").read_text())["seeds"]
        assert [arm["seconds"] for arm in description["arms"]] == [1.5 * len(parts)] * 2
        for name in MEASURED:
            assert (Path(root, "merged", name).read_bytes()) == (whole / name).read_bytes()


def test_every_shard_has_some_of_every_task_and_none_is_run_twice():
    every = episodes_of(TASKS, 10, 0)
    slices = [Shard(index, 3).slice(every) for index in range(3)]
    assert sorted((e.task, e.index) for part in slices for e in part) == sorted((e.task, e.index) for e in every)
    assert all({e.task for e in part} == set(TASKS) for part in slices)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda parts: parts[1:], "0 of 1 parts hold latency.json"),
        (lambda parts: [*parts, parts[1]], "is in store://evidence/2 and in another part"),
        (lambda parts: [parts[0], change(parts[1], action_steps=4)], "differ in action_steps"),
        (lambda parts: [parts[0], change(parts[1], arms=[])], "differ in arms"),
        (lambda parts: [parts[0], fewer_rows(parts[1])], "does not have the rows of the episodes"),
    ],
)
def test_parts_that_do_not_belong_together_are_no_evidence(tmp_path, spoil, says):
    every = episodes_of(TASKS, 4, 0)
    parts = [write_part(tmp_path / str(i), Shard(i, 2).slice(every), measures=i == 0, mode="none") for i in range(2)]
    with pytest.raises(PartsDiffer, match=says):
        merged(spoil(parts), tmp_path / "merged")


def change(part, **values):
    write_json(part / "run.json", {**json.loads((part / "run.json").read_text()), **values})
    return part


def fewer_rows(part):
    with np.load(part / "joint_velocity.npz") as stored_rows:
        rows = {arm: stored_rows[arm][:-1] for arm in stored_rows}
    np.savez(part / "joint_velocity.npz", **rows)
    return part


def test_errors_of_all_parts_are_kept(tmp_path):
    every = episodes_of(TASKS, 4, 0)
    parts = [
        write_part(
            tmp_path / str(i), Shard(i, 2).slice(every), measures=i == 0, errors=[(ARMS[i], "push", 9 - i)], mode="none"
        )
        for i in range(2)
    ]
    description = merged(parts, tmp_path / "merged")
    assert [(e["arm"], e["episode"]) for e in description["errors"]] == [("student-draws", 8), ("teacher@10", 9)]
    assert [part["uri"] for part in description["parts"]] == ["store://evidence/0", "store://evidence/1"]


def rollouts_task(shards=1, episodes=6, **changes):
    evaluation = {"suite": "metaworld", "tasks": list(TASKS), "episodesPerTask": episodes, "shards": shards}
    student = {"uri": "store://students/a", "digest": "sha256:" + "a" * 64}
    return RolloutsTask(resource="r", uid="u", work="store://w", student=student, evaluation=evaluation, **changes)


def test_which_shard_a_process_is():
    assert shard_of(rollouts_task(), {"JOB_COMPLETION_INDEX": "7"}) == Shard(0, 1)
    assert shard_of(rollouts_task(shards=3), {"JOB_COMPLETION_INDEX": "2"}) == Shard(2, 3)
    for environment in ({}, {"JOB_COMPLETION_INDEX": "3"}, {"JOB_COMPLETION_INDEX": "x"}):
        with pytest.raises(UserError, match="this evaluation has 3 shards"):
            shard_of(rollouts_task(shards=3), environment)


def test_no_shard_is_empty_and_a_later_round_goes_on():
    small = rollouts_task(shards=64, episodes=2, first_episode=50)
    assert small.shards == 4
    assert [(e.task, e.index) for e in episodes_in_round(small)] == [(t, i) for t in TASKS for i in (50, 51)]
    assert rollouts_task(first_episode=6, episodes=6).model_copy(update={"episodes": 10}).episodes_per_task == 10


def in_parts(task, tmp_path, shards, episodes=200):
    """The records of a judge's task again as parts, as each shard of a round leaves them; and that round's task."""
    folder = fetch(task.rollouts, "rollouts")
    about = read_manifest(folder).properties
    assert isinstance(about, RolloutsProperties)
    lines, description = syn.read_lines(folder), syn.read_json(folder, "run")
    rows = velocity_rows(200)
    with np.load(folder / "joint_velocity.npz") as stored_rows:
        pool = {arm: stored_rows[arm] for arm in stored_rows}
    for index in range(shards):
        part = tmp_path / f"part-{index}"
        part.mkdir()
        share = [line for line in lines if line["episode"] % shards == index]
        syn.write_lines(part, share)
        counts = {arm: sum(min(rows, e["steps"]) for e in share if e["arm"] == arm) for arm in syn.RATES}
        np.savez(part / "joint_velocity.npz", **{a: np.resize(pool["teacher@10"], (n, 7)) for a, n in counts.items()})
        seeds = {"evaluation": 0, "first_episode": 0, "episodes_per_task": episodes, "environment": [0, 9]}
        more = {"seeds": seeds, "shard": {"index": index, "of": shards}, "velocity_rows": rows, "videos": None}
        more |= {"served": "student-draws", "baseline": "teacher@10"}
        arms = [{**arm, "seconds": 1.0} for arm in description["arms"]]
        syn.write_json(part, "run", {**description, "arms": arms, **more})
        for name in MEASURED if index == 0 else ():
            (part / name).write_bytes((folder / name).read_bytes())
        ref = publish(part, "Rollouts", about, "store://evidence")
        work = tmp_path / "store" / "work" / "1" / "rollouts" / str(index)
        work.mkdir(parents=True)
        result = Result(kind="Rollouts", outcome="Succeeded", reason="RolloutsPublished", rollouts=ref)
        (work / "result.json").write_text(result.model_dump_json(by_alias=True, exclude_none=True))
    shared = task.model_dump(exclude={"kind", "rollouts", "episodes"})
    return JudgeRoundsTask(**shared, rounds=[{"work": "store://work/1/rollouts", "shards": shards}], episodes=episodes)


def test_parts_are_judged_as_the_whole_is(store, tmp_path):
    whole = published(tmp_path)
    expected, _ = run(whole, tmp_path)
    result, _ = run(in_parts(whole, tmp_path, 3), tmp_path)
    assert result.verdict == expected.verdict == "Pass"
    assert result.arms == expected.arms
    assert expected.rollouts is None
    folder = fetch(result.rollouts, "rollouts")
    evidence = load_evidence(folder, syn.expected())
    assert {arm: len(episodes) for arm, episodes in evidence.episodes.items()} == dict.fromkeys(syn.RATES, 200)
    properties = read_manifest(fetch(result.evidence, "evidence")).properties
    assert properties.rollouts == result.rollouts
    assert not (tmp_path / "work" / "merged").exists()


def test_parts_that_decide_nothing_are_not_published(store, tmp_path):
    task = in_parts(published(tmp_path, episodes=50, most=200), tmp_path, 2, 50)
    before = len(list((store / "evidence").iterdir()))
    result, _ = run(task, tmp_path)
    assert (result.reason, result.wanted_episodes, result.rollouts) == ("MoreEpisodes", 100, None)
    assert len(list((store / "evidence").iterdir())) == before


def test_a_shard_that_left_nothing_is_named(store, tmp_path):
    task = in_parts(published(tmp_path), tmp_path, 2)
    (tmp_path / "store" / "work" / "1" / "rollouts" / "1" / "result.json").unlink()
    with pytest.raises(FlowstillError, match="store://work/1/rollouts/1 holds no result of a shard"):
        run(task, tmp_path)


def test_where_a_shard_works():
    assert shard_work("store://work/u/rollouts", 0, 1) == "store://work/u/rollouts"
    assert shard_work("store://work/u/rollouts", 3, 4) == "store://work/u/rollouts/3"


def test_a_part_without_an_arms_rows_is_refused(tmp_path):
    part = write_part(tmp_path / "p", episodes_of(TASKS, 2, 0), measures=True)
    with np.load(part / "joint_velocity.npz") as rows:
        np.savez(part / "one.npz", **{ARMS[0]: rows[ARMS[0]]})
    (part / "one.npz").replace(part / "joint_velocity.npz")
    with pytest.raises(PartsDiffer, match="does not have the rows"):
        read_part(part, ROWS)
