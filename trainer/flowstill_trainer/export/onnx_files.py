"""Writing one graph, and reading what is in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from flowstill_trainer.export.precision import ExportFailed
from flowstill_trainer.export.products import Products, products_in

OPSET = 18
INLINE = 2**30
"""Bytes of weights up to which a graph is one file; protobuf ends at 2 GiB."""

Described = list[tuple[str, str, list[int | str]]]


@dataclass(frozen=True)
class Example:
    """What a graph is traced with.

    Attributes:
        named: the tensors of its first argument.
        noise: its second argument; None for a graph without one.
        outputs: names of what it returns.
    """

    named: dict[str, Tensor]
    noise: Tensor | None
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """A graph on disk. Inputs and outputs as (name, dtype, shape); named dimensions are dynamic."""

    file: Path
    inputs: Described
    outputs: Described


def write(graph: nn.Module, example: Example, file: Path, products: Products) -> Written:
    """Trace a graph of a student's ``model`` with batch and draws dynamic, and write it.

    Raises:
        ExportFailed: float64 is left in the graph, or an input or output that is float is not float32.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    size, many = torch.export.Dim("batch"), torch.export.Dim("draws")
    arguments: tuple[Any, ...] = (example.named,)
    shapes: tuple[Any, ...] = ({name: {0: size} for name in example.named},)
    names = list(example.named)
    if example.noise is not None:
        arguments, shapes, names = (*arguments, example.noise), (*shapes, {0: size, 1: many}), [*names, "noise"]
    with torch.no_grad(), products_in(graph.model, products):
        program = torch.onnx.export(
            graph,
            arguments if example.noise is not None else (*arguments, {}),  # a dictionary at the end is keywords
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=list(example.outputs),
            dynamic_shapes=shapes,
            verbose=False,
        )
    if products.precision != "fp32":
        fold_casts(program.model)
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(str(file), external_data=weights > INLINE)
    return _described(file)


def fold_casts(model: Any) -> None:
    """Cast weights while exporting, however large: the exporter itself folds small constants only."""
    from onnxscript import optimizer

    optimizer.optimize_ir(
        model, onnx_shape_inference=False, should_fold=lambda node: True if node.op_type == "Cast" else None
    )


def _described(file: Path) -> Written:
    model = onnx.load(str(file), load_external_data=False)
    doubles = sorted(set(float64_values(model)))
    if doubles:
        raise ExportFailed(f"float64 is left in {file.name}: {', '.join(doubles[:3])} ({len(doubles)} in all)")
    written = Written(file, _describe(model.graph.input), _describe(model.graph.output))
    small = [name for name, dtype, _ in written.inputs + written.outputs if dtype in {"float16", "bfloat16"}]
    if small:
        raise ExportFailed(f"inputs and outputs of {file.name} must be float32: {', '.join(small)}")
    return written


def float64_values(model: Any) -> Iterator[str]:
    """Names of the values of a graph that are float64, which TensorRT and others refuse."""
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


def _describe(values: Any) -> Described:
    described: Described = []
    for value in values:
        kind = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        described.append((value.name, str(dtype), shape))
    return described
