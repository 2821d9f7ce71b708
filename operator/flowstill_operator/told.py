"""How much a child can be told: its task travels in an annotation of its pod, and Kubernetes bounds these. Pure."""

from typing import Any

from flowstill.api.fields import Model
from flowstill.api.runtime import Runtime
from flowstill_operator.jobs import task_text
from flowstill_operator.platform import Platform
from flowstill_operator.steps import Problem

MAX_ANNOTATIONS = 262_144
"""Bytes of all annotations of an object, keys and values."""
ROOM = 32_768
"""Of these, for what a task has and a spec has not (references, rounds), and for annotations that others add."""
MAX_TOLD = MAX_ANNOTATIONS - ROOM
TOO_LONG = "SpecTooLong"
TOO_LONG_TEXT = (
    "{field}: {bytes} of the {all} bytes that children would be told, and annotations of a pod hold {most}: {fix}"
)
FIXES = {
    "spec.runtime.env": "put long values into a file of the image or of spec.runtime.volumes, and name that file here",
    "spec.dataset.episodes": "publish a dataset of these episodes, and leave this out",
}
SHORTEN = "shorten it"
NOT_TOLD = {"target", "monitoring"}
"""Sections of a rollout that its children do not hear of; nor do they of its runtime."""


def size_problem(spec: Model, runtime: Runtime, platform: Platform, *, tells_runtime: bool) -> Problem | None:
    """Why a spec's children cannot be told all of it; on this machine, where it is a file, they always can."""
    if platform.name == "local":
        return None
    hidden = NOT_TOLD if tells_runtime else {*NOT_TOLD, "runtime"}
    told = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=hidden)
    own = sum(_bytes(key) + _bytes(value) for key, value in runtime.annotations.items())
    size = _bytes(task_text(told)) + own
    if size <= MAX_TOLD:
        return None
    sizes = _fields(told)
    sizes["spec.runtime.annotations"] = own + sizes.get("spec.runtime.annotations", 0)
    field = max(sizes, key=lambda name: sizes[name])
    fix = FIXES.get(field, SHORTEN)
    text = TOO_LONG_TEXT.format(field=field, bytes=sizes[field], all=size, most=MAX_TOLD, fix=fix)
    return Problem(TOO_LONG, text)


def _fields(told: dict[str, Any]) -> dict[str, int]:
    """The bytes of each section, or of each of its fields where it has some."""
    sizes: dict[str, int] = {}
    for section, value in told.items():
        if isinstance(value, dict):
            sizes |= {f"spec.{section}.{name}": _bytes(task_text(inner)) for name, inner in value.items()}
        else:
            sizes[f"spec.{section}"] = _bytes(task_text(value))
    return sizes


def _bytes(text: str) -> int:
    return len(text.encode())
