"""One attempt at a rollouts task, and the work folder in which everything lies that is finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flowstill.api.children import RolloutsTask
from flowstill.artifacts.digests import json_digest
from flowstill.child.context import ChildContext
from flowstill.errors import Interrupted
from flowstill.policies.interface import Runner
from flowstill_evaluator.arms import Arm, Comparison, Provider, References
from flowstill_evaluator.records import Episode, EpisodeError, EpisodeLog, velocity_rows, write_json
from flowstill_evaluator.shards import Shard
from flowstill_evaluator.suites.interface import Suite


@dataclass(kw_only=True)
class Attempt:
    """One attempt at a rollouts task: which policies, and the work folder with what is already done."""

    task: RolloutsTask
    context: ChildContext
    references: References
    comparison: Comparison
    provider: Provider
    folder: Path

    @property
    def seed(self) -> int:
        """Of the evaluation."""
        return self.task.evaluation.seed

    @property
    def rename_map(self) -> dict[str, str]:
        """The environment's feature names → the policy's."""
        return dict(self.task.evaluation.rename_map)

    def check_stop(self) -> None:
        """Raise when somebody asked this process to stop."""
        if self.context.stop.is_set():
            raise Interrupted("the evaluation was asked to stop; the next attempt goes on from here")

    def tell(self, activity: str) -> None:
        """Report progress of something that is not counted; stop when asked to."""
        self.tell_steps(0, 1, activity)

    def tell_steps(self, done: int, total: int, activity: str) -> None:
        """Report progress; stop when asked to."""
        self.check_stop()
        self.context.progress.update(done, total, activity)

    def note_arm(self, arm: Arm, runner: Runner, seconds: float = 0.0) -> None:
        """Keep what an arm really ran with, and for how long in all attempts."""
        path = self.folder / "arms.json"
        notes = json.loads(path.read_text()) if path.exists() else {}
        info = runner.info
        before = notes.get(arm.name, {}).get("seconds", 0.0)
        notes[arm.name] = {
            **asdict(arm),
            "steps": info.steps,
            "draws": info.draws,
            "runtime": info.runtime,
            "providers": list(info.providers),
            "seconds": round(before + seconds, 1),
        }
        write_json(path, notes)


@dataclass(kw_only=True)
class Session(Attempt):
    """One that runs episodes in a simulator."""

    suite: Suite
    instructions: dict[str, str]
    shard: Shard
    episodes: list[Episode]
    log: EpisodeLog
    errors: list[tuple[str, EpisodeError]] = field(default_factory=list)

    @property
    def measures(self) -> bool:
        """Whether latency, memory and fidelity are measured here: once in an evaluation."""
        return self.task.first_episode == 0 and self.shard.index == 0

    @property
    def velocity_rows(self) -> int:
        """Joint velocities to keep of an episode: as many in every shard and round."""
        evaluation = self.task.evaluation
        return velocity_rows(len(evaluation.tasks) * evaluation.most_episodes_per_task)

    def tell(self, activity: str) -> None:
        """Report progress, in episodes of all arms; stop when asked to."""
        self.tell_steps(len(self.log.episodes), len(self.comparison.arms) * len(self.episodes), activity)


def work_folder(work: Path, task: RolloutsTask) -> Path:
    """The folder of this very evaluation; what another one left in its place is removed."""
    folder = work / "rollouts"
    key = json_digest(task.model_dump(mode="json", exclude={"resource", "uid", "work"}))
    name = folder / "evaluation.json"
    if folder.exists() and (not name.exists() or json.loads(name.read_text()) != {"digest": key}):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(name, {"digest": key})
    return folder


def once(path: Path, measure: Callable[[], Any]) -> None:
    """Write what is measured, unless an earlier attempt did."""
    if not path.exists():
        write_json(path, measure())
