"""Suites by name: which tasks they have, what a task is called in words, and how to make its environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from flowstill.errors import UserError

if TYPE_CHECKING:
    from flowstill_evaluator.suites.metaworld_env import StepResult

Observation = dict[str, npt.NDArray[Any]]


class Environment(Protocol):
    """One simulated episode at a time, deterministic in (seed, actions)."""

    def reset(self, seed: int) -> Observation:
        """Start the episode of ``seed``."""
        ...

    def step(self, action: npt.ArrayLike) -> StepResult:
        """Apply one action."""
        ...

    def render(self) -> npt.NDArray[np.uint8]:
        """Draw the scene, uint8 (height, width, 3)."""
        ...

    def close(self) -> None:
        """Free what rendering holds."""
        ...


def make_environment(suite: str, task: str) -> Environment:
    """Make the environment of one task.

    Raises:
        UserError: no such suite or task.
    """
    _check_suite(suite)
    from flowstill_evaluator.suites import metaworld_env, reach_around

    if task == reach_around.TASK_NAME:
        return reach_around.ReachAroundEnv()
    try:
        return metaworld_env.MetaWorldEnv(task)
    except ValueError as error:
        raise UserError(str(error), field="spec.evaluation.tasks") from error


def instructions(suite: str, tasks: Sequence[str]) -> dict[str, str]:
    """The sentence that tells a policy what to do, for each task.

    Meta-World's are those of LeRobot's own Meta-World data, which policies are trained on.

    Raises:
        UserError: a task that the suite does not have, or has twice in ``tasks``.
    """
    _check_suite(suite)
    if len(set(tasks)) != len(tasks):
        raise UserError("a task is listed twice; list each task once", field="spec.evaluation.tasks")
    from flowstill_evaluator.suites import reach_around

    known = {**_metaworld_instructions(), reach_around.TASK_NAME: reach_around.INSTRUCTION}
    for task in tasks:
        if task not in known:
            raise UserError(
                f"the suite metaworld has no task {task!r}; it has {', '.join(sorted(known))}",
                field="spec.evaluation.tasks",
            )
    return {task: known[task] for task in tasks}


def control_hz(suite: str) -> int:
    """Actions a second of simulated time."""
    _check_suite(suite)
    from flowstill_evaluator.suites.metaworld_env import CONTROL_HZ

    return CONTROL_HZ


def action_size(suite: str) -> int:
    """Numbers of an action."""
    _check_suite(suite)
    from flowstill_evaluator.suites.metaworld_env import ACTION_SIZE

    return ACTION_SIZE


def rename(observation: Mapping[str, npt.NDArray[Any]], rename_map: Mapping[str, str]) -> Observation:
    """Give the environment's features the names that the policy knows them by.

    Raises:
        UserError: the map names a feature that the environment does not have.
    """
    for name in rename_map:
        if name not in observation:
            raise UserError(
                f"the environment has no {name!r}; it has {', '.join(sorted(observation))}",
                field="spec.evaluation.renameMap",
            )
    return {rename_map.get(name, name): value for name, value in observation.items()}


def _check_suite(suite: str) -> None:
    if suite != "metaworld":
        raise UserError(f"there is no suite {suite!r}; use metaworld", field="spec.evaluation.suite")


def _metaworld_instructions() -> dict[str, str]:
    # Importing lerobot.envs would import torch; its table of sentences is a JSON file beside it.
    lerobot = find_spec("lerobot")
    if lerobot is None or lerobot.origin is None:
        raise UserError("LeRobot is not installed; install flowstill[evaluator]")
    table = json.loads((Path(lerobot.origin).parent / "envs" / "metaworld_config.json").read_text())
    return dict(table["TASK_DESCRIPTIONS"])
