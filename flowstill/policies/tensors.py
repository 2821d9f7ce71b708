"""A checkpoint's tensors: every one is there, or the checkpoint is refused.

LeRobot itself goes on with random weights where a tensor is missing.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from flowstill.errors import TeacherRejected

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A tensor of the file, not yet read. ``dtype`` is safetensors' name of it."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def clone(self) -> "Stored":
        """Itself: LeRobot's key remapping clones what it stores under a second name."""
        return self

    @property
    def is_float(self) -> bool:
        """Whether it may be cast to another float."""
        return self.dtype.startswith(("F", "BF"))


Rename = Callable[[dict[str, Stored]], dict[str, Stored]]
"""LeRobot's own key remapping of a policy."""


def mismatches(policy: torch.nn.Module, stored: Mapping[str, Stored]) -> dict[str, list[str]]:
    """Names by what is wrong with them; tied tensors need one of their names only."""
    expected = policy.state_dict()
    tied: dict[int, set[str]] = {}
    for name, tensor in _all_tensors(policy):
        tied.setdefault(id(tensor), set()).add(name)
    present = stored.keys() | {n for names in tied.values() if names & stored.keys() for n in names}
    both = [(name, expected[name], stored[name]) for name in sorted(expected.keys() & stored.keys())]
    return {
        "missing": sorted(expected.keys() - present),
        "unexpected": sorted(stored.keys() - expected.keys()),
        "of another shape": [n for n, ours, theirs in both if tuple(ours.shape) != theirs.shape],
        "of another kind": [n for n, ours, theirs in both if ours.is_floating_point() != theirs.is_float],
    }


def load_tensors(policy: torch.nn.Module, file: Path, rename: Rename, field: str) -> None:
    """Read every tensor into the policy, one at a time.

    Raises:
        TeacherRejected: after the renaming a tensor is missing, unexpected, misshaped, or it is not finite.
    """
    try:
        with safe_open(file, framework="pt") as reader:
            stored = rename({name: _describe(reader, name) for name in reader.keys()})  # noqa: SIM118
            _refuse(mismatches(policy, stored), file, field)
            _copy(policy.state_dict(), stored, reader, file, field)
    except SafetensorError as error:
        raise TeacherRejected(
            f"{file} is not a readable safetensors file ({error}); copy the checkpoint again, whole (a clone needs "
            "`git lfs pull`)",
            field=field,
        ) from error


def _copy(ours: dict[str, Any], stored: Mapping[str, Stored], reader: Any, file: Path, field: str) -> None:
    infinite, cast = [], 0
    for name, theirs in stored.items():
        tensor = reader.get_tensor(theirs.name)
        if theirs.is_float and not tensor.isfinite().all():
            infinite.append(name)
        cast += tensor.dtype != ours[name].dtype
        with torch.no_grad():
            ours[name].copy_(tensor)
    _refuse({"not finite": sorted(infinite)}, file, field)
    if cast:
        logger.info("%d tensors of %s are cast to the dtype that the policy computes in", cast, file)


def _describe(reader: Any, name: str) -> Stored:
    part = reader.get_slice(name)
    return Stored(name, tuple(part.get_shape()), part.get_dtype())


def _all_tensors(policy: torch.nn.Module) -> Iterable[tuple[str, Any]]:
    yield from policy.named_parameters(remove_duplicate=False)
    yield from policy.named_buffers(remove_duplicate=False)


def _refuse(problems: Mapping[str, list[str]], file: Path, field: str) -> None:
    found = [f"{what}: {', '.join(names[:3])} ({len(names)} in all)" for what, names in problems.items() if names]
    if found:
        raise TeacherRejected(
            f"the tensors of {file} are not those of this policy; {'; '.join(found)}. Save the policy with LeRobot 0.6 "
            "(older ones: lerobot/processor/migrate_policy_normalization.py)",
            field=field,
        )
