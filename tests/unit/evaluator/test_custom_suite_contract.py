"""Gymnasium environments of the user's own: what is taken, and that what is wrong is named."""

import pickle

import gymnasium as gym
import numpy as np
import pytest

from flowstill.api.studentrollout import CustomSuite
from flowstill.errors import UserError
from flowstill_evaluator.suites.custom import CustomEnvironments
from flowstill_evaluator.suites.gym_env import ContractBroken, GymEnv
from flowstill_evaluator.suites.interface import CameraView, View
from flowstill_evaluator.suites.registry import plain, suite_from, suite_of
from flowstill_evaluator.views import drawn, view_of
from tests.support.gym_rooms import Room
from tests.unit.evaluator.analytic import info

ENTRY = "tests.support.gym_rooms:make"
FRONT, BLACK = "observation.images.front", "observation.images.black"
SMALL = gym.spaces.Box(0, 255, (8, 12, 3), np.uint8)
FRONT_ONLY = gym.spaces.Dict({"front": SMALL})
WHITE = np.full((8, 12, 3), 255, np.uint8)
ALONG_X = np.array([1.0, 0.0])


def seen_from(**room) -> GymEnv:
    environment = GymEnv(Room(**room))
    environment.reset(0)
    return environment


def test_an_episode_is_the_environments_own():
    environment, room = GymEnv(Room()), Room()
    np.testing.assert_array_equal(
        environment.reset(4)["observation.state"], room.reset(seed=4)[0]["agent_pos"].astype(np.float32)
    )
    done = environment.step([-3.0, 5.0])  # x is clipped to -1; y has no range
    room.step(np.array([-1.0, 5.0]))
    np.testing.assert_allclose(environment.observe()["observation.state"], room.at)
    assert (done.success, done.clamped, done.reward) == (False, True, 0.5)
    np.testing.assert_array_equal(done.joint_velocity, [-1.0, 5.0])


def test_how_an_episode_ends():
    def ending(action, **room):
        environment = seen_from(**room)
        done = environment.step(action)
        steps = 1
        while not done.done:
            done, steps = environment.step(action), steps + 1
        with pytest.raises(RuntimeError, match="call reset"):
            environment.step(action)
        return done.success, done.touched, done.ended, steps

    assert ending([0.0, 0.0]) == (False, False, False, 20)
    assert ending([0.0, 0.0], limit=5) == (False, False, False, 5)
    assert ending([0.0, 30.0])[:3] == (False, True, False)
    assert ending(ALONG_X)[:3] == (False, False, True)
    environment = seen_from()
    while not (done := environment.step(np.clip(-10 * environment.observe()["observation.state"], -1, 1))).done:
        pass
    assert done.success


def test_pictures_are_the_policys_cameras_and_black_where_nothing_is_asked():
    view = View(2, (CameraView(FRONT, 8, 12), CameraView(BLACK, 4, 6)))
    environment = GymEnv(Room(pixels=FRONT_ONLY, picture={"front": WHITE}), view)
    seen = environment.reset(0)
    assert (seen[FRONT] == 255).all()
    assert seen[FRONT] is not WHITE
    assert seen[BLACK].shape == (4, 6, 3)
    assert not seen[BLACK].any()
    assert GymEnv(Room(pixels=SMALL, picture=WHITE)).offer.cameras == ("observation.image",)


def test_films_show_what_the_environment_draws():
    room = Room(pixels=FRONT_ONLY, picture={"front": WHITE})
    environment = GymEnv(room)
    environment.reset(0)
    assert (environment.render() == WHITE).all()
    room.render_mode = "rgb_array"
    assert environment.render().shape == (8, 6, 3)  # even numbers of rows and columns
    assert (environment.render() == 7).all()
    with pytest.raises(ContractBroken, match="no films: the environment has no camera"):
        seen_from().render()


