"""A teacher at N steps, or a student, in PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot_policy_flowstill.draws import densest_chunk

from flowstill.errors import UserError
from flowstill.policies.flow import FlowPolicy
from flowstill.policies.interface import Chunks, Floats, Observations, RunnerInfo, camera_size
from flowstill.policies.observed import check_call
from flowstill.policies.registry import load_flow_policy


class TorchRunner:
    """Runs a checkpoint with its own processors.

    Attributes:
        info: what it is.
        flow: the policy.
    """

    def __init__(self, flow: FlowPolicy, *, steps: int, draws: int, neighbours: int, digest: str) -> None:
        if steps > 1 and not flow.multi_step:
            raise UserError(
                "this student was distilled for one step only (mixRatio 1, or refined); run it with steps=1",
                field="steps",
            )
        self.flow, self.neighbours = flow, neighbours
        self.info = RunnerInfo(
            policy_type=flow.policy_type,
            runtime="torch",
            providers=(str(flow.device),),
            steps=steps,
            draws=draws,
            chunk_size=flow.chunk_size,
            action_dim=flow.action_dim,
            padded_action_dim=flow.padded_action_dim,
            action_steps=flow.action_steps,
            state_dim=flow.state_dim,
            cameras=flow.cameras,
            camera_sizes=tuple(camera_size(flow.policy.config.image_features[name].shape) for name in flow.cameras),
            digest=digest,
            renamed=flow.renamed,
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        steps: int | None,
        draws: int | None,
        neighbours: int | None = None,
        device: str,
        threads: int | None,
        digest: str,
    ) -> "TorchRunner":
        """From a checkpoint's folder; a teacher takes its own number of steps, a student one."""
        if threads is not None:
            torch.set_num_threads(threads)
        flow = load_flow_policy(folder, device=device, field="policy")
        return cls(
            flow,
            steps=steps or flow.steps,
            draws=draws or flow.draws,
            neighbours=neighbours or flow.neighbours,
            digest=digest,
        )

    def act(self, observations: Observations, noise_BKHD: Floats) -> Chunks:
        """One chunk an observation; of K draws the densest.

        Raises:
            UserError: the policy does not take this.
        """
        check_call(observations, noise_BKHD, self.info)
        flow, draws = self.flow, self.info.draws
        noise = torch.from_numpy(np.ascontiguousarray(noise_BKHD[:, :draws])).to(flow.device)
        with torch.no_grad():
            prefix = flow.encode_prefix(flow.preprocess(tensors(observations)))
            if flow.is_student and self.info.steps == 1:
                all_BKHD = flow.jump(prefix, noise)
            else:
                many = prefix.repeat(noise.shape[1])
                all_BKHD = flow.chunk(many, noise.flatten(0, 1), self.info.steps).unflatten(0, noise.shape[:2])
            chosen_BHD, index_B, density_BK = densest_chunk(
                all_BKHD,
                action_steps=flow.action_steps,
                action_dim=flow.action_dim,
                neighbours=self.neighbours,
            )
            actions_BHA = flow.unnormalise(chosen_BHD)
        return Chunks(*(x.cpu().numpy() for x in (actions_BHA, chosen_BHD, all_BKHD, index_B, density_BK)))


def tensors(observations: Observations) -> dict[str, Any]:
    """Observations as LeRobot's processors want them: float images (B, 3, h, w) in [0, 1]."""
    batch: dict[str, Any] = {}
    for key, value in observations.items():
        if key == "task":
            batch[key] = list(value)
        elif key.startswith("observation.images.") or key == "observation.image":
            batch[key] = torch.from_numpy(np.ascontiguousarray(value)).permute(0, 3, 1, 2).float() / 255.0
        else:
            batch[key] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    return batch
