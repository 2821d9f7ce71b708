"""From a reference to a runner."""

import json
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from flowstill.api.fields import Source
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.stores import fetch
from flowstill.errors import UserError
from flowstill.policies.interface import Runner

_SOURCE: TypeAdapter[Source] = TypeAdapter(Source)


def load_policy(
    reference: str,
    *,
    runtime: Literal["auto", "onnx", "torch"] = "auto",
    steps: int | None = None,
    draws: int | None = None,
    neighbours: int | None = None,
    threads: int | None = None,
    provider: str = "cpu",
) -> Runner:
    """A runner of a published student or of a LeRobot checkpoint, verified.

    Args:
        reference: ``URI`` or ``URI@sha256:HEX``.
        runtime: ``auto`` is ONNX for a student, torch for a checkpoint. ONNX imports no torch.
        steps: Euler steps; default one for a student, the checkpoint's own for a teacher.
        draws: noises per observation; default the student's own, 1 for a teacher.
        neighbours: that count for the density of a draw; PyTorch only, the graph has the student's own.
        threads: of the runtime; default its own choice.
        provider: ``cpu``, ``cuda`` or ``tensorrt``.

    Raises:
        UserError: the reference, or a combination, cannot work.
    """
    uri, separator, hexadecimal = reference.partition("@sha256:")
    digest = f"sha256:{hexadecimal}" if separator else None
    try:
        source = _SOURCE.validate_python({"uri": uri, "digest": digest})
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{reference!r} is not URI@sha256:HEX ({why})", field="policy") from error
    folder = fetch(source, "policy")
    manifest = folder / "manifest.json"
    name = digest or tree_digest(folder)
    if runtime == "torch" or not manifest.exists():
        if runtime == "onnx":
            raise UserError("a LeRobot checkpoint has no ONNX graph; use runtime='torch'", field="runtime")
        from flowstill.policies.torch_runner import TorchRunner

        policy = folder / "policy" if manifest.exists() else folder
        device = "cpu" if provider == "cpu" else "cuda"
        return TorchRunner.load(
            policy, steps=steps, draws=draws, neighbours=neighbours, device=device, threads=threads, digest=name
        )
    if steps not in (None, 1):
        raise UserError("the ONNX graph takes one step; use runtime='torch' for more", field="steps")
    if neighbours is not None:
        raise UserError("the ONNX graph has the student's own neighbours; use runtime='torch'", field="neighbours")
    from flowstill.policies.onnx_runner import OnnxRunner

    graph = _graph(folder, manifest)
    return OnnxRunner(folder / "policy", graph, draws=draws, threads=threads, provider=provider, digest=name)


def _graph(folder: Path, manifest: Path) -> Path:
    value = json.loads(manifest.read_text())
    if value.get("kind") != "Student":
        raise UserError(f"{folder} is a {value.get('kind')!r} artifact, not a student", field="policy")
    return folder / "onnx" / "student.onnx"