@pytest.mark.parametrize(
    ("room", "message"),
    [
        ({"space": SMALL}, "observation_space is Box.* must be a Dict with 'agent_pos'"),
        ({"state_space": gym.spaces.Discrete(3)}, r"observation_space\['agent_pos'\] is Discrete"),
        ({"state_space": gym.spaces.Box(0, 1, (2, 2))}, "must be a Box of one dimension"),
        ({"action_space": gym.spaces.Discrete(4)}, "action_space is Discrete"),
        ({"pixels": gym.spaces.Dict({"front": gym.spaces.Box(0, 1, (8, 12, 3))})}, "'observation.images.front' is Box"),
        ({"pixels": gym.spaces.Dict({"front": gym.spaces.Box(0, 255, (3, 8, 12), np.uint8)})}, r"\(3, 8, 12\); it"),
        ({"limit": None}, "no step limit.*TimeLimit"),
        ({"fps": None}, r"metadata\['render_fps'\] is None"),
        ({"reset": {"agent_pos": np.zeros(2)}}, r"reset\(seed=…\) gave .* must give \(observation, info\)"),
        ({"seen": np.zeros(2)}, "an observation is an array .* must be a dict"),
        ({"seen": {"state": np.zeros(2)}}, r"observation\['agent_pos'\] is missing; it must be 2 finite"),
        ({"seen": {"agent_pos": np.zeros(3)}}, r"observation\['agent_pos'\] is an array float64 \(3,\)"),
        ({"seen": {"agent_pos": np.full(2, np.nan)}}, "that is not finite; it must be 2 finite"),
        ({"step": (0, 1, 2, {})}, r"step\(action\) gave .*terminated, truncated, info"),
        ({"reward": np.nan}, "the reward is nan"),
        ({"info": {"is_success": None}}, r"info\['is_success'\] after a step is missing"),
        ({"info": {"is_success": 1.0}}, "must be a bool"),
        ({"info": {"joint_velocity": np.ones((2, 2))}}, r"info\['joint_velocity'\] is an array float64 \(2, 2\)"),
        ({"info": {"joint_velocity": [np.nan]}}, "a finite number a joint"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(room, message):
    with pytest.raises(ContractBroken, match=message):
        seen_from(**room).step([0.0, 0.0])


@pytest.mark.parametrize(
    "picture", [None, {"front": WHITE.astype(float)}, {"front": WHITE[:4]}, {"back": WHITE}, WHITE]
)
def test_a_picture_that_is_not_its_space_is_named(picture):
    room = Room(pixels=FRONT_ONLY, **({"picture": picture} if picture is not None else {}))
    with pytest.raises(ContractBroken, match=r"the picture 'observation.images.front' is .* uint8 \(8, 12, 3\)"):
        GymEnv(room, View(2, (CameraView(FRONT, 8, 12),))).reset(0)


def test_a_number_of_joints_that_changes_is_named():
    environment = seen_from()
    environment.step([0.0, 0.0])
    environment.env.wrong["info"] = {"joint_velocity": [0.0]}
    with pytest.raises(ContractBroken, match="had 2 joints, and now has 1"):
        environment.step([0.0, 0.0])
    assert seen_from(info={"joint_velocity": ()}).step([0.0, 0.0]).joint_velocity.shape == (0,)


def test_a_policy_that_sees_at_another_size_is_refused(monkeypatch):
    from flowstill_evaluator.suites import custom

    suite = CustomEnvironments(ENTRY)
    offer = GymEnv(Room(pixels=FRONT_ONLY, picture={"front": WHITE})).offer
    monkeypatch.setitem(custom._TRIED, (suite, "room"), custom.Trial("come", offer))
    looking = info(state_dim=2, action_dim=2, cameras=(FRONT,))
    with pytest.raises(UserError, match=r"config: arm looks at 32x32 .*'observation.images.front', room draws 8x12"):
        view_of(looking, "arm", suite, ["room"], {})
    blind = view_of(info(state_dim=2, action_dim=2, cameras=(BLACK,)), "arm", suite, ["room"], {})
    assert blind == View(2, (CameraView(BLACK, 32, 32),))
    assert not drawn(View(2, (CameraView(FRONT, 8, 12),)), suite, ["room"]), "its graphics are its own affair"


def test_the_preflight_tries_every_task_in_another_process():
    suite = suite_of("custom", CustomSuite(entry_point=ENTRY, config={"size": "3"}))
    assert suite.preflight(["small", "large"]) == dict.fromkeys(("small", "large"), "come to the middle")
    offer = suite.offer("small")
    assert (offer.states, offer.action_size, offer.low, offer.high) == ({2: "agent_pos"}, 2, (-1, -1), (1, 1))
    with pytest.raises(UserError, match=r"make\(task='broken', size='3'\) failed with LookupError: no such room"):
        suite.preflight(["small", "broken"])
    with pytest.raises(
        UserError, match=r"make\(task='forgetful', .* the same seed must give the same episode"
    ) as broken:
        suite.preflight(["forgetful"])
    assert broken.value.reason == "EnvironmentContract"
    with pytest.raises(UserError, match=r"make\(task='dies', size='3'\) ended its process"):
        suite.preflight(["dies"])
    assert pickle.loads(pickle.dumps(suite)) == suite_from(plain(suite)) == suite


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        ("no.such.module:make", r"entryPoint: no.such.module cannot be imported \(ModuleNotFoundError.*PYTHONPATH"),
        ("tests.support.gym_rooms:nothing", "tests.support.gym_rooms has no function 'nothing'"),
        ("tests.support.gym_rooms:SMALL", "has no function 'SMALL'"),
        (ENTRY, "gave None; it must give a gymnasium.Env"),
    ],
)
def test_an_entry_point_that_gives_no_environment(entry_point, message):
    with pytest.raises(UserError, match=message):
        CustomEnvironments(entry_point).environment("nothing")
