"""Meta-World with a camera: Flowstill's simulator beside LeRobot's own wrapper, on the same seeds.

    .venv/bin/python bench/simulator.py --episodes 5

Meta-World's scripted experts drive both, episode by episode in turn, so that both share whatever else the machine does.
A policy that executes ``--action-steps`` actions of each chunk looks once a chunk: Flowstill draws then, at the
policy's size. LeRobot's wrapper draws after every action, at 480 x 480. Success must be the same on
every seed. The last column is Flowstill's without a camera.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flowstill_evaluator.suites.graphics import choose_library

TASKS = ("drawer-open-v3", "button-press-v3", "window-open-v3")
LIMIT = 300
"""Actions of an episode without success."""


@dataclass(frozen=True)
class Played:
    """One episode."""

    success: bool
    steps: int
    seconds: float


@lru_cache
def ours(task: str, size: int) -> Any:
    """Flowstill's environment; with ``size`` 0 without a camera."""
    from flowstill_evaluator.suites.interface import CameraView, View
    from flowstill_evaluator.suites.registry import METAWORLD

    cameras = (CameraView("observation.image", size, size),) if size else ()
    environment = METAWORLD.environment(task, View(39, cameras))
    environment.reset(0)  # the first look makes the graphics context
    return environment


@lru_cache
def theirs(task: str) -> Any:
    """LeRobot's environment, which is made by its first reset."""
    from lerobot.envs.metaworld import MetaworldEnv

    wrapper = MetaworldEnv(task, obs_type="pixels_agent_pos")
    wrapper.reset(seed=0)
    return wrapper


def expert(task: str) -> Any:
    """Meta-World's scripted expert."""
    from lerobot.envs.metaworld import TASK_POLICY_MAPPING

    return TASK_POLICY_MAPPING[task]()


def play_ours(task: str, size: int, seed: int, action_steps: int) -> Played:
    """The expert sees Meta-World's own observation; the policy's view is made once a chunk."""
    environment, driver = ours(task, size), expert(task)
    started = time.perf_counter()
    environment.reset(seed)
    for step in range(1, LIMIT + 1):
        result = environment.step(driver.get_action(environment._own))
        if result.done:
            break
        if step % action_steps == 0:
            environment.observe()
    return Played(result.success, step, time.perf_counter() - started)


def play_lerobot(task: str, seed: int) -> Played:
    """LeRobot's wrapper makes its observation after every action."""
    wrapper, driver = theirs(task), expert(task)
    started = time.perf_counter()
    wrapper.reset(seed=seed)
    for step in range(1, LIMIT + 1):
        own = wrapper._env._last_stable_obs if step > 1 else wrapper._env._get_obs()
        action = driver.get_action(own).clip(-1.0, 1.0).astype("float32")
        _, _, done, _, info = wrapper.step(action)
        if done or step == LIMIT:
            break
    return Played(bool(info["is_success"]), step, time.perf_counter() - started)


def compare(task: str, options: argparse.Namespace) -> str:
    """One line of the table; each simulator has a process of its own, as in an evaluation.

    Raises:
        SystemExit: two disagree about an episode.
    """
    arms: dict[str, list[Played]] = {"ours": [], "theirs": [], "blind": []}
    with ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        one = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for name in arms}
        for seed in range(options.episodes):
            for name, size in (("ours", options.size), ("blind", 0)):
                arms[name].append(one[name].submit(play_ours, task, size, seed, options.action_steps).result())
            arms["theirs"].append(one["theirs"].submit(play_lerobot, task, seed).result())
            if len({arms[name][-1].success for name in arms}) != 1:
                raise SystemExit(f"{task}, seed {seed}: the simulators disagree: {[arms[name][-1] for name in arms]}")
    median = {name: statistics.median(played.seconds for played in found) for name, found in arms.items()}
    solved = sum(played.success for played in arms["ours"])
    return (
        f"| {task} | {solved} of {options.episodes} in both | {median['theirs'] / median['ours']:.1f} | "
        f"{median['theirs'] / median['blind']:.1f} |"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="height and width of the policy's image")
    parser.add_argument("--action-steps", type=int, default=8, help="actions executed of each chunk")
    options = parser.parse_args()
    os.environ["MUJOCO_GL"] = choose_library()
    print("| task | solved by the expert | episodes a second, as a multiple of LeRobot's wrapper | without a camera |")
    print("|---|---|---|---|")
    for task in options.tasks:
        print(compare(task, options), flush=True)


if __name__ == "__main__":
    main()
