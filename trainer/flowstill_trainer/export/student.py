"""A student to its graphs, each held against what it must equal."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowstill.artifacts.manifest import (
    PARITY_THRESHOLDS,
    GraphParity,
    OnnxDescription,
    PairDescription,
    PartDescription,
)
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.export.graphs import OUTPUTS, STATE, ExpertGraph, Inputs, OneStepGraph, PrefixGraph
from flowstill_trainer.export.onnx_files import Example, Written, write
from flowstill_trainer.export.precision import FIELD, FP32, ExportFailed, ExportPlan, PrecisionLost
from flowstill_trainer.export.products import Products, fp16_products

logger = logging.getLogger(__name__)

EXAMPLES = 2
"""Observations that a graph is traced with; 1 would become a constant."""
CHECKED = 8
"""Largest batch on which a graph is held against PyTorch."""
PREFIX, EXPERT = "prefix.onnx", "expert.onnx"
NAMED = 8
"""Layers that the log names; the manifest names all."""
PROBE_SEED = 1_000
"""Of the noise with which numbers that are too large are looked for: not that of any comparison."""

Batch = dict[str, Any]
Sizes = Sequence[tuple[int, int]]
"""Pairs of batch and draws."""


@dataclass(frozen=True)
class Pair:
    """The graph in two parts; ``parity`` is against the one graph."""

    prefix: Written
    expert: Written
    parity: list[GraphParity]


@dataclass(frozen=True)
class Graph(Written):
    """What was exported, and the plan that it was exported by; ``parity`` is against PyTorch in float32."""

    plan: ExportPlan
    products: Products
    parity: list[GraphParity]
    pair: Pair | None

    @property
    def difference(self) -> float:
        """The largest difference to PyTorch that was seen."""
        return max(parity.difference for parity in self.parity)


def export(student: FlowPolicy, batch: Batch, file: Path, plan: ExportPlan = FP32, probe: Batch | None = None) -> Graph:
    """Write the graph, and the pair beside it, and hold them against PyTorch.

    Args:
        student: what to write.
        batch: eight preprocessed observations, on which graphs are compared.
        file: where to; the pair lies beside it.
        plan: precision and parts.
        probe: others, on which layers are looked for that are too large for float16; needed in fp16 only.

    Raises:
        ExportFailed: normalised actions differ by more than 1e-3 in fp32, or float64 is left in the graph.
        PrecisionLost: they differ by more than 2e-2 in fp16 or bf16, or no layer fits fp16; and ``plan`` allows
            nothing else.
    """
    sizes = [(1, 1), *((size, student.draws) for size in range(1, CHECKED + 1))]
    try:
        return _export(student, batch, file, plan, sizes, probe)
    except PrecisionLost as error:
        if not plan.or_fp32:
            raise
        logger.warning("%s; the graph is written in fp32", error)
        return _export(student, batch, file, ExportPlan(split=plan.split), sizes)


def rehearse(student: FlowPolicy, batch: Batch, folder: Path, plan: ExportPlan, probe: Batch | None) -> None:
    """Before hours of training: does a student with these weights survive the precision that was asked for?

    Nothing is done for fp32, nor where the graph may become fp32 in the end. Arguments are those of :func:`export`.

    Raises:
        PrecisionLost: it does not.
    """
    if not plan.at_risk:
        return
    try:
        once, file = replace(plan, split=False), folder / "student.onnx"
        graph = _export(student, batch, file, once, [(CHECKED, student.draws)], probe)
        logger.info("before training, a graph in %s differs from PyTorch by %.2e", plan.precision, graph.difference)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def describe(graph: Graph, artifact: Path) -> OnnxDescription:
    """What the manifest of the artifact says of its graphs."""

    def part(written: Written) -> PartDescription:
        file = written.file.relative_to(artifact).as_posix()
        return PartDescription(file=file, inputs=written.inputs, outputs=written.outputs)

    pair = graph.pair and PairDescription(
        prefix=part(graph.pair.prefix), expert=part(graph.pair.expert), parity=graph.pair.parity
    )
    return OnnxDescription(
        **dict(part(graph)),
        parity=graph.parity,
        provider=graph.plan.provider,
        pair=pair,
        products=graph.products.count,
        float32_products=list(graph.products.float32),
    )


def _export(
    student: FlowPolicy, batch: Batch, file: Path, plan: ExportPlan, sizes: Sizes, probe: Batch | None = None
) -> Graph:
    # LeRobot builds the prefix's attention mask from a Python list, so the number of tokens is a constant.
    observation = student.prepared(batch).padded_to(student.token_length).named()
    with _folded(student):
        graph = OneStepGraph(student).eval()
        traced = Example(_rows(observation, EXAMPLES), _traced_noise(student), OUTPUTS)
        products = _products(graph, student, probe) if plan.precision == "fp16" else Products(plan.precision)
        written = write(graph, traced, file, products)
        parity, given = _against_torch(graph, student, observation, written, plan, sizes)
        pair = _export_pair(student, observation, file.parent, plan, products, sizes, given) if plan.split else None
    return Graph(written.file, written.inputs, written.outputs, plan, products, parity, pair)


def _products(graph: OneStepGraph, student: FlowPolicy, probe: Batch | None) -> Products:
    """Which layers fit fp16, as far as these observations show."""
    if probe is None:
        raise ValueError("a graph in fp16 needs observations to probe")
    observation = student.prepared(probe).padded_to(student.token_length).named()
    noise = _noise(student, len(next(iter(observation.values()))), student.draws, PROBE_SEED)

    def run() -> None:
        for start in range(0, len(noise), CHECKED):
            rows = slice(start, start + CHECKED)
            graph({name: value[rows] for name, value in observation.items()}, noise[rows].to(student.device))

    products = fp16_products(graph.model, run)
    large, count = products.float32, products.count
    if len(large) == count:
        said = f"the numbers of all {count} linear layers are too large for fp16; choose fp32"
        raise PrecisionLost(said, field=FIELD)
    if large:
        names = ", ".join(large[:NAMED]) + (", …" if len(large) > NAMED else "")
        logger.warning(
            "%d of %d linear layers stay fp32, their numbers are too large for fp16: %s", len(large), count, names
        )
    return products


@contextmanager
def _folded(student: FlowPolicy) -> Iterator[None]:
    """What is computed from t = 1, s = 0 is a constant while the graphs are written, and no longer."""
    model = student.policy.model
    model.fold()
    try:
        yield
    finally:
        model.unfold()


def _against_torch(
    graph: OneStepGraph, student: FlowPolicy, observation: Inputs, written: Written, plan: ExportPlan, sizes: Sizes
) -> tuple[list[GraphParity], list[Any]]:
    """The differences to PyTorch, and what the graph gave."""
    run = _Session(written, plan)
    differences, given = [], []
    for size, draws in sizes:
        part, noise = _rows(observation, size), _noise(student, size, draws)
        with torch.no_grad():
            expected = graph(part, noise.to(student.device))[1].cpu().numpy()
        given += run(part | {"noise": noise}, ["all_actions"])
        differences.append(_difference(given[-1], expected))
    return _judged(differences, sizes, plan, "graph and PyTorch"), given


def _export_pair(
    student: FlowPolicy, observation: Inputs, folder: Path, plan: ExportPlan, products: Products, sizes: Sizes,
    given: list[Any],
) -> Pair:  # fmt: skip
    """Both parts, held against what the one graph gave."""
    prefix_graph, example = PrefixGraph(student).eval(), _rows(observation, EXAMPLES)
    with torch.no_grad():
        seen = prefix_graph.named(example)
    names = tuple(name for name in seen if name != STATE)
    prefix = write(prefix_graph, Example(example, None, names), folder / PREFIX, products)
    traced = Example(seen, _traced_noise(student), OUTPUTS)
    expert = write(ExpertGraph(student).eval(), traced, folder / EXPERT, products)
    encode, act = _Session(prefix, plan), _Session(expert, plan)
    differences = []
    for (size, draws), expected in zip(sizes, given, strict=True):
        inputs = _rows(observation, size) | {"noise": _noise(student, size, draws)}
        kept = dict(zip(names, encode(inputs, list(names)), strict=True))
        differences.append(_difference(act(inputs | kept, ["all_actions"])[0], expected))
    return Pair(prefix, expert, _judged(differences, sizes, plan, "the pair of graphs and the one graph"))


class _Session:
    """A graph in ONNX Runtime that takes what it needs of named tensors."""

    def __init__(self, graph: Written, plan: ExportPlan) -> None:
        import onnxruntime

        try:
            self._session: Any = onnxruntime.InferenceSession(str(graph.file), providers=[plan.provider])
        except Exception as error:  # each of onnxruntime's errors is an Exception of its own
            if plan.precision == "fp32":
                raise
            said = f"{graph.file.name} does not run in {plan.precision} on {plan.provider} ({error}); choose fp32"
            raise PrecisionLost(said, field=FIELD) from error
        self._used = [i.name for i in self._session.get_inputs()]

    def __call__(self, tensors: dict[str, Any], outputs: list[str]) -> list[np.ndarray[Any, Any]]:
        feeds = {name: tensors[name] for name in self._used}
        arrays = {k: v.cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in feeds.items()}
        found: list[np.ndarray[Any, Any]] = self._session.run(outputs, arrays)
        return found


def _difference(found: Any, expected: Any) -> float:
    """The largest; infinite when a number is not finite."""
    largest = float(np.abs(found - expected).max())
    return largest if np.isfinite(largest) else float("inf")


def _judged(differences: list[float], sizes: Sizes, plan: ExportPlan, who: str) -> list[GraphParity]:
    largest, limit = max(differences), PARITY_THRESHOLDS[plan.precision]
    if largest > limit:
        said = f"{who} differ by {largest:.2e} (limit {limit:g}), normalised actions"
        if plan.precision == "fp32":
            raise ExportFailed(said)
        cause = "a number is not finite" if largest == float("inf") else "too many digits are lost"
        raise PrecisionLost(f"{said}: {cause} in {plan.precision}; choose fp32", field=FIELD)
    return [
        GraphParity(batch=size, draws=draws, difference=difference)
        for (size, draws), difference in zip(sizes, differences, strict=True)
    ]


def _rows(tensors: Inputs, size: int) -> Inputs:
    return {name: value[:size] for name, value in tensors.items()}


def _traced_noise(student: FlowPolicy) -> torch.Tensor:
    return _noise(student, EXAMPLES, max(2, student.draws)).to(student.device)


def _noise(student: FlowPolicy, size: int, draws: int, seed: int = 0) -> torch.Tensor:
    shape = (size, draws, student.chunk_size, student.padded_action_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + size))
