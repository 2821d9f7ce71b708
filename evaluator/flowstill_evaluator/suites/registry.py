"""Suites by name: which tasks they have, what a task is called in words, and how to make its environment."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy.typing as npt

from flowstill.errors import UserError
from flowstill_evaluator.suites.interface import Environment, Observation, Offer, View

METAWORLD = "metaworld"


def make_environment(suite: str, task: str, view: View | None = None) -> Environment:
    """Make the environment of one task.

    Args:
        suite: the suite.
        task: one of its tasks.
        view: what the policy looks at (``views.view_of``); default: the task's whole state and a black camera.

    Raises:
        UserError: no such suite or task.
    """
    _check_suite(suite)
    from flowstill_evaluator.suites import metaworld_env, reach_around

    if task == reach_around.TASK_NAME:
        return reach_around.ReachAroundEnv(view)
    try:
        return metaworld_env.MetaWorldEnv(task, view)
    except ValueError as error:
        raise UserError(str(error), field="spec.evaluation.tasks") from error


def offer_of(suite: str, task: str) -> Offer:
    """What that task's environments can show."""
    _check_suite(suite)
    from flowstill_evaluator.suites import metaworld_env, reach_around

    return reach_around.OFFER if task == reach_around.TASK_NAME else metaworld_env.OFFER


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


def rename(observation: Mapping[str, npt.NDArray[Any]], rename_map: Mapping[str, str]) -> Observation:
    """Give the environment's features the names that the policy knows them by."""
    return {rename_map.get(name, name): value for name, value in observation.items()}


def _check_suite(suite: str) -> None:
    if suite != METAWORLD:
        raise UserError(f"there is no suite {suite!r}; use {METAWORLD}", field="spec.evaluation.suite")


def _metaworld_instructions() -> dict[str, str]:
    # Importing lerobot.envs would import torch; its table of sentences is a JSON file beside it.
    lerobot = find_spec("lerobot")
    if lerobot is None or lerobot.origin is None:
        raise UserError("LeRobot is not installed; install flowstill[evaluator]")
    table = json.loads((Path(lerobot.origin).parent / "envs" / "metaworld_config.json").read_text())
    return dict(table["TASK_DESCRIPTIONS"])
