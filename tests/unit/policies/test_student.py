"""A student starts as its teacher, can learn what s means, and loads in LeRobot from anywhere."""

import shutil

import numpy as np
import pytest
import torch
from lerobot_policy_flowstill.target_time import check_times

from flowstill.errors import UserError
from flowstill.policies.registry import load_flow_policy
from flowstill.policies.torch_runner import TorchRunner, tensors
from tests.support import tiny_smolvla


def test_student_is_its_teacher_bit_for_bit_for_any_target_time(tiny):
    teacher = tiny.teacher()
    student = tiny.student(teacher)
    prefix = teacher.encode_prefix(tiny.batch(teacher))
    noise = torch.randn((4, teacher.chunk_size, teacher.padded_action_dim))
    for t, s in ((1.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.7, 0.2), (0.001, 0.0)):
        time, target = torch.full((4,), t), torch.full((4,), s)
        assert torch.equal(
            student.velocity(prefix, noise, time, target, any_pair=True), teacher.velocity(prefix, noise, time)
        )


def test_what_the_target_time_gives_is_added_to_the_embedding_of_the_time(tiny):
    network = tiny.student(tiny.teacher()).policy.model
    torch.manual_seed(3)
    torch.nn.init.normal_(network.target_time.output.weight, std=0.2)
    time, here, there = torch.tensor([0.3, 1.0]), torch.tensor([0.3, 0.0]), torch.tensor([0.9, 0.5])
    with torch.no_grad():
        moved = network.embed_time(time, here) - network.embed_time(time, there)
        expected = network.target_time(here) - network.target_time(there)
    assert torch.allclose(moved, expected, atol=1e-5)
    assert expected.abs().amax(1).min() > 0.01


@pytest.mark.parametrize(("t", "s"), [(0.7, 0.0), (0.7, 0.2), (1.0, 0.5), (0.5, 1.0)])
def test_pairs_of_times_that_are_not_trained_are_refused(tiny, t, s):
    student = tiny.student(tiny.teacher())
    prefix = student.encode_prefix(tiny.batch(student))
    noise = torch.randn((4, student.chunk_size, student.padded_action_dim))
    time, target = torch.tensor([1.0, 0.3, t, 1.0]), torch.tensor([0.0, 0.3, s, 1.0])
    with pytest.raises(ValueError, match=rf"t = {t:g}, s = {s:g} means nothing.*any_pair=True"):
        student.velocity(prefix, noise, time, target)
    time[2], target[2] = 1.0, 0.0
    student.velocity(prefix, noise, time, target)


def test_times_are_not_looked_at_in_a_graph():
    check = torch.compile(check_times, backend="eager", fullgraph=True)
    check(torch.full((4,), 0.7), torch.zeros(4))


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
    assert any(".lm_expert." in n or ".gemma_expert." in n for n in names)
    assert not any(".vlm." in n or ".paligemma." in n or "lm_head" in n for n in names)
    frozen = {n for n, p in student.policy.named_parameters() if not p.requires_grad}
    assert any(".vlm." in n or ".paligemma." in n for n in frozen)
    where = {"smolvla": frozen, "pi0": names, "pi05": []}[tiny.kind]  # the state's projection
    assert all((name in where) == bool(where) for name in ("model.state_proj.weight", "model.state_proj.bias"))


def test_a_copy_of_what_is_trained_computes_the_same_and_shares_the_rest(tiny):
    teacher = tiny.teacher()
    twin = teacher.copy_trained()
    batch, noise = tiny.batch(teacher), torch.randn((4, teacher.chunk_size, teacher.padded_action_dim))
    prefix = teacher.encode_prefix(batch)
    theirs = teacher.velocity(prefix, noise, torch.ones(4))
    assert torch.equal(twin.velocity(prefix, noise, torch.ones(4)), theirs)
    assert torch.equal(twin.encode_prefix(batch).layers[0][0], prefix.layers[0][0])
    trained = dict(twin.trained())
    stored = {name: p.data_ptr() for name, p in teacher.policy.named_parameters()}
    for name, parameter in twin.policy.named_parameters():
        assert (parameter.data_ptr() == stored[name]) == (name not in trained), name
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.1)
    assert torch.equal(teacher.velocity(prefix, noise, torch.ones(4)), theirs)
    assert not torch.allclose(twin.velocity(prefix, noise, torch.ones(4)), theirs, atol=1e-3)
    assert not any(p.requires_grad for p in teacher.policy.parameters())


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
    assert config.type == f"flowstill_{tiny.kind}"
    assert str(tmp_path) not in (folder / "config.json").read_text() + (folder / "policy_preprocessor.json").read_text()


