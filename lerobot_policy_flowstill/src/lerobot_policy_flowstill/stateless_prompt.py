"""π0.5's prompt without the state, for a student that gets its state as a token of its own."""

from dataclasses import dataclass
from typing import Any

from lerobot.processor import ComplementaryDataProcessorStep, ProcessorStepRegistry


def stateless_prompt(task: str) -> str:
    """π0.5's own form of an instruction."""
    cleaned = task.strip().replace("_", " ").replace("\n", " ")
    return f"Task: {cleaned};\nAction: "


@dataclass
@ProcessorStepRegistry.register(name="flowstill_stateless_prompt")
class StatelessPromptStep(ComplementaryDataProcessorStep):  # type: ignore[misc]
    """Takes the place of π0.5's step that writes the state into the prompt."""

    def complementary_data(self, complementary_data: dict[str, Any]) -> dict[str, Any]:
        """Instructions become prompts that do not change with the state."""
        return complementary_data | {"task": [stateless_prompt(task) for task in complementary_data["task"]]}

    def get_config(self) -> dict[str, Any]:
        """It has no options."""
        return {}

    def transform_features(self, features: Any) -> Any:
        """Nothing changes."""
        return features
