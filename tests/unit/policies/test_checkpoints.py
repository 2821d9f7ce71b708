"""A checkpoint that is not what it says is refused, never loaded half."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowstill.errors import TeacherRejected
from flowstill.policies.registry import TEACHERS, load_flow_policy
from flowstill.policies.tensors import Stored, mismatches
from tests.support import tiny_openpi, tiny_smolvla

NAME = "model.action_in_proj.weight"


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny.teacher_folder, tmp_path / "teacher")


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(NAME), f"missing: {NAME}"),
        (lambda t: t.update({"model.stranger": torch.ones(1)}), "unexpected: model.stranger"),
        (lambda t: t.update({NAME: t[NAME][:, :-1].contiguous()}), f"another shape: {NAME}"),
        (lambda t: t.update({NAME: t[NAME].to(torch.int32)}), f"another kind: {NAME}"),
        (lambda t: t[NAME].fill_(float("nan")), f"not finite: {NAME}"),
    ],
)
def test_mismatching_tensors_are_refused(copy, change, said):
    edit_tensors(copy, change)
    with pytest.raises(TeacherRejected, match=said) as caught:
        load_flow_policy(copy)
    assert caught.value.field == "spec.teacher"


def test_another_policy_type_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"type": "act"}))
    with pytest.raises(TeacherRejected, match=r"spec\.teacher.*'act'.* of type pi0, pi05, smolvla$"):
        load_flow_policy(copy)


def test_missing_files_are_named(copy):
    (copy / "policy_postprocessor.json").unlink()
    with pytest.raises(TeacherRejected, match=r"lacks policy_postprocessor\.json"):
        load_flow_policy(copy)


def test_a_policy_of_an_older_lerobot_is_refused_with_the_way_to_migrate_it(copy):
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        (copy / name).unlink()
    with pytest.raises(
        TeacherRejected, match=r"migrate_policy_normalization --pretrained-path \S+teacher --output-dir"
    ):
        load_flow_policy(copy)


def test_an_adapter_is_refused_with_the_way_to_merge_it(copy):
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(TeacherRejected, match=r"python -m flowstill\.policies\.merge_adapter \S+ MERGED"):
        load_flow_policy(copy)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"registry_name": "crop_processor", "config": {}}, "crop_processor.*cannot be reproduced"),
        ({"registry_name": "relative_actions_processor", "config": {"enabled": True}}, "use_relative_actions=false"),
    ],
)
def test_a_processor_step_that_cannot_be_reproduced_is_refused(copy, step, said):
    file = copy / "policy_preprocessor.json"
    value = json.loads(file.read_text())
    value["steps"].append(step)
    file.write_text(json.dumps(value))
    with pytest.raises(TeacherRejected, match=said):
        load_flow_policy(copy)


def test_truncated_weights_are_refused(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(TeacherRejected, match=r"not a readable safetensors.*copy the checkpoint again"):
        load_flow_policy(copy)


def test_half_precision_weights_are_cast_and_said(copy, caplog):
    before = load_flow_policy(copy).policy.state_dict()[NAME]
    edit_tensors(copy, lambda t: t.update({NAME: t[NAME].to(torch.bfloat16)}))
    with caplog.at_level("INFO", "flowstill"):
        after = load_flow_policy(copy).policy.state_dict()[NAME]
    assert after.dtype == torch.float32
    assert torch.equal(after, before.to(torch.bfloat16).float())
    assert "1 tensors" in caplog.text


def test_a_tokenizer_that_is_nowhere_is_said(copy, monkeypatch):
    shutil.rmtree(copy / "vlm", ignore_errors=True)
    shutil.rmtree(copy / "tokenizer", ignore_errors=True)
    with pytest.raises(TeacherRejected, match=r"folder 'vlm' beside config\.json|--local-dir tokenizer$"):
        load_flow_policy(copy)


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
def test_a_vlm_of_the_hub_is_said_with_the_command_that_puts_it_into_the_checkpoint(copy):
    """What LeRobot saves names its VLM and does not hold it."""
    shutil.rmtree(copy / "vlm")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"vlm_model_name": "HuggingFaceTB/SmolVLM2"}))
    with pytest.raises(
        TeacherRejected, match=r"hf download HuggingFaceTB/SmolVLM2 --include '\*\.json' --local-dir vlm$"
    ):
        load_flow_policy(copy)


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
@pytest.mark.parametrize("missing", ["config.json", "tokenizer*", "processor_config.json"])
def test_half_a_vlm_is_refused(copy, missing):
    for file in (copy / "vlm").glob(missing):
        file.unlink()
    with pytest.raises(
        TeacherRejected, match=r"the VLM cannot be built from .*/vlm .*it needs config\.json, tokenizer"
    ):
        load_flow_policy(copy)


@pytest.mark.parametrize("tiny", ["pi0"], indirect=True)
def test_statistics_that_are_not_whole_do_not_ask_for_a_tokenizer(copy):
    next(copy.glob("policy_preprocessor_*normalizer*")).unlink()
    with pytest.raises(TeacherRejected, match=r"do not load .*copy the checkpoint again"):
        load_flow_policy(copy)


HEAD = "model.paligemma_with_expert.paligemma.lm_head.weight"
EMBEDDING = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"


def as_published(names):
    """lerobot/pi0_base and pi05_base: openpi's names, no prefix, and the tied embedding stored as the head only."""
    return {name.removeprefix("model."): value for name, value in names.items() if name != EMBEDDING}


