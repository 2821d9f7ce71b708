"""LIBERO for real: LeRobot's own observations, several environments side by side, and a preflight before either."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flowstill.errors import UserError
from flowstill_evaluator.lockstep import WorkerPool
from flowstill_evaluator.policy import BatchedPolicy
from flowstill_evaluator.records import episodes_of
from flowstill_evaluator.suites import graphics
from flowstill_evaluator.suites.interface import CameraView, View
from flowstill_evaluator.suites.libero import CAMERAS
from flowstill_evaluator.suites.libero_files import ASSETS_VARIABLE
from flowstill_evaluator.suites.registry import LIBERO
from tests.unit.evaluator.analytic import as_chunks, info

ASSETS = Path(__file__).parents[1] / "assets" / "libero"
TASK = "libero_object/0"
CHUNK, STEPS = 40, 280
VIEW = View(8, tuple(CameraView(name, 32, 32) for name in CAMERAS))

CODE = """
import json
import numpy as np
from flowstill.policies.interface import STATE
from flowstill_evaluator.suites.interface import CameraView, View
from flowstill_evaluator.suites.libero import CAMERAS
from flowstill_evaluator.suites.registry import LIBERO

SIZE, SEED = 64, 2
actions = np.random.default_rng(0).uniform(-1, 1, (6, 7))
ours = LIBERO.environment("libero_object/0", View(8, tuple(CameraView(name, SIZE, SIZE) for name in CAMERAS)))
seen = [ours.reset(SEED)]
steps = []
for action in actions:
    steps.append(ours.step(action))
    seen.append(ours.observe())
clamped = ours.step(np.full(7, 2.0))
film = ours.render()
# The soup is what the task wants in the basket.
sim = ours._env.sim
sim.data.set_joint_qpos("alphabet_soup_1_joint0", [*sim.data.get_body_xpos("basket_1_main")[:2], 0.1, 1, 0, 0, 0])
sim.forward()
solved = ours.step([0, 0, 0, 0, 0, 0, -1])
again = ours.reset(SEED)
other = ours.reset(SEED + 1)

from lerobot.envs.libero import LiberoEnv, _get_suite
from lerobot.envs.utils import preprocess_observation
from lerobot.processor.env_processor import LiberoProcessorStep

theirs = LiberoEnv(
    _get_suite("libero_object"), 0, "libero_object", obs_type="pixels_agent_pos", episode_index=SEED,
    observation_width=SIZE, observation_height=SIZE,
)
def as_policy_sees(observation):
    parts = observation["robot_state"].items()
    robot = {part: {name: np.asarray(value)[None] for name, value in each.items()} for part, each in parts}
    ready = preprocess_observation({"pixels": observation["pixels"], "robot_state": robot})
    return LiberoProcessorStep().observation(ready)
expected = [as_policy_sees(theirs.reset(seed=SEED)[0])]
expected += [as_policy_sees(theirs.step(action)[0]) for action in actions]

def pictures(a, b):
    return max(np.abs(a[n] - b[n].numpy()[0].transpose(1, 2, 0) * 255.0).max() for n in CAMERAS)
print(json.dumps({
    "state": [float(np.abs(a[STATE] - b[STATE].numpy()[0]).max()) for a, b in zip(seen, expected)],
    "pictures": [float(pictures(a, b)) for a, b in zip(seen, expected)],
    "contrast": [float(seen[0][name].std()) for name in CAMERAS],
    "next frame": float(pictures(seen[0], expected[-1])),
    "again": all(np.array_equal(seen[0][name], again[name]) for name in again),
    "other": float(np.abs(other[STATE] - again[STATE]).max()),
    "joints": [list(step.joint_velocity.shape) for step in steps],
    "clamped": [step.clamped for step in steps] + [clamped.clamped],
    "solved": [solved.success, solved.done, clamped.success], "film": [list(film.shape), float(film.std())],
    "task": [theirs.task_description, theirs._max_episode_steps],
}))
"""


@pytest.fixture(autouse=True)
def assets(monkeypatch):
    monkeypatch.setenv(ASSETS_VARIABLE, str(ASSETS))


def test_a_policy_sees_what_lerobots_environment_and_processor_show():
    environment = {**os.environ, "MUJOCO_GL": graphics.choose_library(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["pictures"] == [0.0] * 7, "to the bit"
    assert max(found["state"]) < 1e-6
    assert min(found["contrast"]) > 10
    assert found["next frame"] > 10
    assert found["again"]
    assert found["other"] > 1e-4
    assert found["joints"] == [[7]] * 6
    assert found["clamped"] == [False] * 6 + [True]
    assert found["solved"] == [True, True, False]
    assert found["film"][0] == [160, 160, 3]
    assert found["film"][1] > 10
    assert found["task"] == ["pick up the alphabet soup and place it in the basket", STEPS]


class Waving:
    """Moves the arm a little, by what it is told and sees."""

    def __init__(self) -> None:
        self.info = info(state_dim=8, action_dim=7, cameras=tuple(CAMERAS))

    def act(self, observations, noise_BKHD):
        brightness_B = sum(observations[name].mean(axis=(1, 2, 3)) for name in CAMERAS) / 255
        chunk = np.zeros((len(brightness_B), 1, CHUNK, 7), np.float32)
        chunk[..., 0] = noise_BKHD[:, :, :1, 0] * brightness_B[:, None, None] / 4
        return as_chunks(chunk, 7)


@pytest.mark.long
def test_environments_side_by_side_do_not_disturb_each_other(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", graphics.choose_library())
    sentences = LIBERO.preflight([TASK])
    assert sentences == {TASK: "pick up the alphabet soup and place it in the basket"}
    first, second = episodes_of([TASK], 2, seed=0)

    def run(episodes, width):
        policy = BatchedPolicy(
            Waving(), "arm", seed=0, action_steps=CHUNK, width=width, instructions=sentences, rename_map={}
        )
        outcomes, errors = {}, []

        def heard(answer):
            outcomes.update({outcome.episode: outcome for outcome in answer.outcomes})
            errors.extend(answer.errors)

        with WorkerPool(LIBERO, 1, width, VIEW) as pool:
            pool.run(episodes, policy, heard)
        assert not errors
        return outcomes

    together, alone = run([first, second], 2), run([second], 1)
    assert [(o.failure, o.steps, o.chunks) for o in together.values()] == [("timeout", STEPS, STEPS // CHUNK)] * 2
    np.testing.assert_array_equal(together[second].actions_TD, alone[second].actions_TD)
    np.testing.assert_array_equal(together[second].velocity_TJ, alone[second].velocity_TJ)
    assert np.abs(together[first].actions_TD - together[second].actions_TD).max() > 0.01


def test_a_file_that_a_scene_lacks_is_named_before_any_episode(tmp_path, monkeypatch):
    folder = shutil.copytree(ASSETS, tmp_path / "assets")
    (folder / "stable_hope_objects/milk/texture_map.png").unlink()
    monkeypatch.setenv(ASSETS_VARIABLE, str(folder))
    with pytest.raises(UserError, match=rf"{TASK} needs .*milk/texture_map.png, which .* has not") as said:
        LIBERO.preflight([TASK])
    assert said.value.reason == "AssetsMissing"
    with pytest.raises(UserError, match=r"libero_goal/3 needs .*which .* has not; complete it, or set"):
        LIBERO.preflight(["libero_goal/3"])
