"""What was recorded, read once and checked: the one input of the nine gates.

Whatever is missing, unreadable, not finite, too short or unpaired becomes a :class:`Gap` in its place, and
a gate that meets a gap is Inconclusive. Nothing here decides anything.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from flowstill_evaluator.looks import level_of
from flowstill_evaluator.statistics import Floats, PairCounts, count_pairs

MIN_VELOCITY_ROWS = 500
MAX_GIVEN_UP = 0.02
"""At most this share of pairs may be left out for errors of the simulator, and one always may. It is below
every default margin: even if all of them had been losses, that alone would not be the loss a margin is about."""


@dataclass(frozen=True)
class Gap:
    """Why there is nothing to judge."""

    why: str


class Record(BaseModel):
    """A record on disk: finite numbers, unknown fields ignored so that newer records can be read."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, strict=True)


Count = Annotated[int, Field(ge=0)]


class Episode(Record):
    """One line of ``episodes.jsonl``, of which a gate needs this much."""

    suite: str
    task: str
    arm: str
    episode: Count
    seed: int
    success: bool
    failure: str | None = None
    steps: Count | None
    reward: Annotated[float, Field(strict=False)]
    clamped_steps: Count | None
    idle_chunks: Count
    chunks: Count
    video: str | None = None


class Arm(Record):
    """One arm's provenance in ``run.json``."""

    name: str
    uri: str
    digest: str
    steps: Count | None = None
    draws: Count | None = None
    runtime: str | None = None
    providers: list[str] = Field(default_factory=list)


class Run(Record):
    """``run.json``: who ran where. The rest of it goes to the report as it is."""

    arms: list[Arm]
    errors: Any = None
    versions: dict[str, Any] = Field(default_factory=dict)
    host: dict[str, Any] = Field(default_factory=dict)
    seeds: Any = None
    missing: dict[str, str] = Field(default_factory=dict)
    """Files and fields that trials on a robot have not → what to record."""

    def arm(self, name: str) -> Arm | None:
        """The arm of that name, or None."""
        return next((a for a in self.arms if a.name == name), None)


class Latency(Record):
    """One arm of ``latency.json``."""

    calls: Count
    milliseconds: list[Annotated[float, Field(gt=0.0, strict=False)]]


class FidelityRecord(Record):
    """``fidelity.json``: cosine to the nearest teacher chunk, one number an observation."""

    cosine: list[Annotated[float, Field(ge=-1.001, le=1.001, strict=False)]]
    spread_ratio: Annotated[float, Field(ge=0.0, strict=False)]
    teacher_self_cosine: list[Annotated[float, Field(ge=-1.001, le=1.001, strict=False)]] = Field(default_factory=list)
    observations: Count
    chunks: Count = 16
    distances: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Pairs:
    """The served student and the baseline on the same episodes, in the same order; arrays of shape (N,)."""

    tasks: tuple[str, ...]
    task_index: npt.NDArray[np.int64]
    student_success: npt.NDArray[np.bool_]
    baseline_success: npt.NDArray[np.bool_]
    student_clamped: npt.NDArray[np.bool_]
    baseline_clamped: npt.NDArray[np.bool_]
    left_out: int = 0
    """Pairs of which the simulator gave up one episode or both."""
    clamps: Gap | None = None
    """Why nothing is known of clamped actions; None: they were counted."""

    def __len__(self) -> int:
        return len(self.task_index)

    def success(self) -> PairCounts:
        """McNemar's table of success, over all tasks."""
        return count_pairs(self.student_success, self.baseline_success)

    def success_by_task(self) -> list[PairCounts]:
        """McNemar's table of success of each task."""
        kind_N = 4 * self.task_index + 2 * self.student_success + self.baseline_success
        counts_TK = np.bincount(kind_N, minlength=4 * len(self.tasks)).reshape(len(self.tasks), 4).tolist()
        return [PairCounts(both, gained, lost, neither) for neither, lost, gained, both in counts_TK]


@dataclass(frozen=True)
class TwoSamples:
    """A measurement of the student (N, …) and one of the baseline (M, …)."""

    student: Floats
    baseline: Floats
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expected:
    """What the judge was asked about, against which the records are held.

    ``episodes_per_task`` were run so far. ``looks`` are all numbers of them at which the evaluation was to be
    judged, fixed beforehand (:func:`flowstill_evaluator.stopping.looks_of`); none: this is the only look.
    """

    suite: str
    tasks: tuple[str, ...]
    episodes_per_task: int
    served: str
    baseline: str
    student_digest: str
    baseline_digest: str | None = None
    looks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.looks and self.episodes_per_task not in self.looks:
            raise ValueError(f"{self.episodes_per_task} episodes per task is none of the looks {self.looks}")

    def level(self, whole: float) -> float:
        """What the present look may spend of a one-sided level."""
        return level_of(self.looks, self.episodes_per_task, whole) if self.looks else whole

    @property
    def last_look(self) -> bool:
        """Whether no more episodes may be run."""
        return not self.looks or self.episodes_per_task == self.looks[-1]


