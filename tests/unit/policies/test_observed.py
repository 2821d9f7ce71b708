"""What a robot's own program may get wrong when it asks a policy."""

from dataclasses import replace

import numpy as np
import pytest

from flowstill.errors import UserError
from flowstill.policies.interface import RunnerInfo
from flowstill.policies.observed import check_call

INFO = RunnerInfo(
    policy_type="flowstill_smolvla", runtime="onnx", providers=(), steps=1, draws=8, chunk_size=6, action_dim=4,
    padded_action_dim=8, action_steps=4, state_dim=7, cameras=("observation.images.front", "observation.image"),
    camera_sizes=((32, 32), (32, 32)), digest="",
)  # fmt: skip
NOISE = np.zeros((2, 8, 6, 8), np.float32)
GOOD = {
    "observation.state": np.zeros((2, 7)),
    "observation.images.front": np.zeros((2, 480, 640, 3), np.uint8),
    "observation.image": np.zeros((2, 32, 32, 3), np.uint8),
    "task": ["push it", "push it"],
}


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


def test_what_a_policy_takes_is_taken():
    check_call(GOOD, NOISE, INFO)
    check_call(GOOD | {"observation.images.spare": GOOD["observation.image"]}, np.repeat(NOISE, 2, 1), INFO)
    top = without("observation.images.front") | {"top": GOOD["observation.images.front"]}
    check_call(top, NOISE, replace(INFO, renamed={"top": "observation.images.front"}))


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (without("observation.image"), "observations: no observation.image; there is observation.images.front, obs"),
        (without("observation.state"), "observations: no observation.state;"),
        (without("task"), "observations: no task;"),
        (
            {},
            "there is nothing, and the policy takes observation.state, observation.images.front, observation.image",
        ),
        (GOOD | {"observation.state": np.zeros((2, 6))}, "has shape (2, 6), and the policy takes (2, 7)"),
        (GOOD | {"observation.state": np.zeros(7)}, "has shape (7,), and the policy takes (2, 7)"),
        (GOOD | {"task": "ab"}, "task: give a list of sentences, as many as the noise has rows (2)"),
        (GOOD | {"task": ["push it"]}, "task: give a list of sentences"),
        (
            GOOD | {"observation.image": np.zeros((2, 32, 32, 3), np.float32)},
            "observation.image is float32 of shape (2, 32, 32, 3), and the policy takes uint8, 0 to 255, of shape",
        ),
        (GOOD | {"observation.image": np.zeros((2, 3, 32, 32), np.uint8)}, "is uint8 of shape (2, 3, 32, 32)"),
        (GOOD | {"observation.image": np.zeros((32, 32, 3), np.uint8)}, "is uint8 of shape (32, 32, 3)"),
    ],
)
def test_what_it_does_not_take_is_named(seen, said):
    with pytest.raises(UserError) as caught:
        check_call(seen, NOISE, INFO)
    assert said in str(caught.value)


@pytest.mark.parametrize("noise", [NOISE[:, 0], NOISE[:, :7], NOISE[:, :, :5], NOISE[..., :4], np.zeros((2, 8))])
def test_noise_of_another_shape_is_refused(noise):
    with pytest.raises(UserError, match=r"^noise: shape .*, and the policy takes \(B, 8, 6, 8\)$"):
        check_call(GOOD, noise, INFO)
