"""SmolVLA behind :class:`~flowstill.policies.flow.FlowPolicy`: LeRobot's own class, teacher or student."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from lerobot_policy_flowstill.configuration_flowstill_smolvla import FlowstillSmolVLAConfig
from lerobot_policy_flowstill.modeling_flowstill_smolvla import FlowstillSmolVLAPolicy, write_vlm_folder
from lerobot_policy_flowstill.prefix import Prefix, encode_prefix
from lerobot_policy_flowstill.tokenizer_step import EmbeddedTokenizerStep
from torch import Tensor

from flowstill.errors import UserError
from flowstill.policies import checkpoints
from flowstill.policies.flow import euler

TEACHER_TYPE, STUDENT_TYPE = "smolvla", "flowstill_smolvla"
TRAINED = (
    "model.vlm_with_expert.lm_expert.",
    "model.action_in_proj.",
    "model.action_out_proj.",
    "model.action_time_mlp_in.",
    "model.action_time_mlp_out.",
    "model.target_time.",
)
"""What distillation changes. ``state_proj`` belongs to the prefix here, so it stays with the VLM."""


class SmolVLAFlow:
    """A SmolVLA checkpoint with its own processors.

    Attributes:
        policy: LeRobot's policy.
        preprocessor: from raw observations and actions to the network's.
        postprocessor: from normalised actions to the robot's units.
    """

    def __init__(self, policy: Any, preprocessor: Any, postprocessor: Any) -> None:
        self.policy, self.preprocessor, self.postprocessor = policy.eval(), preprocessor, postprocessor
        self.is_student = isinstance(policy, FlowstillSmolVLAPolicy)
        config = policy.config
        self.chunk_size: int = config.chunk_size
        self.action_steps: int = config.n_action_steps
        self.padded_action_dim: int = config.max_action_dim
        self.action_dim: int = config.action_feature.shape[0]
        self.state_dim: int = config.robot_state_feature.shape[0]
        self.cameras = tuple(k for k in config.image_features if not k.rpartition(".")[2].startswith("empty_camera_"))
        self.device = torch.device(config.device)

    def preprocess(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Raw observations (and actions) through the checkpoint's own processor."""
        return dict(self.preprocessor(dict(batch)))

    def prepared(self, batch: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
        """Images in [−1, 1] at the network's size, their masks, tokens, token mask and padded state."""
        images, masks = self.policy.prepare_images(batch)
        state_BS = self.policy.prepare_state(batch)
        return images, masks, batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK], state_BS

    def prepare_action(self, batch: Mapping[str, Any]) -> Tensor:
        """Normalised actions padded to D."""
        return self.policy.prepare_action(batch)

    def encode_prefix(self, batch: Mapping[str, Any]) -> Prefix:
        """The VLM's part of a preprocessed batch, without gradient."""
        with torch.no_grad():
            return encode_prefix(self.policy.model, *self.prepared(batch))

    def velocity(self, prefix: Prefix, x_t_BHD: Tensor, t_B: Tensor, s_B: Tensor | None = None) -> Tensor:
        """F(x, s, t) by LeRobot's ``denoise_step``, fp32. A teacher knows no s."""
        if s_B is not None and not self.is_student:
            raise ValueError("a teacher has no target time")
        timestep = t_B if s_B is None else torch.stack([t_B, s_B], dim=1)
        return self.policy.model.denoise_step(prefix.pad_mask_BP, prefix.cache(), x_t_BHD, timestep).float()

    def chunk(self, prefix: Prefix, noise_BHD: Tensor, steps: int) -> Tensor:
        """Normalised chunk: a student's jump when ``steps`` is 1, else Euler steps. Without gradient."""
        with torch.no_grad():
            if self.is_student and steps == 1:
                return self.policy.model.jump(prefix, noise_BHD[:, None])[:, 0]
            return euler(self, prefix, noise_BHD, steps)

    def unnormalise(self, chunk_BHD: Tensor) -> Tensor:
        """Real dimensions in the robot's units, on the CPU."""
        return self.postprocessor(chunk_BHD[..., : self.action_dim].float()).cpu()

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """Names and parameters that distillation changes; everything else is frozen by this call."""
        for name, parameter in self.policy.named_parameters():
            parameter.requires_grad_(name.startswith(TRAINED))
            if name.startswith(TRAINED):
                yield name, parameter

    def save(self, folder: Path) -> None:
        """Write a checkpoint that LeRobot loads from anywhere, offline."""
        if not self.is_student:
            raise ValueError("only students are saved")
        folder.mkdir(parents=True, exist_ok=True)
        self.policy.save_pretrained(folder)
        self.preprocessor.save_pretrained(folder)
        self.postprocessor.save_pretrained(folder)


def load_smolvla(folder: Path, *, device: str = "cpu", field: str = "spec.teacher") -> SmolVLAFlow:
    """A teacher's or a student's checkpoint, every tensor checked.

    Raises:
        TeacherRejected: naming ``field``, what is wrong and what to do.
    """
    kind = checkpoints.check_folder(folder, {TEACHER_TYPE, STUDENT_TYPE}, field)
    config = checkpoints.read_config(folder, device, field)
    policy = checkpoints.build(SmolVLAPolicy if kind == TEACHER_TYPE else FlowstillSmolVLAPolicy, config, field)
    checkpoints.load_tensors(policy, folder / checkpoints.WEIGHTS, field)
    policy.to(device).requires_grad_(False)
    return SmolVLAFlow(policy, *checkpoints.load_processors(folder, config, field))


def make_student(
    teacher: SmolVLAFlow, *, draws: int, neighbours: int, action_steps: int | None, multi_step: bool
) -> SmolVLAFlow:
    """A student that starts as its teacher. The frozen VLM is one module, shared by both.

    Raises:
        UserError: ``action_steps`` is longer than the chunk.
    """
    steps = action_steps or teacher.action_steps
    if steps > teacher.chunk_size:
        raise UserError(
            f"{steps} is more than the teacher's chunk of {teacher.chunk_size} steps",
            field="spec.student.actionSteps",
        )
    values = {f.name: copy.deepcopy(getattr(teacher.policy.config, f.name)) for f in fields(SmolVLAConfig) if f.init}
    values.update(n_action_steps=steps, num_steps=1, draws=draws, draw_neighbours=neighbours, multi_step=multi_step)
    policy = FlowstillSmolVLAPolicy(FlowstillSmolVLAConfig(**values))
    absent, unexpected = policy.load_state_dict(teacher.policy.state_dict(), strict=False)
    if unexpected or any(not name.startswith("model.target_time.") for name in absent):
        raise RuntimeError(f"student and teacher do not match: {absent} {unexpected}")
    policy.model.vlm_with_expert.vlm = teacher.policy.model.vlm_with_expert.vlm
    policy.model.state_proj = teacher.policy.model.state_proj
    policy.to(teacher.device)
    return SmolVLAFlow(policy, _embed_tokenizer(teacher.preprocessor), copy.deepcopy(teacher.postprocessor))


def _embed_tokenizer(preprocessor: Any) -> Any:
    """The same pipeline with a tokenizer step that needs no path."""
    steps = [
        EmbeddedTokenizerStep.like(s) if getattr(type(s), "_registry_name", "") == "tokenizer_processor" else s
        for s in preprocessor.steps
    ]
    return type(preprocessor)(
        steps=steps,
        name=preprocessor.name,
        to_transition=preprocessor.to_transition,
        to_output=preprocessor.to_output,
    )


__all__ = ["STUDENT_TYPE", "TEACHER_TYPE", "SmolVLAFlow", "load_smolvla", "make_student", "write_vlm_folder"]
