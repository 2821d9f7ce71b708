"""A student starts as its teacher, can learn what s means, and loads in LeRobot from anywhere."""

import shutil

import numpy as np
import pytest
import torch

from flowstill.errors import UserError
from flowstill.policies.smolvla import load_smolvla
from flowstill.policies.torch_runner import TorchRunner, tensors
from tests.support import tiny_smolvla


def test_student_is_its_teacher_bit_for_bit_for_any_target_time(tiny):
    teacher = tiny.teacher()
    student = tiny.student(teacher)
    prefix = teacher.encode_prefix(tiny.batch(teacher))
    noise = torch.randn((4, teacher.chunk_size, teacher.padded_action_dim))
    for t, s in ((1.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.7, 0.2), (0.001, 0.0)):
        time, target = torch.full((4,), t), torch.full((4,), s)
        assert torch.equal(student.velocity(prefix, noise, time, target), teacher.velocity(prefix, noise, time))


def test_first_layer_of_the_target_time_gets_gradient_after_the_first_step(tiny):
    teacher = tiny.teacher()
    student = tiny.student(teacher)
    embedding = student.policy.model.target_time
    parameters = dict(student.trained())
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    prefix = teacher.encode_prefix(tiny.batch(teacher))
    noise = torch.randn((4, teacher.chunk_size, teacher.padded_action_dim))

    def backward() -> None:
        optimizer.zero_grad()
        student.velocity(prefix, noise, torch.ones(4), torch.zeros(4)).square().mean().backward()

    backward()
    assert embedding.output.weight.grad.abs().max() > 0
    optimizer.step()
    backward()
    assert embedding.hidden.weight.grad.abs().max() > 0


def test_only_expert_projections_and_time_are_trained(tiny):
    student = tiny.student(tiny.teacher())
    names = [name for name, _ in student.trained()]
    assert any(n.startswith("model.target_time.") for n in names)
    assert any(n.startswith("model.vlm_with_expert.lm_expert.") for n in names)
    assert not any(".vlm." in n or "state_proj" in n for n in names)
    frozen = [n for n, p in student.policy.named_parameters() if not p.requires_grad]
    assert any(".vlm." in n for n in frozen)
    assert any("state_proj" in n for n in frozen)


def test_lerobot_loads_a_moved_student_offline(tiny, tmp_path, monkeypatch):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from lerobot.utils.import_utils import register_third_party_plugins

    student = tiny.student(tiny.teacher())
    student.save(tmp_path / "first")
    shutil.move(tmp_path / "first", tmp_path / "second")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    register_third_party_plugins()
    folder = tmp_path / "second"
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    seen = tiny_smolvla.observations(2)
    noise = np.random.default_rng(0).normal(size=(2, 8, tiny_smolvla.CHUNK, 8)).astype(np.float32)
    theirs = after(policy.predict_action_chunk(before(tensors(seen)), noise=torch.from_numpy(noise)))
    runner = TorchRunner.load(folder, steps=None, draws=None, device="cpu", threads=None, digest="")
    assert np.allclose(runner.act(seen, noise).actions_BHA, theirs.numpy(), atol=1e-6)
    assert config.type == "flowstill_smolvla"
    assert str(tmp_path) not in (folder / "config.json").read_text() + (folder / "policy_preprocessor.json").read_text()


def test_saved_tokenizer_is_the_teachers(tiny, tmp_path):
    teacher = tiny.teacher()
    tiny.student(teacher).save(tmp_path / "student")
    loaded = load_smolvla(tmp_path / "student")
    seen = tensors(tiny_smolvla.observations(2))
    theirs, ours = teacher.preprocess(dict(seen)), loaded.preprocess(dict(seen))
    for key in ("observation.language.tokens", "observation.language.attention_mask", "observation.state"):
        assert torch.equal(theirs[key], ours[key])


def test_one_step_student_refuses_more_steps(tiny, tmp_path):
    tiny.student(tiny.teacher(), multi_step=False).save(tmp_path / "student")
    with pytest.raises(UserError, match="steps=1"):
        TorchRunner.load(tmp_path / "student", steps=4, draws=None, device="cpu", threads=None, digest="")


def test_more_action_steps_than_the_chunk_are_refused(tiny):
    with pytest.raises(UserError, match=r"spec\.student\.actionSteps"):
        tiny.student(tiny.teacher(), action_steps=tiny_smolvla.CHUNK + 1)