@dataclass(frozen=True)
class Evidence:
    """Everything that was recorded about the student and its baseline, or why it cannot be used."""

    expected: Expected
    episodes: Mapping[str, tuple[Episode, ...]]
    pairs: Pairs | Gap
    velocity: TwoSamples | Gap
    latency: TwoSamples | Gap
    memory: TwoSamples | Gap
    fidelity: FidelityRecord | Gap
    run: Run | Gap


def load_evidence(folder: Path, expected: Expected) -> Evidence:
    """Read a records folder. Never raises for what the records lack: that becomes a gap."""
    run = check_run(_or_gap(lambda: Run.model_validate_json(_read(folder / "run.json")), "run.json"), expected)
    episodes = _or_gap(lambda: _read_episodes(folder / "episodes.jsonl"), "episodes.jsonl")
    by_arm: Mapping[str, tuple[Episode, ...]] = {} if isinstance(episodes, Gap) else _by_arm(episodes, expected)
    if isinstance(run, Gap):
        # Without provenance the numbers may be of another student: none of them counts.
        return Evidence(expected, by_arm, run, run, run, run, run, run)
    return Evidence(
        expected=expected,
        episodes=by_arm,
        pairs=episodes if isinstance(episodes, Gap) else pair(by_arm, expected, given_up(run), run.missing),
        velocity=_or_gap(
            lambda: _read_velocity(folder / "joint_velocity.npz", expected), "joint_velocity.npz", run.missing
        ),
        latency=_or_gap(lambda: _read_latency(folder / "latency.json", expected), "latency.json"),
        memory=_or_gap(lambda: _read_memory(folder / "memory.json", expected), "memory.json"),
        fidelity=_or_gap(lambda: _read_fidelity(folder / "fidelity.json"), "fidelity.json"),
        run=run,
    )


def check_run(run: Run | Gap, expected: Expected) -> Run | Gap:
    """The run, when it is one of the student and the baseline that are to be judged."""
    if isinstance(run, Gap):
        return run
    for name, digest in (
        (expected.served, expected.student_digest),
        (expected.baseline, expected.baseline_digest),
    ):
        arm = run.arm(name)
        if arm is None:
            return Gap(f"run.json knows no arm {name}; evaluate it too (spec.evaluation.arms)")
        if digest is not None and arm.digest != digest:
            return Gap(f"the records of arm {name} are of {arm.digest[:19]}…, not of {digest[:19]}…; evaluate again")
    return run


def pair(
    by_arm: Mapping[str, tuple[Episode, ...]],
    expected: Expected,
    given_up: frozenset[tuple[str, str, int]] = frozenset(),
    missing: Mapping[str, str] = MappingProxyType({}),
) -> Pairs | Gap:
    """The two arms' episodes side by side: every asked one must be there, once, on one seed.

    Args:
        by_arm: the episodes.
        expected: what was asked for.
        given_up: (arm, task, episode) of those that the simulator could not run. Their pairs are left out,
            whatever the other arm did, unless they are too many (:data:`MAX_GIVEN_UP`).
        missing: ``Run.missing``.
    """
    tables: list[dict[tuple[str, int], Episode]] = []
    lost: set[tuple[str, int]] = set()
    for arm in (expected.served, expected.baseline):
        table = {(e.task, e.episode): e for e in by_arm.get(arm, ())}
        if len(table) != len(by_arm.get(arm, ())):
            return Gap(f"episodes.jsonl has an episode of arm {arm} twice")
        broken = {(task, number) for name, task, number in given_up if name == arm} - table.keys()
        for task in expected.tasks:
            have = sum(1 for key in table if key[0] == task)
            if have + sum(1 for key in broken if key[0] == task) < expected.episodes_per_task:
                return Gap(f"arm {arm} has {have} of {expected.episodes_per_task} episodes of task {task}")
        tables.append(table)
        lost |= {key for key in broken if key[0] in expected.tasks}
    student, baseline = tables
    if lone := (student.keys() ^ baseline.keys()) - lost:
        task, number = min(lone)
        return Gap(f"episode {number} of task {task} was run by only one of the two arms")
    if gap := _too_many(lost, expected):
        return gap
    keys = sorted(student.keys() & baseline.keys(), key=lambda k: (expected.tasks.index(k[0]), k[1]))
    for key in keys:
        if student[key].seed != baseline[key].seed:
            return Gap(f"episode {key[1]} of task {key[0]} had different seeds in the two arms")
    uncounted = any(table[key].clamped_steps is None for table in tables for key in keys)
    return Pairs(
        tasks=expected.tasks,
        task_index=np.array([expected.tasks.index(task) for task, _ in keys], dtype=np.int64),
        student_success=np.array([student[k].success for k in keys], dtype=np.bool_),
        baseline_success=np.array([baseline[k].success for k in keys], dtype=np.bool_),
        student_clamped=np.array([(student[k].clamped_steps or 0) > 0 for k in keys], dtype=np.bool_),
        baseline_clamped=np.array([(baseline[k].clamped_steps or 0) > 0 for k in keys], dtype=np.bool_),
        left_out=len(lost),
        clamps=Gap(missing.get("clamped_steps", "the records do not say who clamped")) if uncounted else None,
    )


