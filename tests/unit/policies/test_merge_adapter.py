"""A PEFT adapter of LeRobot becomes a teacher, or what is missing is said."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowstill.errors import TeacherRejected
from flowstill.policies import merge_adapter
from flowstill.policies.registry import load_flow_policy
from flowstill.policies.torch_runner import tensors
from tests.support import tiny_smolvla


@pytest.fixture
def adapter(tmp_path):
    """What LeRobot's training leaves behind, but for the adapter's weights."""
    base = tiny_smolvla.write_teacher(tmp_path / "base")
    folder = tmp_path / "adapter"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("model.safetensors", "vlm"))
    (folder / "adapter_config.json").write_text(json.dumps({merge_adapter.BASE: str(base)}))
    return folder


@pytest.fixture
def installed(monkeypatch):
    """As where peft is; nothing here gets as far as using it."""
    monkeypatch.setattr(merge_adapter, "import_peft", object)


def test_an_adapter_is_refused_with_a_command_that_a_shell_takes(tmp_path):
    folder = tmp_path / "my adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(TeacherRejected, match="PEFT adapter") as caught:
        load_flow_policy(folder)
    assert str(caught.value).endswith(f"python -m flowstill.policies.merge_adapter '{folder}' MERGED")


def test_without_peft_it_says_what_to_install(adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert merge_adapter.main([str(adapter), str(tmp_path / "merged")]) == 65
    assert "pip install 'peft<1'" in capsys.readouterr().err


def test_a_base_that_is_not_here_must_be_given(installed, adapter, tmp_path):
    (adapter / "adapter_config.json").write_text(json.dumps({merge_adapter.BASE: "lerobot/smolvla_base"}))
    with pytest.raises(
        TeacherRejected, match=r"base: .*'lerobot/smolvla_base' is no folder.*hf download lerobot/smolvla_base"
    ):
        merge_adapter.merge(adapter, tmp_path / "merged")
    with pytest.raises(TeacherRejected, match=r"base: .* is no folder with model\.safetensors here"):
        merge_adapter.merge(adapter, tmp_path / "merged", base=adapter)  # a folder, and no whole policy


def test_a_whole_policy_is_no_adapter(installed, adapter, tmp_path):
    with pytest.raises(TeacherRejected, match=r"adapter: .*base has no adapter_config\.json, so it is no adapter"):
        merge_adapter.merge(tmp_path / "base", tmp_path / "merged")


def test_processors_that_are_missing_are_named(installed, adapter, tmp_path):
    (adapter / "policy_postprocessor.json").unlink()
    with pytest.raises(TeacherRejected, match=r"adapter: .*lacks policy_postprocessor\.json"):
        merge_adapter.merge(adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_half(installed, adapter, tmp_path, monkeypatch, error):
    def fail(*_):
        assert (tmp_path / "merged" / "model.safetensors").exists()
        raise error

    monkeypatch.setattr(merge_adapter, "write_merged", fail)
    with pytest.raises(error):
        merge_adapter.merge(adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert (adapter / "adapter_config.json").exists()


def test_folders_are_the_adapters_own_or_those_of_its_base(adapter, tmp_path):
    base = tmp_path / "base"
    for place, folder in ((adapter, "vlm"), (base, "tokenizer")):
        (place / folder).mkdir()
        (place / folder / "mark").write_text(place.name)
    merge_adapter.collect(adapter, base, tmp_path / "merged")
    assert (tmp_path / "merged" / "vlm" / "mark").read_text() == "adapter"
    assert (tmp_path / "merged" / "tokenizer" / "mark").read_text() == "base"


def test_nothing_is_overwritten(installed, adapter):
    with pytest.raises(TeacherRejected, match=r"merged: .*exists already"):
        merge_adapter.merge(adapter, adapter)
    assert (adapter / "adapter_config.json").exists()


def of_its_own(adapter):
    """Statistics and options that are not its base's, and a base that was on another machine."""
    for path in adapter.glob("policy_*normalizer*.safetensors"):
        stats = {name: value + 1 if name.endswith(".mean") else value for name, value in load_file(path).items()}
        save_file(stats, path)
    for name, values in (
        ("config.json", {"n_action_steps": tiny_smolvla.EXECUTED - 1}),
        ("adapter_config.json", {merge_adapter.BASE: "/elsewhere/base"}),
    ):
        text = json.loads((adapter / name).read_text())
        (adapter / name).write_text(json.dumps(text | values))


def test_a_merged_adapter_is_a_teacher(tmp_path):
    """LeRobot's own wrapping and saving."""
    import peft
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    base, adapter, merged = tiny_smolvla.write_teacher(tmp_path / "base"), tmp_path / "adapter", tmp_path / "merged"
    config = PreTrainedConfig.from_pretrained(base)
    config.vlm_model_name, config.pretrained_path = str(base / "vlm"), base
    policy = get_policy_class(config.type).from_pretrained(base, config=config)
    wrapped = policy.wrap_with_peft(peft_cli_overrides={"r": 4})
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    for part in (wrapped, wrapped.config):  # the order of lerobot.common.train_utils.save_checkpoint
        part.save_pretrained(adapter)
    for file in base.glob("policy_*"):
        shutil.copy2(file, adapter)
    of_its_own(adapter)

    with pytest.raises(TeacherRejected, match=f"merge_adapter {adapter} MERGED"):
        load_flow_policy(adapter)
    assert merge_adapter.main([str(adapter), str(merged), "--base", str(base)]) == 0
    assert (
        json.loads((merged / "config.json").read_text()).items() >= {"use_peft": False, "pretrained_path": None}.items()
    )
    for file in adapter.glob("policy_*"):
        assert (merged / file.name).read_bytes() == file.read_bytes(), file.name
    assert load_file(merged / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    seen, noise = tensors(tiny_smolvla.observations(2)), torch.randn(2, tiny_smolvla.CHUNK, tiny_smolvla.PADDED)
    teacher, old = load_flow_policy(merged), load_flow_policy(base)
    assert (teacher.action_steps, old.action_steps) == (tiny_smolvla.EXECUTED - 1, tiny_smolvla.EXECUTED)
    batch = teacher.preprocess(seen)
    assert not torch.allclose(batch["observation.state"], old.preprocess(seen)["observation.state"], atol=0.1)
    found, before = (flow.policy.predict_action_chunk(batch, noise=noise) for flow in (teacher, old))
    assert isinstance(wrapped, peft.PeftModel)
    with torch.no_grad():
        expected = wrapped.base_model.model.eval().predict_action_chunk(batch, noise=noise)
    assert np.allclose(found.numpy(), expected.numpy(), atol=1e-5)
    assert (found - before).abs().max() > 1e-2