@pytest.mark.parametrize("tiny", ["pi0", "pi05"], indirect=True)
def test_openpi_weights_load_as_they_are_published(copy, tiny):
    tensors = load_file(copy / "model.safetensors")
    save_file(as_published(tensors), copy / "model.safetensors")
    loaded = load_flow_policy(copy).policy.state_dict()
    assert torch.equal(loaded[EMBEDDING], tensors[HEAD])
    others = {name: value for name, value in tensors.items() if "lm_head" not in name and name != EMBEDDING}
    assert all(torch.equal(loaded[name], value) for name, value in others.items())


def part(name):
    """What a tensor belongs to that only a student has, or only a teacher; else its name."""
    return next((each for each in ("target_time", "lm_head") if f".{each}." in name), name)


def full_size(kind):
    """As LeRobot builds it, without memory."""
    from lerobot.policies.factory import get_policy_class, make_policy_config

    config = make_policy_config(kind, device="cpu")
    config.device = "meta"
    with tiny_openpi.full_size(), torch.device("meta"):
        return get_policy_class(kind)(config)


@pytest.mark.parametrize(("kind", "count"), [("pi0", 777), ("pi05", 812)])
def test_full_size_openpi_checkpoints_are_covered(kind, count):
    """777 is what LeRobot's loader says of lerobot/pi0_base (its issue 3109)."""
    policy, student = full_size(kind), full_size(f"flowstill_{kind}")
    assert sum(p.numel() for p in policy.parameters()) > 4e9 > 3.4e9 > sum(p.numel() for p in student.parameters())
    assert {part(n) for n in student.state_dict().keys() ^ policy.state_dict().keys()} == {"target_time", "lm_head"}
    whole = {name: Stored(name, tuple(value.shape), "F32") for name, value in policy.state_dict().items()}
    published = as_published(whole)
    assert len(published) == count
    rename = TEACHERS[kind]().rename
    assert not any(mismatches(policy, rename(policy, dict(published))).values())
    assert not any(mismatches(policy, rename(policy, whole)).values())
    published.pop("action_in_proj.bias")
    assert mismatches(policy, rename(policy, published))["missing"] == ["model.action_in_proj.bias"]


def test_full_size_smolvla_checkpoints_are_covered(tmp_path):
    """The expert's shapes are those that LeRobot's pull request 1256 names of lerobot/smolvla_base."""
    from lerobot.policies.factory import get_policy_class, make_policy_config

    tiny_smolvla.write_vlm_folder(tmp_path)
    tiny_smolvla.enlarge_vlm(tmp_path / "config.json")

    def build(kind):
        config = make_policy_config(kind, device="cpu", vlm_model_name=str(tmp_path), load_vlm_weights=False)
        config.device = "meta"
        with torch.device("meta"):
            return get_policy_class(kind)(config)

    policy, student = build("smolvla"), build("flowstill_smolvla")
    assert sum(p.numel() for p in policy.parameters()) == pytest.approx(450e6, rel=0.01)
    assert {part(n) for n in student.state_dict().keys() ^ policy.state_dict().keys()} == {"target_time", "lm_head"}
    stored = {name: Stored(name, tuple(value.shape), "F32") for name, value in policy.state_dict().items()}
    expert = "model.vlm_with_expert.lm_expert.layers.1."
    assert stored[f"{expert}mlp.gate_proj.weight"].shape == (2048, 720)
    assert stored[f"{expert}post_attention_layernorm.weight"].shape == (720,)
    assert not any(mismatches(policy, TEACHERS["smolvla"]().rename(policy, dict(stored))).values())
    stored.pop("model.action_in_proj.bias")
    assert mismatches(policy, TEACHERS["smolvla"]().rename(policy, stored))["missing"] == ["model.action_in_proj.bias"]


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
def test_a_vlm_whose_config_names_bfloat16_is_computed_and_trained_in_float32(copy, tiny, tmp_path):
    path = copy / "vlm" / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "bfloat16"
    path.write_text(json.dumps(config))
    student = tiny.student(load_flow_policy(copy))
    student.save(tmp_path / "policy")
    loaded = load_flow_policy(tmp_path / "policy")
    plugin = type(loaded.policy).from_pretrained(tmp_path / "policy")
    for network in (student.policy, loaded.policy, plugin):
        assert {value.dtype for value in network.parameters()} == {torch.float32}
    stored = load_file(tiny.teacher_folder / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in plugin.state_dict().items() if name in stored)