def _too_many(lost: set[tuple[str, int]], expected: Expected) -> Gap | None:
    """Of any task, or of all: more than the share that may be left out, or every episode there is."""
    of_task = Counter(task for task, _ in lost)
    worst, most = max(of_task.items(), key=lambda item: item[1], default=("", 0))
    for count, asked, of in (
        (most, expected.episodes_per_task, f"task {worst}"),
        (len(lost), expected.episodes_per_task * len(expected.tasks), "all tasks"),
    ):
        if count > max(1, math.floor(MAX_GIVEN_UP * asked)) or (count and count >= asked):
            return Gap(
                f"the simulator gave up {count} of {asked} pairs of {of}, more than {100 * MAX_GIVEN_UP:g} %: "
                "its errors are in run.json"
            )
    return None


def given_up(run: Run) -> frozenset[tuple[str, str, int]]:
    """(arm, task, episode) of the episodes that ``run.json`` says the simulator could not run."""
    told = run.errors if isinstance(run.errors, list) else []
    named = [(e.get("arm"), e.get("task"), e.get("episode")) for e in told if isinstance(e, dict)]
    return frozenset(
        (arm, task, number)
        for arm, task, number in named
        if isinstance(arm, str) and isinstance(task, str) and isinstance(number, int)
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _or_gap[T](read: Callable[[], T | Gap], name: str, missing: Mapping[str, str] = MappingProxyType({})) -> T | Gap:
    try:
        return read()
    except FileNotFoundError:
        return Gap(missing.get(name, f"the records have no {name}"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        return Gap(f"{name}: {where}: {first['msg']}")
    except (OSError, ValueError, KeyError) as error:
        return Gap(f"{name} cannot be read: {error}"[:300])


def _read_episodes(path: Path) -> tuple[Episode, ...] | Gap:
    found: list[Episode] = []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip():
            continue
        read = _or_gap(lambda text=line: Episode.model_validate_json(text), f"episodes.jsonl line {number}")  # type: ignore[misc]
        if isinstance(read, Gap):
            return read
        found.append(read)
    return tuple(found)


def _by_arm(episodes: Iterable[Episode], expected: Expected) -> dict[str, tuple[Episode, ...]]:
    asked = [e for e in episodes if e.suite == expected.suite and e.task in expected.tasks]
    return {arm: tuple(e for e in asked if e.arm == arm) for arm in dict.fromkeys(e.arm for e in asked)}


def _both(values: Mapping[str, Any], expected: Expected, name: str) -> Gap | None:
    missing = next((arm for arm in (expected.served, expected.baseline) if arm not in values), None)
    return Gap(f"{name} has nothing of arm {missing}") if missing else None


def _read_velocity(path: Path, expected: Expected) -> TwoSamples | Gap:
    with np.load(path, allow_pickle=False) as stored:
        if gap := _both(stored, expected, path.name):
            return gap
        student = np.asarray(stored[expected.served], dtype=np.float64)
        baseline = np.asarray(stored[expected.baseline], dtype=np.float64)
        named = "joints" in stored
        joints = tuple(str(joint) for joint in stored["joints"]) if named else ()
    if student.ndim != 2 or baseline.ndim != 2 or student.shape[1] != baseline.shape[1]:
        return Gap(f"{path.name}: shapes {student.shape} and {baseline.shape} are not (samples, joints)")
    if min(len(student), len(baseline)) < MIN_VELOCITY_ROWS:
        have = min(len(student), len(baseline))
        return Gap(f"{path.name} has {have} samples of an arm; {MIN_VELOCITY_ROWS} are the least that shows a shift")
    if not (np.isfinite(student).all() and np.isfinite(baseline).all()):
        return Gap(f"{path.name} has values that are not finite")
    if len(joints) != student.shape[1]:
        joints = tuple(f"joint {index + 1}" for index in range(student.shape[1]))
    return TwoSamples(student, baseline, joints)


def _read_latency(path: Path, expected: Expected) -> TwoSamples | Gap:
    arms = TypeAdapter(dict[str, Latency]).validate_json(_read(path))
    if gap := _both(arms, expected, path.name):
        return gap
    student, baseline = arms[expected.served], arms[expected.baseline]
    for arm, latency in ((expected.served, student), (expected.baseline, baseline)):
        if latency.calls != len(latency.milliseconds):
            return Gap(f"{path.name}: arm {arm} says {latency.calls} calls and has {len(latency.milliseconds)} times")
    return TwoSamples(np.array(student.milliseconds), np.array(baseline.milliseconds))


def _read_memory(path: Path, expected: Expected) -> TwoSamples | Gap:
    value = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    arms = TypeAdapter(dict[str, list[value]]).validate_json(_read(path))
    if gap := _both(arms, expected, path.name):
        return gap
    return TwoSamples(np.array(arms[expected.served]), np.array(arms[expected.baseline]))


def _read_fidelity(path: Path) -> FidelityRecord | Gap:
    record = FidelityRecord.model_validate(json.loads(_read(path)))
    if record.observations != len(record.cosine):
        return Gap(f"{path.name} says {record.observations} observations and has {len(record.cosine)} cosines")
    return record
