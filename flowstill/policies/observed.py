"""Observations that a policy does not take are refused: a robot would act on what it makes of them."""

from typing import Any

import numpy as np

from flowstill.errors import UserError
from flowstill.policies.interface import IMAGE, STATE, TASK, Floats, Observations, RunnerInfo

FIELD = "observations"


def check_call(observations: Observations, noise_BKHD: Floats, info: RunnerInfo) -> None:
    """That everything is there, in the shapes and types that a runner takes.

    Args:
        observations: as they were given.
        noise_BKHD: of the policy's draws, or of more.
        info: of the policy.

    Raises:
        UserError: it is not, with the name and what is wanted.
    """
    named = {info.renamed.get(name, name): (name, value) for name, value in observations.items()}
    wanted = (STATE, *info.cameras, TASK)
    missing = [name for name in wanted if name not in named]
    if missing:
        raise UserError(
            f"no {', '.join(missing)}; there is {', '.join(sorted(observations)) or 'nothing'}, and the policy takes "
            f"{', '.join(wanted)}",
            field=FIELD,
        )
    noise = (len(noise_BKHD), info.draws, info.chunk_size, info.padded_action_dim)
    given = np.shape(noise_BKHD)
    if len(given) != 4 or given[1] < info.draws or given[2:] != noise[2:]:
        raise UserError(f"shape {given}, and the policy takes (B, {noise[1]}, {noise[2]}, {noise[3]})", field="noise")
    for policys, (name, value) in named.items():
        _check_one(policys, name, value, noise[0], info)


def _check_one(policys: str, name: str, value: Any, batch: int, info: RunnerInfo) -> None:
    if policys == TASK:
        if isinstance(value, str) or len(value) != batch:
            raise UserError(f"{name}: give a list of sentences, as many as the noise has rows ({batch})", field=FIELD)
    elif policys == STATE:
        if np.shape(value) != (batch, info.state_dim):
            raise UserError(
                f"{name} has shape {np.shape(value)}, and the policy takes ({batch}, {info.state_dim}), as many rows "
                "as the noise has",
                field=FIELD,
            )
    elif policys.startswith(IMAGE):
        pixels = np.asarray(value)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or (len(pixels), pixels.shape[3]) != (batch, 3):
            raise UserError(
                f"{name} is {pixels.dtype} of shape {pixels.shape}, and the policy takes uint8, 0 to 255, of shape "
                f"({batch}, height, width, 3)",
                field=FIELD,
            )
