"""The one-step graph in ONNX: preprocessed tensors and noise in, the chosen chunk and every draw out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowstill.errors import FlowstillError
from flowstill.policies.smolvla import SmolVLAFlow

OPSET = 18
OUTPUTS = ("actions", "all_actions", "index", "density")
TOLERANCE = 1e-3


class ExportFailed(FlowstillError):
    """The graph is not the student; a defect, not the user's."""

    reason = "ExportFailed"


class OneStepGraph(nn.Module):  # type: ignore[misc]
    """The student from preprocessed tensors; t = 1 and s = 0 are constants."""

    def __init__(self, student: SmolVLAFlow) -> None:
        super().__init__()
        self.model = student.policy.model
        self.model.fold()

    def forward(
        self, images: list[Tensor], image_masks: list[Tensor], tokens: Tensor, token_mask: Tensor, state: Tensor,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """The chosen chunk, all chunks, the choice and the densities."""
        found: tuple[Tensor, Tensor, Tensor, Tensor] = self.model.sample_all(
            images, image_masks, tokens, token_mask, state, noise
        )
        return found


@dataclass(frozen=True)
class Graph:
    """What was exported. Inputs and outputs as (name, dtype, shape); named dimensions are dynamic."""

    file: Path
    inputs: list[tuple[str, str, list[int | str]]]
    outputs: list[tuple[str, str, list[int | str]]]
    difference: float


def export(student: SmolVLAFlow, batch: dict[str, Any], file: Path) -> Graph:
    """Write the graph and hold it against PyTorch on ``batch`` (at least two preprocessed observations).

    Raises:
        ExportFailed: the largest difference of normalised actions is above 1e-3, or float64 is left in the graph.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    graph = OneStepGraph(student).eval()
    images, masks, tokens, token_mask, state = student.prepared(batch)
    # LeRobot builds the prefix's attention mask from a Python list, so the number of tokens is a constant.
    pad = (0, student.policy.config.tokenizer_max_length - tokens.shape[1])
    tokens, token_mask = nn.functional.pad(tokens, pad), nn.functional.pad(token_mask, pad)
    draws = max(2, student.policy.config.draws)
    noise = torch.randn(
        (len(state), draws, student.chunk_size, student.padded_action_dim),
        generator=torch.Generator().manual_seed(0),
    ).to(student.device)
    arguments = (images, masks, tokens, token_mask, state, noise)
    size, many = torch.export.Dim("batch"), torch.export.Dim("draws")
    names = [f"image_{i}" for i in range(len(images))] + [f"image_mask_{i}" for i in range(len(masks))]
    with torch.no_grad():
        program = torch.onnx.export(
            graph,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=[*names, "tokens", "token_mask", "state", "noise"],
            output_names=list(OUTPUTS),
            dynamic_shapes=(
                [{0: size}] * len(images), [{0: size}] * len(masks), {0: size}, {0: size},
                {0: size}, {0: size, 1: many},
            ),
            verbose=False,
        )  # fmt: skip
        program.save(str(file), external_data=False)
    return _check(graph, arguments, file)


def _check(graph: OneStepGraph, arguments: Any, file: Path) -> Graph:
    import onnx
    import onnxruntime

    model = onnx.load(str(file))
    doubles = [v.name for v in model.graph.initializer if v.data_type == onnx.TensorProto.DOUBLE]
    if doubles:
        raise ExportFailed(f"float64 is left in the graph: {doubles[:3]}")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    difference = 0.0
    for rows, draws in ((slice(None), None), (slice(0, 1), 1)):
        images, masks, tokens, token_mask, state, noise = arguments
        cut = (
            [x[rows] for x in images],
            [x[rows] for x in masks],
            tokens[rows],
            token_mask[rows],
            state[rows],
        )
        part = (*cut, noise[rows, :draws])
        with torch.no_grad():
            expected = graph(*part)
        feeds = dict(zip([i.name for i in model.graph.input], _flat(part), strict=True))
        known = {i.name for i in session.get_inputs()}
        found = session.run(list(OUTPUTS), {n: v for n, v in feeds.items() if n in known})
        difference = max(difference, float(np.abs(found[1] - expected[1].cpu().numpy()).max()))
    if not difference <= TOLERANCE:
        raise ExportFailed(f"graph and PyTorch differ by {difference:.2e} (limit {TOLERANCE}), normalised actions")
    return Graph(file, _describe(model.graph.input), _describe(model.graph.output), difference)


def _flat(arguments: Any) -> list[Any]:
    found = []
    for value in arguments:
        found += [x.cpu().numpy() for x in value] if isinstance(value, list) else [value.cpu().numpy()]
    return found


def _describe(values: Any) -> list[tuple[str, str, list[int | str]]]:
    import onnx

    described = []
    for value in values:
        kind = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        described.append((value.name, str(dtype), shape))
    return described
