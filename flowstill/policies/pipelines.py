"""What is done to a checkpoint's own processors beside running them."""

from dataclasses import dataclass
from typing import Any

from lerobot.processor import (
    NormalizerProcessorStep,
    ObservationProcessorStep,
    RenameObservationsProcessorStep,
    TokenizerProcessorStep,
)
from lerobot_policy_flowstill.tokenizer_step import with_steps
from torch import Tensor

from flowstill.policies.interface import STATE


@dataclass
class AddStateNoise(ObservationProcessorStep):  # type: ignore[misc]
    """Noise on the normalised state, before anything reads it: π0.5 writes the state into its prompt."""

    noise_BS: Tensor

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Add it."""
        state_BS = observation[STATE]
        return observation | {STATE: state_BS + self.noise_BS.to(state_BS.device)}

    def transform_features(self, features: Any) -> Any:
        """Nothing changes."""
        return features


def with_state_noise(pipeline: Any, noise_BS: Tensor) -> Any:
    """The pipeline with noise on the state, right after it is normalised."""
    steps = list(pipeline.steps)
    place = next(i for i, step in enumerate(steps) if isinstance(step, NormalizerProcessorStep))
    return with_steps(pipeline, [*steps[: place + 1], AddStateNoise(noise_BS), *steps[place + 1 :]])


def rename_map(pipeline: Any) -> dict[str, str]:
    """The names that the pipeline gives to what it sees."""
    maps = [step.rename_map for step in pipeline.steps if isinstance(step, RenameObservationsProcessorStep)]
    return {old: new for names in maps for old, new in names.items()}


def statistics(pipeline: Any) -> set[str]:
    """Names of the features that the pipeline's normaliser has statistics of."""
    return {name for step in pipeline.steps if isinstance(step, NormalizerProcessorStep) for name in step.stats or {}}


def tokenizer_step(pipeline: Any) -> Any:
    """The step that makes tokens."""
    return next(step for step in pipeline.steps if isinstance(step, TokenizerProcessorStep))
