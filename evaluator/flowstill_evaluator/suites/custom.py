"""The suite ``custom``: Gymnasium environments of the user's own, named by an entry point.

The environments are made in processes of their own, also to find out what they offer: this one loads policies, and
must not load a simulator that it knows nothing of.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowstill.errors import UserError
from flowstill.policies.interface import STATE
from flowstill_evaluator.suites.graphics import choose_library
from flowstill_evaluator.suites.interface import Environment, Offer, View
from flowstill_evaluator.suites.tasks import once

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium as gym

FIELD = "spec.evaluation.custom.entryPoint"
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Trial:
    """What a task's environment said of itself when it was tried."""

    sentence: str
    offer: Offer


@dataclass(frozen=True)
class CustomEnvironments:
    """Environments that a function of the user's makes, by task.

    Attributes:
        entry_point: ``PACKAGE.MODULE:FUNCTION``.
        config: further keyword arguments of the function, as text.
    """

    entry_point: str
    config: tuple[tuple[str, str], ...] = ()
    name: str = "custom"
    most_environments: int = 32

    def preflight(self, tasks: Sequence[str]) -> dict[str, str]:
        """Make the environment of every task once, in a process of its own, and try it.

        Raises:
            UserError: it cannot be made, or does not keep to ``docs/custom_suites.md``.
        """
        once(tasks)
        new = [task for task in tasks if (self, task) not in _TRIED]
        if new:
            if "MUJOCO_GL" not in os.environ:  # of use to those that draw with MuJoCo; the others do not need it
                with suppress(UserError):
                    os.environ["MUJOCO_GL"] = choose_library()
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
                for task in new:
                    try:
                        _TRIED[self, task] = processes.submit(_try, self, task).result()
                    except BrokenProcessPool as error:
                        message = f"{self._call(task)} ended its process; run it alone to see why"
                        raise UserError(message, field=FIELD) from error
        return {task: _TRIED[self, task].sentence for task in tasks}

    def offer(self, task: str) -> Offer:
        """What that task's environments can show; its preflight found out."""
        return _TRIED[self, task].offer

    def environment(self, task: str, view: View | None = None) -> Environment:
        """Make the environment of one task.

        Raises:
            UserError: it cannot be made; with the user's own error.
        """
        from flowstill_evaluator.suites.gym_env import ContractBroken, GymEnv

        env = self._make(task)
        try:
            return GymEnv(env, view)
        except ContractBroken as error:
            raise UserError(f"{self._call(task)}: {error}", field=FIELD, reason=error.reason) from error

    def _make(self, task: str) -> gym.Env[Any, Any]:
        import gymnasium as gym

        function = self._function()
        try:
            env = function(task=task, **dict(self.config))
        except Exception as error:
            raise UserError(f"{self._call(task)} failed with {type(error).__name__}: {error}", field=FIELD) from error
        if not isinstance(env, gym.Env):
            raise UserError(f"{self._call(task)} gave {env!r:.80}; it must give a gymnasium.Env", field=FIELD)
        return env

    def _function(self) -> Callable[..., Any]:
        module_name, _, name = self.entry_point.partition(":")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise UserError(
                f"{module_name} cannot be imported ({type(error).__name__}: {error}); install the package where the "
                "evaluator runs (docs/custom_suites.md has the image's Containerfile), or add its folder to PYTHONPATH",
                field=FIELD,
            ) from error
        function = getattr(module, name, None)
        if not callable(function):
            raise UserError(f"{module_name} has no function {name!r}", field=FIELD)
        return function  # type: ignore[no-any-return]

    def _call(self, task: str) -> str:
        return f"{self.entry_point}(task={task!r}{''.join(f', {key}={text!r}' for key, text in self.config)})"


_TRIED: dict[tuple[CustomEnvironments, str], Trial] = {}


def _try(suite: CustomEnvironments, task: str) -> Trial:
    """Two resets and a step of a task's environment."""
    from flowstill_evaluator.suites.gym_env import ContractBroken, GymEnv

    environment = suite.environment(task)
    assert isinstance(environment, GymEnv)
    call = suite._call(task)
    with closing(environment):
        try:
            first, again = environment.reset(0), environment.reset(0)
            _same(first[STATE], again[STATE])
            for camera in environment.offer.cameras:
                environment._picture(camera)
            environment.step(environment.offer.random_action(np.random.default_rng(0)))
            environment.observe()
        except ContractBroken as error:
            raise UserError(f"{call}: {error}", field=FIELD, reason=error.reason) from error
        except Exception as error:
            raise UserError(f"{call} failed with {type(error).__name__}: {error}", field=FIELD) from error
        return Trial(_sentence(environment.env, task), environment.offer)


def _same(first: Any, again: Any) -> None:
    from flowstill_evaluator.suites.gym_env import ContractBroken

    if not np.allclose(first, again, rtol=0.0, atol=_TOLERANCE):
        raise ContractBroken(
            f"reset(seed=0) gave the state {first} and then {again}; the same seed must give the same episode, or the "
            "arms cannot be compared on it (draw from self.np_random, after super().reset(seed=seed))"
        )


def _sentence(env: gym.Env[Any, Any], task: str) -> str:
    """What LeRobot would tell a policy."""
    said = env.get_wrapper_attr("task_description") if env.has_wrapper_attr("task_description") else None
    return said if isinstance(said, str) and said else task
