"""LIBERO's tasks behind the interface of every suite, as LeRobot's environment and processor show them.

robosuite samples what a policy sees after the *first* of the 25 substeps of an action. The state is taken from there;
for the cameras the scene of that moment is kept, and drawn only when the policy looks.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np
import numpy.typing as npt
import yaml

from flowstill.policies.interface import STATE
from flowstill_evaluator.suites.drawing import Drawer
from flowstill_evaluator.suites.interface import CameraView, Observation, Offer, StepResult, View, checked_action
from flowstill_evaluator.suites.libero import ACTION_SIZE, BLACK_CAMERA, CAMERAS, OFFER, STATE_DIM
from flowstill_evaluator.suites.libero_files import LiberoTask, assets, package

CONTROL_HZ = 20
SETTLING = 10
"""Actions that do nothing, before the policy's first look: objects stand a little above the table at first."""
STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
FILM_SIZE = 160
_FILM_CAMERA = "agentview"
_PLACEMENTS = 100
_SMALLEST = 1e-10


class LiberoEnv:
    """One episode at a time, from the canonical initial state that belongs to its seed."""

    offer: Offer = OFFER
    control_hz: float = CONTROL_HZ

    def __init__(self, task: LiberoTask, view: View | None = None) -> None:
        """Load the scene.

        Args:
            task: which.
            view: what the policy looks at; default: the state and a black camera.
        """
        self.task = task
        self.view = view or View(STATE_DIM, (CameraView(BLACK_CAMERA, 32, 32),))
        self._states = task.initial_states()
        self._env = _control_env(task)
        self._drawer: Drawer | None = None
        self._model: mujoco.MjModel | None = None
        self._scene: mujoco.MjData | None = None
        self._seen: dict[str, Any] = {}
        self._steps = 0
        self._done = True
        self._env.env.add_observable(_scene_sensor(self._keep_scene))

    def reset(self, seed: int) -> Observation:
        """Start the episode of ``seed``: the initial state of that number, counted round.

        Raises:
            ValueError: the seed is negative.
            RuntimeError: LIBERO finds no place for its objects.
        """
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative; use an integer from 0 on")
        self._env.seed(seed)
        self._place_objects()
        self._env.set_init_state(self._states[seed % len(self._states)])
        for _ in range(SETTLING):
            self._seen, _, _, _ = self._env.step(STILL)
        self._steps, self._done = 0, False
        return self.observe()

    def step(self, action: npt.ArrayLike) -> StepResult:
        """Apply one action: the gripper's displacement and rotation in units of 5 cm and 0.5 rad, and its effort.

        Args:
            action: shape (7,), each meant to lie in [-1, 1].

        Raises:
            ValueError: wrong shape, or a number that is not finite.
            RuntimeError: the episode is over; call ``reset`` first.
        """
        action_D = checked_action(action, ACTION_SIZE, over=self._done)
        clipped_D = np.clip(action_D, -1.0, 1.0)
        self._seen, reward, _, _ = self._env.step(clipped_D)
        self._steps += 1
        success = bool(self._env.check_success())
        self._done = success or self._steps >= self.task.max_steps
        return StepResult(
            success=success,
            done=self._done,
            reward=float(reward),
            clamped=bool((clipped_D != action_D).any()),
            joint_velocity=np.array(self._env.robots[0]._joint_velocities, dtype=np.float64),
            touched=False,
        )

    def observe(self) -> Observation:
        """``observation.state`` float32 (8,), and each camera of the view as uint8 (height, width, 3)."""
        position, rotation, fingers = (self._seen[f"robot0_{name}"] for name in ("eef_pos", "eef_quat", "gripper_qpos"))
        seen: Observation = {STATE: np.concatenate([position, axis_angle(rotation), fingers]).astype(np.float32)}
        for camera in self.view.cameras:
            size = camera.height, camera.width
            black = camera.name == BLACK_CAMERA
            seen[camera.name] = np.zeros((*size, 3), np.uint8) if black else self._draw(CAMERAS[camera.name], *size)
        return seen

    def render(self) -> npt.NDArray[np.uint8]:
        """Draw the scene for a film, uint8 (160, 160, 3)."""
        return self._draw(_FILM_CAMERA, FILM_SIZE, FILM_SIZE)

    def close(self) -> None:
        """Free the simulator and every graphics context."""
        self._close_drawer()
        self._env.close()

    def _draw(self, camera: str, height: int, width: int) -> npt.NDArray[np.uint8]:
        if self._drawer is None:
            option = mujoco.MjvOption()
            option.geomgroup[0] = 0  # shapes for collisions
            self._drawer = Drawer(self._model, option=option, as_modelled=True)
        # LeRobot turns OpenGL's picture, whose first row is the lowest, by half a turn: its mirror image is left.
        return np.ascontiguousarray(self._drawer.draw(self._scene, camera, height, width)[:, ::-1])

    def _place_objects(self) -> None:
        from robosuite.utils.errors import RandomizationError

        # Not by the wrapper's own reset: it would try for ever, whatever the error.
        for _ in range(_PLACEMENTS):
            try:
                self._env.env.reset()
            except RandomizationError:
                continue
            return
        raise RuntimeError(f"{self.task.name}: LIBERO found no place for its objects in {_PLACEMENTS} tries")

    def _keep_scene(self) -> None:
        sim = self._env.env.sim
        if sim.model._model is not self._model:  # every reset makes a new one
            self._close_drawer()
            self._model = sim.model._model
            self._scene = mujoco.MjData(self._model)
        mujoco.mj_copyData(self._scene, self._model, sim.data._data)

    def _close_drawer(self) -> None:
        if self._drawer is not None:
            self._drawer.close()
            self._drawer = None


