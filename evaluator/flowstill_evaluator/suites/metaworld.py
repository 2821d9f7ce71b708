"""The suite ``metaworld``: Meta-World's fifty tasks, and reach-around in the same simulator.

Importing it needs no simulator: the process that loads policies never starts one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from flowstill.errors import UserError
from flowstill_evaluator.suites.interface import Environment, Offer, View
from flowstill_evaluator.suites.tasks import chosen


@dataclass(frozen=True)
class MetaWorld:
    """Meta-World 3 with its goals visible; a policy is told what LeRobot's own Meta-World data say."""

    name: str = "metaworld"
    most_environments: int = 64  # one takes 25 MB

    def preflight(self, tasks: Sequence[str]) -> dict[str, str]:
        """The sentence of each task; see :class:`~flowstill_evaluator.suites.interface.Suite`."""
        if find_spec("metaworld") is None:
            raise UserError("Meta-World is not installed; install flowstill[evaluator]", field="spec.evaluation.suite")
        from flowstill_evaluator.suites import reach_around

        return chosen(
            self.name, {**_instructions(), **dict.fromkeys(reach_around.TASK_NAMES, reach_around.INSTRUCTION)}, tasks
        )

    def offer(self, task: str) -> Offer:
        """What that task's environments can show."""
        from flowstill_evaluator.suites import metaworld_env, reach_around

        return reach_around.OFFER if task in reach_around.TASK_NAMES else metaworld_env.OFFER

    def environment(self, task: str, view: View | None = None) -> Environment:
        """Make the environment of one task; by default a policy sees its whole state and a black camera."""
        from flowstill_evaluator.suites import metaworld_env, reach_around

        if task in reach_around.TASK_NAMES:
            return reach_around.ReachAroundEnv(view, wide=task == reach_around.WIDE_TASK_NAME)
        try:
            return metaworld_env.MetaWorldEnv(task, view)
        except ValueError as error:
            raise UserError(str(error), field="spec.evaluation.tasks") from error


def _instructions() -> dict[str, str]:
    # Importing lerobot.envs would import torch; its table of sentences is a JSON file beside it.
    lerobot = find_spec("lerobot")
    if lerobot is None or lerobot.origin is None:
        raise UserError("LeRobot is not installed; install flowstill[evaluator]")
    table = json.loads((Path(lerobot.origin).parent / "envs" / "metaworld_config.json").read_text())
    return dict(table["TASK_DESCRIPTIONS"])
