"""State-out: π0.5's state as a token of its own, in a prompt that does not change with it."""

import shutil

import numpy as np
import pytest
import torch

from flowstill.errors import UserError
from flowstill.policies.onnx_runner import OnnxRunner
from flowstill.policies.torch_runner import TorchRunner, tensors
from tests.support import tiny_smolvla

pi05 = pytest.mark.parametrize("tiny", ["pi05"], indirect=True)
TOKENS = "observation.language.tokens"


@pytest.fixture
def student(tiny):
    student = tiny.student(tiny.teacher(), state_out=True)
    torch.manual_seed(3)
    torch.nn.init.normal_(student.policy.model.target_time.output.weight, std=0.2)
    return student


@pytest.mark.parametrize("tiny", ["smolvla", "pi0"], indirect=True)
def test_other_policies_refuse_it(tiny):
    with pytest.raises(UserError, match=r"spec\.student\.stateOut") as caught:
        tiny.student(tiny.teacher(), state_out=True)
    assert caught.value.field == "spec.student.stateOut"


@pi05
def test_the_prompt_forgets_the_state_and_the_expert_sees_it(tiny, student):
    seen = tensors(tiny_smolvla.observations(2))
    other = seen | {"observation.state": seen["observation.state"] + 1.0}
    teacher = tiny.teacher()
    assert not torch.equal(teacher.preprocess(dict(seen))[TOKENS], teacher.preprocess(dict(other))[TOKENS])
    here, there = student.preprocess(dict(seen)), student.preprocess(dict(other))
    assert torch.equal(here[TOKENS], there[TOKENS])
    first, second = student.encode_prefix(here), student.encode_prefix(there)
    assert torch.equal(first.layers[0][0], second.layers[0][0])
    assert torch.equal(first.state_BS[:, : student.state_dim], here["observation.state"])
    noise = torch.randn((2, student.chunk_size, student.padded_action_dim))
    assert not torch.allclose(student.chunk(first, noise, 1), student.chunk(second, noise, 1), atol=1e-4)


@pi05
def test_the_states_projection_is_trained(student, tiny):
    parameters = dict(student.trained())
    prefix = student.encode_prefix(tiny.batch(student))
    noise = torch.randn((4, student.chunk_size, student.padded_action_dim))
    student.velocity(prefix, noise, torch.ones(4), torch.zeros(4)).square().mean().backward()
    assert parameters["model.state_proj.weight"].grad.abs().max() > 0


@pi05
def test_lerobot_and_onnx_run_a_moved_student(student, tiny, tmp_path, monkeypatch):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    from flowstill_trainer.publish import build_folder

    graph = build_folder(tmp_path / "first", student, tiny.frames(student))
    assert "state" in [name for name, *_ in graph.inputs]
    assert graph.difference < 1e-5
    root = tmp_path / "second"
    shutil.move(tmp_path / "first", root)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = PreTrainedConfig.from_pretrained(root / "policy")
    policy = get_policy_class(config.type).from_pretrained(root / "policy", config=config)
    before, after = make_pre_post_processors(config, pretrained_path=str(root / "policy"))
    seen = tiny_smolvla.observations(3)
    noise = np.random.default_rng(0).normal(size=(3, 8, tiny_smolvla.CHUNK, 8)).astype(np.float32)
    theirs = after(policy.predict_action_chunk(before(tensors(seen)), noise=torch.from_numpy(noise)))
    options = {"draws": None, "threads": 1, "digest": ""}
    torch_runner = TorchRunner.load(root / "policy", steps=None, device="cpu", **options)
    onnx_runner = OnnxRunner(root / "policy", root / "onnx" / "student.onnx", provider="cpu", **options)
    assert np.allclose(torch_runner.act(seen, noise).actions_BHA, theirs.numpy(), atol=1e-6)
    assert np.allclose(onnx_runner.act(seen, noise).actions_BHA, theirs.numpy(), atol=1e-4)