def axis_angle(quaternion: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """A rotation given as quaternion (x, y, z, w) as its axis times its angle, in LeRobot's single precision."""
    x, y, z, w = np.asarray(quaternion, dtype=np.float32)
    w = np.clip(w, np.float32(-1), np.float32(1))
    sine = np.sqrt(np.maximum(np.float32(1) - w * w, np.float32(0)))
    if sine <= _SMALLEST:
        return np.zeros(3, np.float32)
    vector: npt.NDArray[np.float32] = np.array([x, y, z]) / sine * (np.float32(2) * np.arccos(w))
    return vector


def scene_files(task: LiberoTask) -> list[Path]:
    """Every file that the scene of a task needs, found by putting it together without compiling it.

    A file of a description that is itself missing is the only one in the list.
    """
    _libero()
    from robosuite.environments.base import MujocoEnv

    class Assembled(Exception):
        pass

    def stop(env: Any, xml_string: str | None = None) -> None:
        raise Assembled(env.model.get_xml())

    compile_scene, MujocoEnv._initialize_sim = MujocoEnv._initialize_sim, stop
    try:
        _control_env(task)
    except Assembled as assembled:
        files = {element.get("file") for element in ElementTree.fromstring(str(assembled)).iter()}
        return sorted(Path(file) for file in files if file)
    except FileNotFoundError as error:
        return [Path(error.filename)]
    finally:
        MujocoEnv._initialize_sim = compile_scene
    raise AssertionError("LIBERO made an environment without compiling its scene")


@lru_cache
def _libero() -> ModuleType:
    """``libero.libero``, told where everything is: its import would ask on standard input, its first scene download."""
    home = tempfile.TemporaryDirectory(prefix="flowstill-libero-")
    atexit.register(home.cleanup)
    root, meshes = package(), assets()
    config = {"benchmark_root": root, "bddl_files": root / "bddl_files", "init_states": root / "init_files"}
    paths = {**config, "datasets": Path(home.name) / "datasets", "assets": meshes}
    (Path(home.name) / "config.yaml").write_text(yaml.safe_dump({key: str(path) for key, path in paths.items()}))
    os.environ["LIBERO_CONFIG_PATH"] = home.name
    import libero.libero

    libero.libero._assets_path_cache = str(meshes)
    return libero.libero  # type: ignore[no-any-return]


def _control_env(task: LiberoTask) -> Any:
    _libero()
    from libero.libero.envs.env_wrapper import ControlEnv

    return ControlEnv(
        bddl_file_name=str(task.definition),
        control_freq=CONTROL_HZ,
        use_camera_obs=False,
        has_offscreen_renderer=False,
        hard_reset=True,  # a soft one lets an episode depend on the one before
    )


def _scene_sensor(keep: Callable[[], None]) -> Any:
    """An observable that is sampled when robosuite samples its cameras."""
    from robosuite.utils.observables import Observable, sensor

    def scene(cache: dict[str, Any]) -> npt.NDArray[np.float64]:
        keep()
        return np.zeros(1)

    return Observable(name="flowstill_scene", sensor=sensor(modality="flowstill")(scene), sampling_rate=CONTROL_HZ)
