"""The results of bench/quality.py: one JSON file that holds every finished episode, and the table made from it.

Success of each episode is kept as one character, in the order of the episodes, so that anybody can pair the arms again.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from quality_settings import DRAWS, SETTINGS, TEACHER_STEPS, Episodes

from flowstill_evaluator.records import write_json
from flowstill_evaluator.statistics import PairCounts, count_pairs, difference_interval, noninferior_p, wilson

MARGINS = (0.02, 0.05)
LEVEL = 0.05


@dataclass
class ArmResult:
    """One arm on one set of episodes. ``success`` has ``1`` or ``0`` for each finished episode, from the first on."""

    seed: int
    success: str = ""
    idle_chunks: int = 0
    chunks: int = 0
    clamped_steps: int = 0
    steps: int = 0

    def outcomes(self) -> npt.NDArray[np.bool_]:
        """Success of each finished episode, (N,)."""
        return np.array([letter == "1" for letter in self.success], dtype=np.bool_)


@dataclass
class Student:
    """A trained student."""

    setting: str
    training_seed: int
    spec: dict[str, Any]
    digest: str
    trainer_version: str
    training_seconds: float
    fidelity: list[dict[str, Any]]


@dataclass
class Results:
    """Everything that is finished. Arms by ``ARM/PURPOSE``; a student's arm is ``SETTING/SEED/DRAWS``.

    Attributes:
        teacher: its digest.
        dataset: the digest of what students were distilled on.
    """

    path: Path
    teacher: str = ""
    dataset: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    students: dict[str, Student] = field(default_factory=dict)
    arms: dict[str, ArmResult] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """What an earlier run left, or nothing."""
        if not path.exists():
            return cls(path)
        value = json.loads(path.read_text())
        return cls(
            path,
            teacher=value["teacher"],
            dataset=value.get("dataset", ""),
            versions=value["versions"],
            students={name: Student(**student) for name, student in value["students"].items()},
            arms={name: ArmResult(**arm) for name, arm in value["arms"].items()},
        )

    def save(self) -> None:
        """Write everything, or nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        value = asdict(self)
        del value["path"]
        write_json(self.path, value)

    def forget_others(self, student: str, digest: str) -> None:
        """Drop what was measured on another student of that name: the trainer has changed since."""
        known = self.students.get(student)
        if known is not None and known.digest != digest:
            self.arms = {key: arm for key, arm in self.arms.items() if not key.startswith(f"{student}/")}

    def arm(self, name: str, episodes: Episodes) -> ArmResult:
        """The arm's results on these episodes, empty at first."""
        return self.arms.setdefault(f"{name}/{episodes.purpose}", ArmResult(episodes.seed))

    def found(self, name: str, purpose: str) -> ArmResult | None:
        """The arm's results, if it has any."""
        arm = self.arms.get(f"{name}/{purpose}")
        return arm if arm is not None and arm.success else None


def pairs(student: ArmResult, baseline: ArmResult) -> PairCounts:
    """McNemar's table of the episodes that both arms have finished."""
    if student.seed != baseline.seed:
        raise ValueError("the arms ran on different episodes")
    count = min(len(student.success), len(baseline.success))
    return count_pairs(student.outcomes()[:count], baseline.outcomes()[:count])


HEADER = (
    "| arm | episodes | success (95 % Wilson) | idle chunks | against teacher@10 (90 %) | with the same draws |\n"
    "|---|---|---|---|---|---|"
)
REFERENCE = f"teacher@{TEACHER_STEPS}"
REFERENCES = {1: REFERENCE, DRAWS: f"{REFERENCE}, {DRAWS} draws"}
"""The teacher's arm with so many draws."""


@dataclass(frozen=True)
class Named:
    """An arm as the table has it; ``order`` sorts them: the teacher first, then settings, training seeds, draws."""

    title: str
    draws: int
    order: tuple[int, ...]


def named(name: str) -> Named:
    """An arm's name taken apart: ``teacher@STEPS[, K draws]`` or ``SETTING/SEED/DRAWS``."""
    parts = name.split("/")
    if len(parts) == 1:
        steps, _, many = name.removeprefix("teacher@").partition(", ")
        draws = int(many.split()[0]) if many else 1
        return Named(name, draws, (0, draws, -int(steps)))
    setting, seed, draws = parts[0], int(parts[1]), int(parts[2])
    title = f"{setting}, training seed {seed}, {draws} draw{'s' if draws != 1 else ''}"
    place = next((number for number, each in enumerate(SETTINGS) if each.name == setting), len(SETTINGS))
    return Named(title, draws, (1, place, draws, seed))


def against(arm: ArmResult, reference: ArmResult | None) -> str:
    """The paired difference with its interval, and the smallest margin at which the arm is shown non-inferior."""
    if reference is None or reference is arm:
        return "–"
    counts = pairs(arm, reference)
    interval = difference_interval(counts)
    shown = [f"{margin:.0%}" for margin in MARGINS if noninferior_p(counts, margin) <= LEVEL]
    verdict = f"non-inferior at {shown[0]}" if shown else f"not shown at {MARGINS[-1]:.0%}"
    fewer = f", {counts.pairs} pairs" if counts.pairs < len(arm.success) else ""
    return f"{counts.difference:+.1%} ({interval.low:+.1%} to {interval.high:+.1%}){fewer}; {verdict}"


def table(results: Results, purpose: str) -> str:
    """Every arm that has finished episodes of that purpose, in Markdown."""
    names = [key.rpartition("/")[0] for key in results.arms if key.endswith(f"/{purpose}")]
    lines = [HEADER]
    for name in sorted(names, key=lambda each: named(each).order):
        arm = results.found(name, purpose)
        if arm is None:
            continue
        its, successes, trials = named(name), arm.success.count("1"), len(arm.success)
        bounds = wilson(successes, trials)
        cells = [
            its.title, str(trials), f"{successes / trials:.1%} ({bounds.low:.1%} to {bounds.high:.1%})",
            f"{arm.idle_chunks / max(arm.chunks, 1):.2%}", against(arm, results.found(REFERENCE, purpose)),
        ]  # fmt: skip
        with_draws = against(arm, results.found(REFERENCES[its.draws], purpose)) if its.draws > 1 else "–"
        lines.append("| " + " | ".join([*cells, with_draws]) + " |")
    return "\n".join(lines)
