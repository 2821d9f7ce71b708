"""What a policy looks at, against what the tasks show: refused before anything is simulated."""

from dataclasses import replace

import pytest

from flowstill.errors import UserError
from flowstill_evaluator.suites.interface import CameraView, View
from flowstill_evaluator.suites.registry import METAWORLD
from flowstill_evaluator.views import drawn, view_of
from tests.unit.evaluator.analytic import info

TOP, FRONT, LEROBOT = "observation.images.top", "observation.images.front", "observation.image"
WRIST = "observation.images.wrist"
FITTING = {"state_dim": 7, "action_dim": 4, "cameras": (TOP,)}


def view(tasks=("reach-around",), rename_map=None, renamed=None, **change):
    arm = replace(info(**{**FITTING, **change}), renamed=renamed or {})
    return view_of(arm, "arm", METAWORLD, tasks, rename_map or {})


def test_the_environments_names_and_the_policys_sizes():
    assert view() == View(7, (CameraView(TOP, 32, 32),))
    assert view(rename_map={FRONT: TOP}) == View(7, (CameraView(FRONT, 32, 32),))
    assert view(renamed={FRONT: WRIST}, cameras=(WRIST,)) == View(7, (CameraView(FRONT, 32, 32),))
    assert view(renamed={FRONT: TOP}) == view(), "the policy's own name goes before the name in its data"
    assert view(["drawer-open-v3"], {LEROBOT: TOP}, state_dim=4) == View(4, (CameraView(LEROBOT, 32, 32),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": (WRIST,)}, r"renameMap: arm expects 'observation.images.wrist', reach-around "
         r"shows observation.images.front, observation.images.top \(observation.images.top is always black\)"),
        ({"state_dim": 8}, r"tasks: arm was trained on states of 8 numbers, reach-around has 7: hand_x, "),
        ({"action_dim": 6}, r"tasks: arm gives actions of 6 numbers, reach-around takes 4"),
        ({"rename_map": {WRIST: TOP}}, r"renameMap: reach-around has no 'observation.images.wrist'"),
        ({"tasks": ["reach-around", "drawer-open-v3"]}, r"renameMap: arm expects 'observation.images.top', drawer-"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(UserError, match=message):
        view(**change)


def test_only_real_cameras_need_graphics():
    assert not drawn(view(), METAWORLD, ["reach-around"])
    assert drawn(view(rename_map={FRONT: TOP}), METAWORLD, ["reach-around"])
    assert not drawn(View(21), METAWORLD, ["drawer-open-v3"])
