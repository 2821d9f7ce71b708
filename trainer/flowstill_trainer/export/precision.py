"""The type of a graph's matrix products: which one, and whether ONNX Runtime runs it here."""

import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open

from flowstill.api.distilljob import Export
from flowstill.errors import FlowstillError, UserError
from flowstill.policies.checkpoints import WEIGHTS

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "fp16", "bf16"]
STORED: dict[str, Precision] = {"F16": "fp16", "BF16": "bf16"}
"""safetensors' names of the types that a graph may have too; every other one means fp32."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FIELD = "spec.export.precision"


class ExportFailed(FlowstillError):
    """The graph is not the student; a defect, not the user's."""

    reason = "ExportFailed"


class PrecisionLost(UserError):
    """The graph is not the student, because its precision is too small for it."""

    reason = "PrecisionLost"


@dataclass(frozen=True)
class ExportPlan:
    """How a graph is written.

    Attributes:
        precision: type of the matrix products; in fp16, of those whose numbers fit.
        provider: ONNX Runtime's execution provider on which the graph is held against PyTorch.
        split: also in two parts, prefix and expert.
        or_fp32: whether a graph that differs too much is written in fp32 instead.
    """

    precision: Precision = "fp32"
    provider: str = CPU
    split: bool = False
    or_fp32: bool = False

    @property
    def at_risk(self) -> bool:
        """Whether a student may be lost to its precision: fp32 holds every one, and may take a smaller one's place."""
        return self.precision != "fp32" and not self.or_fp32


FP32 = ExportPlan()


def plan_export(export: Export, teacher: Path) -> ExportPlan:
    """Decide before training what the graph will be; ``auto`` never stops a job.

    ``auto`` is the type in which most of the teacher's numbers are stored; where ONNX Runtime has no kernels for it on
    this machine, or its graph is not the student in the end, it is fp32, and the log says so.

    Raises:
        UserError: the precision that was asked for cannot be run, so not checked, on this machine.
    """
    auto = export.precision == "auto"
    wanted: Precision = stored_precision(teacher / WEIGHTS) if export.precision == "auto" else export.precision
    if wanted == "fp32":
        return ExportPlan(split=export.split)
    provider = provider_here()
    problem = kernel_problem(wanted, provider)
    if problem is None:
        return ExportPlan(wanted, provider, export.split, or_fp32=auto)
    if auto:
        logger.warning("the teacher is stored in %s, but %s; the graph will be fp32", wanted, problem)
        return ExportPlan(split=export.split)
    others = "fp32" if wanted == "fp16" else "fp16 or fp32"
    raise UserError(
        f"{problem}, so a graph in {wanted} could not be checked; choose {others}, or run the job where "
        "onnxruntime-gpu finds a GPU (extra 'gpu', docs/onnx.md)",
        field=FIELD,
        reason="NoKernels",
    )


def stored_precision(weights: Path) -> Precision:
    """The type in which most numbers of a safetensors file are stored; fp32 for everything that is none of ours."""
    count: Counter[Precision] = Counter()
    with safe_open(weights, framework="pt") as reader:
        for name in reader.keys():  # noqa: SIM118
            part = reader.get_slice(name)
            count[STORED.get(part.get_dtype(), "fp32")] += int(np.prod(part.get_shape(), dtype=np.int64))
    return count.most_common(1)[0][0] if count else "fp32"


def provider_here() -> str:
    """CUDA when ONNX Runtime and PyTorch both find a GPU, else the CPU."""
    import onnxruntime

    there = CUDA in onnxruntime.get_available_providers() and torch.cuda.is_available()
    return CUDA if there else CPU


def kernel_problem(precision: Precision, provider: str) -> str | None:
    """What keeps a matrix product of this type from running on a provider; None: it runs.

    Seen with ONNX Runtime 1.32: on the CPU float16 runs everywhere (on x86 in float32 between casts that the runtime
    adds itself), bfloat16 has no MatMul. The CUDA provider registers MatMul for both.
    """
    import onnxruntime

    who = f"ONNX Runtime {onnxruntime.__version__}"
    try:
        session = onnxruntime.InferenceSession(_probe(precision), providers=[provider])
        if session.get_providers()[0] != provider:
            return f"{who} does not start {provider} here, which {precision} would be checked on"
        product = session.run(None, {"x": np.ones((1, 2), np.float32)})[0]
    except Exception as error:  # each of onnxruntime's errors is an Exception of its own
        named = re.search(r"implementation for (\w+)", str(error))
        what = f"no {precision} kernel for {named[1]}" if named else f"no working {precision} MatMul ({error})"
        return f"{who} has {what} in {provider}"
    return None if product.tolist() == [[2.0]] else f"{who} multiplies wrongly in {precision} on {provider}"


def _probe(precision: Precision) -> bytes:
    """A graph with one matrix product, as every graph of this precision has them: cast, multiply, cast back."""
    from onnx import TensorProto, helper

    small = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    nodes = [
        helper.make_node("Cast", ["x"], ["small"], to=small),
        helper.make_node("MatMul", ["small", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor("weight", small, [2, 1], [1.0, 1.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized
