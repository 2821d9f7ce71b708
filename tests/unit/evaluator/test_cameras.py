"""What cameras show: LeRobot's own Meta-World pictures, at the policy's size, drawn when the policy looks."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from flowstill.errors import UserError
from flowstill_evaluator.suites import graphics

CODE = """
import json, sys
import numpy as np
from flowstill_evaluator.suites.interface import CameraView, View
from flowstill_evaluator.suites.registry import METAWORLD

SIZE = 120
STILL = np.zeros(4, np.float32)
cameras = tuple(CameraView(name, SIZE, SIZE) for name in ("observation.image", "observation.images.corner"))
ours = METAWORLD.environment("drawer-open-v3", View(4, cameras))
seen = ours.reset(3)
after = [ours.step(STILL) for _ in range(3)]
assert not hasattr(after[0], "observation")
moved = ours.observe()

from lerobot.envs.metaworld import MetaworldEnv
theirs = MetaworldEnv("drawer-open-v3", obs_type="pixels_agent_pos", observation_width=480, observation_height=480)
expected, _ = theirs.reset(seed=3)
picture = expected["pixels"].astype(float)
small = picture.reshape(SIZE, 480 // SIZE, SIZE, 480 // SIZE, 3).mean((1, 3))
def apart(image):
    return float(np.abs(image.astype(float) - small).mean())
image = seen["observation.image"]
small_front = METAWORLD.environment("reach-around", View(7, (CameraView("observation.images.front", 24, 40),)))
front = small_front.reset(0)["observation.images.front"]
print(json.dumps({
    "same": apart(image), "upside down": apart(image[::-1]), "mirrored": apart(image[:, ::-1]),
    "other camera": apart(seen["observation.images.corner"]),
    "state": float(np.abs(seen["observation.state"] - expected["agent_pos"]).max()),
    "shape": image.shape, "dtype": str(image.dtype), "moved": float(np.abs(moved["observation.image"] - image).max()),
    "front": front.shape, "front contrast": float(front.std()),
}))
"""


def test_the_pictures_are_those_of_lerobots_wrapper():
    environment = {**os.environ, "MUJOCO_GL": graphics.choose_library(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"] < 4  # of 255: LeRobot smoothes edges
    assert min(found["upside down"], found["mirrored"], found["other camera"]) > 4 * found["same"]
    assert found["state"] < 1e-5
    assert (found["shape"], found["dtype"]) == ([120, 120, 3], "uint8")
    assert found["front"] == [24, 40, 3]
    assert found["front contrast"] > 10


def test_without_graphics_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(graphics, "LIBRARIES", ("no-such-library",))
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(UserError, match=r"cannot be drawn .*no-such-library.*install libegl1 and libgl1-mesa-dri"):
        graphics.choose_library()


def test_the_black_camera_is_black_and_needs_no_graphics():
    from flowstill_evaluator.suites.interface import CameraView, View
    from flowstill_evaluator.suites.registry import METAWORLD

    view = View(39, (CameraView("observation.images.black", 16, 24),))
    seen = METAWORLD.environment("reach-v3", view).reset(0)
    assert seen["observation.images.black"].shape == (16, 24, 3)
    assert not seen["observation.images.black"].any()
    state = seen["observation.state"]
    np.testing.assert_array_equal(state[:18], state[18:36])  # at the start there is no frame before
