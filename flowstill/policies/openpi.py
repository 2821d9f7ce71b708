"""What π0 and π0.5 have in common in LeRobot: both are ports of openpi on PaliGemma."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor

from flowstill.errors import TeacherRejected
from flowstill.policies.lerobot_flow import LeRobotFlow
from flowstill.policies.tensors import Stored

PREFIX = "model."


class OpenPiFlow(LeRobotFlow):
    """A checkpoint of π0 or π0.5. The expert's ``lm_head`` is part of no computation, so it is not trained."""

    steps_option = "num_inference_steps"

    @classmethod
    def adapt_config(cls, config: Any, folder: Path, field: str) -> None:
        """Everything in float32: a student's trained tensors must be, and the rest is cast as it is used."""
        if config.use_relative_actions:
            raise TeacherRejected(
                "use_relative_actions needs the state that a chunk was computed from, which LeRobot's processors lose "
                "when observations come in batches; train the teacher with use_relative_actions=false",
                field=field,
            )
        config.dtype = "float32"
        config.gradient_checkpointing = False

    @classmethod
    def rename(cls, policy: Any, stored: dict[str, Stored]) -> dict[str, Stored]:
        """As LeRobot's loader: openpi's names, the tied embedding, and the prefix that some files lack."""
        known = policy._fix_pytorch_state_dict_keys(stored, policy.config)
        return {name if name.startswith(PREFIX) else PREFIX + name: value for name, value in known.items()}

    def seen(self, batch: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Images in [−1, 1] at the network's size, their masks, tokens and their mask."""
        images, masks = self.policy._preprocess_images(batch)
        return images, masks, batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
