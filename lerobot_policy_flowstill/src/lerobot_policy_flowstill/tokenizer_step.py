"""A tokenizer step that carries its tokenizer, so that saved processors load anywhere, offline."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.processor import ProcessorStepRegistry, TokenizerProcessorStep
from tokenizers import Tokenizer  # type: ignore[import-untyped]
from torch import Tensor
from transformers import PreTrainedTokenizerFast


@dataclass
@ProcessorStepRegistry.register(name="flowstill_tokenizer")
class EmbeddedTokenizerStep(TokenizerProcessorStep):  # type: ignore[misc]
    """LeRobot's tokenizer step with the bytes of ``tokenizer.json`` as its state.

    LeRobot resolves a tokenizer's name against the working directory or the Hub; a name inside the
    checkpoint's folder is neither. A step's state, however, lies beside the processor's JSON and moves with it.
    """

    pad_token: str | None = None
    _serialized: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """The tokenizer comes with the state."""
        if self.tokenizer is not None:
            self.embed(self.tokenizer)

    def embed(self, tokenizer: Any) -> None:
        """Use ``tokenizer``, a fast one, and keep its bytes."""
        text = tokenizer.backend_tokenizer.to_str()
        self._serialized = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).clone()
        self.pad_token = tokenizer.pad_token
        self.tokenizer = self.input_tokenizer = tokenizer

    @classmethod
    def like(cls, step: TokenizerProcessorStep) -> "EmbeddedTokenizerStep":
        """The same tokenization as ``step``."""
        return cls(
            tokenizer=step.input_tokenizer,
            max_length=step.max_length,
            task_key=step.task_key,
            padding_side=step.padding_side,
            padding=step.padding,
            truncation=step.truncation,
        )

    def get_config(self) -> dict[str, Any]:
        """Everything but the tokenizer itself."""
        return {**super().get_config(), "pad_token": self.pad_token}

    def state_dict(self) -> dict[str, Tensor]:
        """The bytes of ``tokenizer.json``."""
        if self._serialized is None:
            raise ValueError("the tokenizer step has no tokenizer yet: load its state first")
        return {"tokenizer_json": self._serialized}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Rebuild the tokenizer from its bytes."""
        self._serialized = state["tokenizer_json"].cpu()
        backend = Tokenizer.from_str(bytes(self._serialized.numpy()).decode())
        self.tokenizer = self.input_tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token=self.pad_token
        )


def embed_tokenizer(pipeline: Any) -> Any:
    """The same pipeline with a tokenizer step that needs no path."""
    steps = [
        EmbeddedTokenizerStep.like(step) if type(step) is TokenizerProcessorStep else step for step in pipeline.steps
    ]
    return with_steps(pipeline, steps)


def with_steps(pipeline: Any, steps: Sequence[Any]) -> Any:
    """LeRobot's pipeline with other steps."""
    return type(pipeline)(
        steps=list(steps), name=pipeline.name, to_transition=pipeline.to_transition, to_output=pipeline.to_output
    )
