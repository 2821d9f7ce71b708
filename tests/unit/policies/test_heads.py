"""Language models' heads compute no action: they are in no teacher's memory and in no student's file."""

from __future__ import annotations

import pytest
import torch
from lerobot_policy_flowstill.heads import HEAD, drop_heads, without_heads
from safetensors.torch import load_file, save_file
from torch import nn

from flowstill.policies.registry import load_flow_policy


def heads(names):
    return sorted(name for name in names if f".{HEAD}." in name)


def test_only_a_teachers_file_has_heads(tiny, tmp_path):
    stored = load_file(tiny.teacher_folder / "model.safetensors")
    assert heads(stored)
    teacher = tiny.teacher()
    assert not heads(teacher.policy.state_dict())
    tiny.student(teacher).save(tmp_path)
    assert not heads(load_file(tmp_path / "model.safetensors"))


def test_a_student_with_heads_in_its_file_loads_in_lerobot_and_here(tiny, tmp_path):
    """As Flowstill wrote them before it left heads out."""
    from lerobot.policies.factory import get_policy_class

    student = tiny.student(tiny.teacher())
    student.save(tmp_path)
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(tiny.teacher_folder / "model.safetensors")
    save_file(ours | {name: theirs[name] for name in heads(theirs)}, tmp_path / "model.safetensors")
    for policy in (
        load_flow_policy(tmp_path).policy,
        get_policy_class(f"flowstill_{tiny.kind}").from_pretrained(tmp_path),
    ):
        assert policy.state_dict().keys() == student.policy.state_dict().keys()
        assert all(torch.equal(value, ours[name]) for name, value in policy.state_dict().items() if name in ours)


class Model(nn.Module):
    def __init__(self, *, tied):
        super().__init__()
        self.embed_tokens, self.lm_head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_the_embedding_stays(tied):
    """It takes no memory, and a file may have the tensor by the head's name only."""
    network = nn.Sequential(Model(tied=tied))
    stored = dict(network.state_dict())
    drop_heads(network)
    assert ("0.lm_head.weight" in network.state_dict()) == tied
    assert ("0.lm_head.weight" in without_heads(network, stored)) == tied
    assert "0.embed_tokens.weight" in without_heads(network, stored)
