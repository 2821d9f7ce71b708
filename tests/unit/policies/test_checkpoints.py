"""A checkpoint that is not what it says is refused, never loaded half."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowstill.errors import TeacherRejected
from flowstill.policies.smolvla import load_smolvla

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
        (lambda t: t[NAME].fill_(float("nan")), f"not finite: {NAME}"),
    ],
)
def test_mismatching_tensors_are_refused(copy, change, said):
    edit_tensors(copy, change)
    with pytest.raises(TeacherRejected, match=said) as caught:
        load_smolvla(copy)
    assert caught.value.field == "spec.teacher"


def test_another_policy_type_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"type": "act"}))
    with pytest.raises(TeacherRejected, match=r"spec\.teacher.*'act'.*smolvla"):
        load_smolvla(copy)


def test_missing_files_are_named(copy):
    (copy / "policy_postprocessor.json").unlink()
    with pytest.raises(TeacherRejected, match=r"lacks policy_postprocessor\.json"):
        load_smolvla(copy)


def test_an_adapter_is_refused_with_the_way_to_merge_it(copy):
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(TeacherRejected, match="merge_and_unload"):
        load_smolvla(copy)


def test_an_unknown_processor_step_is_refused(copy):
    file = copy / "policy_preprocessor.json"
    value = json.loads(file.read_text())
    value["steps"].append({"registry_name": "relative_actions_processor", "config": {}})
    file.write_text(json.dumps(value))
    with pytest.raises(TeacherRejected, match="relative_actions_processor"):
        load_smolvla(copy)


def test_truncated_weights_are_refused(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(TeacherRejected, match="not a readable safetensors"):
        load_smolvla(copy)