def test_saved_tokenizer_is_the_teachers(tiny, tmp_path):
    teacher = tiny.teacher()
    tiny.student(teacher).save(tmp_path / "student")
    loaded = load_flow_policy(tmp_path / "student")
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


def test_the_frozen_part_is_one_module_and_the_trained_part_a_copy(tiny):
    teacher = tiny.teacher()
    student = tiny.student(teacher)
    theirs = dict(teacher.policy.named_parameters())
    trained = {name for name, _ in student.trained()}
    for name, parameter in student.policy.named_parameters():
        assert parameter.device.type == "cpu"
        if name in theirs:
            assert (parameter is theirs[name]) == (name not in trained), name
        else:
            assert name.startswith("model.target_time.")


def test_new_weights_depend_on_nothing_that_was_drawn_before(tiny):
    torch.manual_seed(1)
    first = tiny.student(tiny.teacher()).policy.model.target_time.hidden.weight
    torch.manual_seed(2)
    assert torch.equal(first, tiny.student(tiny.teacher()).policy.model.target_time.hidden.weight)


def test_draws_are_one_call_of_the_expert_over_one_prefix(tiny):
    student = tiny.student(tiny.teacher())
    torch.manual_seed(3)
    torch.nn.init.normal_(student.policy.model.target_time.output.weight, std=0.2)
    batch = tiny.batch(student)
    noise = torch.randn((4, 8, student.chunk_size, student.padded_action_dim))
    calls = {"embed_prefix": 0, "denoise_step": 0}

    def count(name):
        inner = getattr(student.policy.model, name)

        def counted(*arguments, **options):
            calls[name] += 1
            return inner(*arguments, **options)

        setattr(student.policy.model, name, counted)

    for name in calls:
        count(name)
    with torch.no_grad():
        together = student.policy.model.sample_all(student.prepared(batch), noise)[1]
    assert calls == {"embed_prefix": 1, "denoise_step": 1}
    prefix = student.encode_prefix(batch)
    for draw in range(8):
        assert torch.allclose(together[:, draw], student.chunk(prefix, noise[:, draw], 1), atol=1e-5)


def test_folding_changes_nothing(tiny):
    student = tiny.student(tiny.teacher())
    torch.manual_seed(3)
    torch.nn.init.normal_(student.policy.model.target_time.output.weight, std=0.2)
    prefix = student.encode_prefix(tiny.batch(student))
    noise = torch.randn((4, 2, student.chunk_size, student.padded_action_dim))
    with torch.no_grad():
        before = student.jump(prefix, noise)
        student.policy.model.fold()
        assert torch.allclose(student.jump(prefix, noise), before, atol=1e-6)


def test_noise_on_the_state_reaches_the_network(tiny):
    """π0.5 sees its state in the prompt only, so noise must be there before the prompt is written."""
    teacher = tiny.teacher()
    seen = tensors(tiny_smolvla.observations(2))
    quiet, none = teacher.preprocess(dict(seen)), teacher.preprocess(dict(seen), torch.zeros(2, teacher.state_dim))
    loud = teacher.preprocess(dict(seen), torch.full((2, teacher.state_dim), 0.3))
    assert torch.allclose(loud["observation.state"], quiet["observation.state"] + 0.3)
    noise = torch.randn((2, teacher.chunk_size, teacher.padded_action_dim))
    chunks = [teacher.chunk(teacher.encode_prefix(batch), noise, 1) for batch in (quiet, none, loud)]
    assert torch.equal(chunks[0], chunks[1])
    assert not torch.allclose(chunks[0], chunks[2], atol=1e-4)


def test_a_student_with_a_missing_tensor_is_not_loaded_half(tiny, tmp_path):
    """LeRobot's own π0 loader would go on with random weights."""
    from lerobot.policies.factory import get_policy_class
    from safetensors.torch import load_file, save_file

    tiny.student(tiny.teacher()).save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.action_in_proj.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"action_in_proj\.weight"):
        get_policy_class(f"flowstill_{tiny.kind}").from_pretrained(tmp_path)
