"""The one-step graph in ONNX: preprocessed tensors and noise in, the chosen chunk and every draw out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot_policy_flowstill.prefix import Prepared
from torch import Tensor, nn

from flowstill.artifacts.manifest import GraphParity
from flowstill.errors import FlowstillError
from flowstill.policies.flow import FlowPolicy

OPSET = 18
OUTPUTS = ("actions", "all_actions", "index", "density")
TOLERANCE = 1e-3
EXAMPLES = 2
"""Observations that the graph is traced with; 1 would become a constant."""
CHECKED = 8
"""Largest batch on which the graph is held against PyTorch."""
INLINE = 2**30
"""Bytes of weights up to which a graph is one file; protobuf ends at 2 GiB."""

Inputs = dict[str, Tensor]


class ExportFailed(FlowstillError):
    """The graph is not the student; a defect, not the user's."""

    reason = "ExportFailed"


class OneStepGraph(nn.Module):  # type: ignore[misc]
    """The student from preprocessed tensors; t = 1 and s = 0 are constants."""

    def __init__(self, student: FlowPolicy) -> None:
        super().__init__()
        self.model = student.policy.model
        self.model.fold()

    def forward(self, observation: Inputs, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The chosen chunk, all chunks, the choice and the densities."""
        found: tuple[Tensor, Tensor, Tensor, Tensor] = self.model.sample_all(Prepared.of(observation), noise)
        return found


@dataclass(frozen=True)
class Graph:
    """What was exported. Inputs and outputs as (name, dtype, shape); named dimensions are dynamic."""

    file: Path
    inputs: list[tuple[str, str, list[int | str]]]
    outputs: list[tuple[str, str, list[int | str]]]
    parity: list[GraphParity]

    @property
    def difference(self) -> float:
        """The largest difference to PyTorch that was seen."""
        return max(parity.difference for parity in self.parity)


def export(student: FlowPolicy, batch: dict[str, Any], file: Path) -> Graph:
    """Write the graph and hold it against PyTorch on ``batch``, eight preprocessed observations.

    Raises:
        ExportFailed: normalised actions differ by more than 1e-3, or float64 is left in the graph.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    graph = OneStepGraph(student).eval()
    # LeRobot builds the prefix's attention mask from a Python list, so the number of tokens is a constant.
    observation = student.prepared(batch).padded_to(student.token_length).named()
    shape = (student.chunk_size, student.padded_action_dim)
    example = {name: value[:EXAMPLES] for name, value in observation.items()}
    noise = torch.zeros((EXAMPLES, max(2, student.draws), *shape), device=student.device)
    size, many = torch.export.Dim("batch"), torch.export.Dim("draws")
    with torch.no_grad():
        program = torch.onnx.export(
            graph,
            (example, noise),
            dynamo=True,
            opset_version=OPSET,
            input_names=[*example, "noise"],
            output_names=list(OUTPUTS),
            dynamic_shapes=({name: {0: size} for name in example}, {0: size, 1: many}),
            verbose=False,
        )
        weights = sum(p.numel() * p.element_size() for p in graph.parameters())
        program.save(str(file), external_data=weights > INLINE)
    return _check(graph, observation, (student.draws, *shape), file)


def _check(graph: OneStepGraph, observation: Inputs, shape: tuple[int, int, int], file: Path) -> Graph:
    import onnx
    import onnxruntime

    model = onnx.load(str(file), load_external_data=False)
    doubles = sorted(set(float64_values(model)))
    if doubles:
        raise ExportFailed(f"float64 is left in the graph: {', '.join(doubles[:3])} ({len(doubles)} in all)")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    used = {i.name for i in session.get_inputs()}
    parity = []
    for batch, draws in [(1, 1), *((batch, shape[0]) for batch in range(1, CHECKED + 1))]:
        part = {name: value[:batch] for name, value in observation.items()}
        noise = torch.randn((batch, draws, *shape[1:]), generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = graph(part, noise.to(part["tokens"].device))[1].cpu().numpy()
        feeds = {name: value.cpu().numpy() for name, value in (part | {"noise": noise}).items() if name in used}
        found = session.run(["all_actions"], feeds)[0]
        parity.append(GraphParity(batch=batch, draws=draws, difference=float(np.abs(found - expected).max())))
    checked = Graph(file, _describe(model.graph.input), _describe(model.graph.output), parity)
    if not checked.difference <= TOLERANCE:
        raise ExportFailed(
            f"graph and PyTorch differ by {checked.difference:.2e} (limit {TOLERANCE}), normalised actions"
        )
    return checked


def float64_values(model: Any) -> Iterator[str]:
    """Names of the values of a graph that are float64, which TensorRT and others refuse."""
    import onnx

    double = onnx.TensorProto.DOUBLE
    graph = model.graph
    yield from (value.name for value in graph.initializer if value.data_type == double)
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type == double:
            yield value.name
    for node in graph.node:
        casts = node.op_type == "Cast" and any(a.name == "to" and a.i == double for a in node.attribute)
        if casts or any(a.type == onnx.AttributeProto.TENSOR and a.t.data_type == double for a in node.attribute):
            yield node.output[0]


def _describe(values: Any) -> list[tuple[str, str, list[int | str]]]:
    import onnx

    described = []
    for value in values:
        kind = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        described.append((value.name, str(dtype), shape))
    return described
