"""The bank: teacher rollouts computed once, kept in the work folder, continued after an interruption."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lerobot_policy_flowstill.prefix import Prefix, concatenate
from torch import Tensor

from flowstill.errors import Interrupted
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.data import Frames
from flowstill_trainer.files import keep, kept, write_json
from flowstill_trainer.finite import check_teacher
from flowstill_trainer.portions import cache_size, rows_at_once
from flowstill_trainer.processes import Processes
from flowstill_trainer.randomness import Order, generator

PART = 2048
BATCH = 256
"""Rollouts whose random numbers are drawn together, and as many as are computed together at most."""
PREFIX_LIMIT = 2**30
"""Bytes of prefixes that are kept in memory."""
ROLLOUTS, PREFIXES = "teacher rollouts", "the student's prefixes"
"""What is being done, as progress says it."""
Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, of how much."""


@dataclass(frozen=True)
class Bank:
    """N rollouts.

    Attributes:
        frame_N: the observation's frame.
        noise_NHD: where each rollout started.
        chunk_NHD: where it ended.
        jitter_NS: what was added to the normalised state that the teacher saw; the student sees the same.
        prefix: the student's of every observation, where they fit in memory: they never change.
    """

    frame_N: Tensor
    noise_NHD: Tensor
    chunk_NHD: Tensor
    jitter_NS: Tensor
    prefix: Prefix | None = None


@dataclass(frozen=True)
class BankPlan:
    """What decides a bank's content."""

    size: int
    steps: int
    jitter: float
    seed: int
    inputs: str
    autocast: Callable[[], torch.autocast]


def jitter_noise(std: float, size: int, state_dim: int, random: torch.Generator) -> Tensor:
    """What is added to normalised states, (B, S)."""
    return std * torch.randn((size, state_dim), generator=random)


def make_bank(
    folder: Path, plan: BankPlan, teacher: FlowPolicy, student: FlowPolicy, frames: Frames,
    progress: Progress, stopped: Callable[[], bool], processes: Processes | None = None,
) -> Bank:  # fmt: skip
    """Compute what is missing of the bank, part by part: the teacher's rollouts, the student's prefixes.

    A part follows from its place alone, so the processes share them out; all of them then have the whole bank. A part
    whose bytes are not those of the digest beside it, or that has no digest, is computed again.

    Raises:
        Interrupted: ``stopped()``, asked before every pass; finished parts are kept.
        TeacherRejected: a rollout is not finite; nothing of its part is kept.
    """
    processes = processes or Processes()
    progress(ROLLOUTS, 0, plan.size)

    def over() -> bool:
        return stopped() or processes.ended()

    if processes.first:
        _prepare(folder, plan)
    processes.meet("bank begun")
    starts = range(0, plan.size, PART)
    held: dict[int, dict[str, Tensor]] = {}
    for start in starts[processes.rank :: processes.size]:
        path, count = _path(folder, start), min(PART, plan.size - start)
        part = _read(path, count, plan.inputs)
        if part is None:
            part = _roll_out(start, count, plan, teacher, frames, progress, over)
            keep(path, part, plan.inputs)
        held[start] = part
        progress(ROLLOUTS, min(start + PART, plan.size), plan.size)
    processes.meet("bank made")
    parts = [held.get(start) or _theirs(folder, start, plan) for start in starts]
    bank = Bank(*(torch.cat([part[name] for part in parts]) for name in ("frame", "noise", "chunk", "jitter")))
    return replace(bank, prefix=_prefixes(bank, plan, student, frames, progress, over))


def _prepare(folder: Path, plan: BankPlan) -> None:
    """An empty folder, unless it holds parts of the same bank."""
    key = folder / "bank.json"
    if not key.exists() or json.loads(key.read_text()).get("inputs") != plan.inputs:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(key, {"inputs": plan.inputs})


def _path(folder: Path, start: int) -> Path:
    return folder / f"part-{start // PART:06d}.safetensors"


def _theirs(folder: Path, start: int, plan: BankPlan) -> dict[str, Tensor]:
    """A part that another process made.

    Raises:
        OSError: it is not there or damaged; another attempt makes it again.
    """
    part = _read(_path(folder, start), min(PART, plan.size - start), plan.inputs)
    if part is None:
        raise OSError(f"{_path(folder, start)} was made by another process and cannot be read by this one")
    return part


def _prefixes(
    bank: Bank, plan: BankPlan, student: FlowPolicy, frames: Frames, progress: Progress, stopped: Callable[[], bool]
) -> Prefix | None:
    """All prefixes, in fixed batches so that every attempt gets the same bits; None when they vary or do not fit."""
    if len(frames.tasks) > 1 and not student.fixed_length:
        return None
    with plan.autocast():
        size = cache_size(student, frames, bank.frame_N)
    if size * plan.size > PREFIX_LIMIT:
        return None
    found: list[Prefix] = []
    count = rows_at_once(size, BATCH)
    progress(PREFIXES, 0, plan.size)
    for first in range(0, plan.size, count):
        if stopped():
            raise Interrupted(f"stopped after {first} of {plan.size} prefixes; the teacher rollouts are kept")
        rows = slice(first, first + count)
        batch = student.preprocess(frames.observations(bank.frame_N[rows]), bank.jitter_NS[rows])
        with plan.autocast():
            found.append(student.encode_prefix(batch))
        progress(PREFIXES, min(first + count, plan.size), plan.size)
    return concatenate(found)


def _read(path: Path, count: int, inputs: str) -> dict[str, Tensor] | None:
    part = kept(path, inputs)
    return part if part is not None and len(part["frame"]) == count else None


def _roll_out(
    start: int, count: int, plan: BankPlan, teacher: FlowPolicy, frames: Frames,
    progress: Progress, stopped: Callable[[], bool],
) -> dict[str, Tensor]:  # fmt: skip
    order = Order(plan.seed, "bank", len(frames.training_T))
    made: dict[str, list[Tensor]] = {"frame": [], "noise": [], "chunk": [], "jitter": []}
    with plan.autocast():
        rows = rows_at_once(cache_size(teacher, frames, frames.training_T), BATCH)
        bf16 = torch.is_autocast_enabled(teacher.device.type)
    for first in range(start, start + count, BATCH):
        size = min(BATCH, start + count - first)
        random = generator(plan.seed, "bank", first)
        index_B = frames.training_T[order.take(first, size)]
        noise_BHD = torch.randn((size, teacher.chunk_size, teacher.padded_action_dim), generator=random)
        jitter_BS = jitter_noise(plan.jitter, size, teacher.state_dim, random)
        chunks = []
        for row in range(0, size, rows):
            if stopped():
                raise Interrupted(f"stopped after {first} of {plan.size} teacher rollouts; finished parts are kept")
            seen = slice(row, row + rows)
            batch = teacher.preprocess(frames.observations(index_B[seen]), jitter_BS[seen])
            with torch.no_grad(), plan.autocast():
                prefix = teacher.encode_prefix(batch)
                chunks.append(teacher.chunk(prefix, noise_BHD[seen].to(teacher.device), plan.steps).cpu())
            check_teacher(chunks[-1], index_B[seen], frames, bf16=bf16)
        for name, value in (
            ("frame", index_B),
            ("noise", noise_BHD),
            ("chunk", torch.cat(chunks)),
            ("jitter", jitter_BS),
        ):
            made[name].append(value)
        progress(ROLLOUTS, first + size, plan.size)
    return {name: torch.cat(values) for name, values in made.items()}
