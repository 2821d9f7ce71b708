"""Before step 0: is there room for what the run will keep? Said now, with numbers, and not after hours.

What a run needs follows from sizes that are known once the student is made; :func:`check` decides from them, and
:func:`preflight` reads what this machine has. Disk is what the run keeps at its fullest. Memory is only what it is
certain to need beyond what it has already: activations and libraries come on top, so what is refused cannot work.
"""

import logging
import math
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flowstill.api.distilljob import DistillJobSpec
from flowstill.artifacts.uris import local_path, resolved
from flowstill.errors import MemoryShort, StorageFull
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.data import Images
from flowstill_trainer.processes import Processes

logger = logging.getLogger(__name__)
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
KEPT = ("bank", "checkpoints", "fidelity", "refine")
"""Folders in the work folder that an earlier attempt leaves to the next."""
FLOAT = 4


@dataclass(frozen=True)
class Sizes:
    """Bytes of what a run handles.

    Attributes:
        trained: the student's tensors that are trained.
        model: all of its parameters.
        rollout: one rollout of the bank.
        ahead: images that a process reads before it needs them.
    """

    trained: int
    model: int
    rollout: int
    ahead: int = 0


@dataclass(frozen=True)
class Item:
    """Something that takes room: ``count`` of ``size`` bytes each."""

    name: str
    size: int
    count: int = 1

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return self.size * self.count

    def __str__(self) -> str:
        """As a message has it."""
        return f"{self.name} {gib(self.size)}" if self.count == 1 else f"{self.count} {self.name} of {gib(self.size)}"


@dataclass(frozen=True)
class Needs:
    """What a run needs.

    Attributes:
        training: on the disk while it trains: the bank, and the checkpoints with one that is being written.
        refining: on the disk while it is refined: besides, the refinement's checkpoints; nothing without one.
        publishing: on the disk afterwards: all checkpoints that are kept, the student.
        student: in the store.
        gradients: memory of every process where its network is.
        host: memory of the CPU for every process, whatever device trains.
        first: memory of the CPU for rank 0 besides.
    """

    training: tuple[Item, ...]
    refining: tuple[Item, ...]
    publishing: tuple[Item, ...]
    student: Item
    gradients: tuple[Item, ...]
    host: tuple[Item, ...]
    first: tuple[Item, ...]


@dataclass(frozen=True)
class Room:
    """What there is, in bytes; None: unknown, or there is no such device.

    Attributes:
        work: the work folder's file system.
        store: the store's.
        work_free: free there, what an earlier attempt left counted as free.
        store_free: free there.
        one_disk: whether both are the same file system.
        host_free: memory that is left.
        device_free: memory of the GPU that is left.
    """

    work: Path
    store: Path
    work_free: int
    store_free: int
    one_disk: bool
    host_free: int | None
    device_free: int | None


def gib(size: int) -> str:
    """Bytes as people read them; small ones in MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.1f} MiB"


def needs(spec: DistillJobSpec, sizes: Sizes, processes: int = 1) -> Needs:
    """What this run needs, from what it is and by how many processes."""
    training, trained = spec.training, sizes.trained
    saves = math.ceil(training.steps / training.checkpoint_every)
    looks_before_the_end = 0 < training.fidelity_every < training.steps
    parts = 3 + (training.ema > 0) + looks_before_the_end  # weights, two moments; the average; the best look's weights
    bank = Item("bank", sizes.rollout, spec.method.bank_size)
    bank = Item("bank", bank.bytes)

    keep, refine = training.keep_checkpoints, spec.method.refinement

    def checkpoints(count: int) -> Item:
        return Item("checkpoints", parts * trained, min(count, saves))

    def refined(count: int) -> tuple[Item, ...]:
        if refine is None:
            return ()
        # Student and fake: weights and two moments each; what is published if it collapses; the student's average.
        size = (7 + (training.ema > 0)) * trained
        return (
            Item("checkpoints of refinement", size, min(count, math.ceil(refine.steps / training.checkpoint_every))),
        )

    student = Item("student (weights and graph)", 2 * sizes.model)
    share = trained // processes if training.parallel == "fsdp" else trained
    moments = [Item("gradients", trained), Item("moments", 2 * share)]
    moments += [Item("average", share)] if training.ema else []
    moments += [Item("fake, its gradients and moments", trained + 3 * share)] if refine is not None else []
    return Needs(
        training=(bank, checkpoints(keep + 1)),
        refining=(bank, checkpoints(keep), *refined(keep + 1)),
        publishing=(bank, checkpoints(keep), *refined(keep), student),
        student=student,
        gradients=tuple(moments),
        host=(bank, Item("images read ahead", sizes.ahead)),
        first=(Item("weights of the best look", trained),),
    )


def check(needed: Needs, room: Room, processes: int = 1, *, first: bool = True) -> None:
    """Refuse what cannot end well, on a node with so many of the processes, and with rank 0 when it is the first.

    Raises:
        StorageFull: the disk of the work folder or of the store has not enough room.
        MemoryShort: what is certain to be needed is more than what is left.
    """
    publishing = (*needed.publishing, Item("published student", needed.student.size)) if room.one_disk else (
        needed.publishing
    )  # fmt: skip
    _hold(max(needed.training, needed.refining, publishing, key=total), room.work, room.work_free)
    if not room.one_disk:
        _hold((needed.student,), room.store, room.store_free)
    each, once = needed.host, needed.first if first else ()
    if room.device_free is None:
        each = (*needed.gradients, *each)
    else:
        _remember(needed.gradients, (), 1, "the GPU's memory", room.device_free, "take a larger GPU")
    if room.host_free is not None:
        _remember(each, once, processes, "memory", room.host_free, "raise the memory in spec.runtime.resources")


def total(items: Iterable[Item]) -> int:
    """Bytes of all of them."""
    return sum(item.bytes for item in items)


def _hold(items: tuple[Item, ...], where: Path, free: int) -> None:
    if total(items) > free:
        raise StorageFull(
            f"the run needs {gib(total(items))} in {where} ({_listed(items)}) and {gib(free)} are free: free some, "
            "enlarge the volume, or lower keepCheckpoints",
            field="spec.training.keepCheckpoints",
        )


def _remember(each: tuple[Item, ...], once: tuple[Item, ...], processes: int, what: str, free: int, fix: str) -> None:
    """Hold ``each`` once a process, and ``once`` besides."""
    wanted = processes * total(each) + total(once)
    if wanted <= free:
        return
    parts = [f"{_listed(each)} in each of {processes} processes", _listed(once)]
    listed = "; ".join(filter(None, parts)) if processes > 1 else _listed((*each, *once))
    raise MemoryShort(
        f"training needs at least {gib(wanted)} more of {what} ({listed}) and {gib(free)} are left: {fix}",
        field="spec.runtime",
    )


def _listed(items: Iterable[Item]) -> str:
    return ", ".join(str(item) for item in items if item.bytes)


def preflight(
    spec: DistillJobSpec, student: FlowPolicy, images: Images, work: Path, processes: Processes | None = None
) -> None:
    """Check this machine for this run, and log what it will need. Of several processes each checks its node.

    Raises:
        StorageFull, MemoryShort: see :func:`check`.
    """
    processes = processes or Processes()
    rows = math.ceil(spec.training.batch_size / processes.size)
    needed = needs(spec, replace(sizes_of(student), ahead=images.ahead(rows)), processes.size)
    room = room_of(work, student.device)
    logger.info(
        "needs on disk: %s while it trains, %s at its end; in memory at least %s for training, %s of the CPU's",
        *(gib(total(items)) for items in (needed.training, needed.publishing, needed.gradients, needed.host)),
    )
    check(needed, room, processes.local_size, first=processes.rank == processes.local_rank)
    processes.meet("preflight")  # what another one takes from now on is no longer free


def sizes_of(student: FlowPolicy) -> Sizes:
    """Sizes of a student as it is."""
    numbers = 2 * student.chunk_size * student.padded_action_dim + student.state_dim
    return Sizes(
        trained=sum(p.numel() * p.element_size() for _, p in student.trained()),
        model=sum(p.numel() * p.element_size() for p in student.policy.parameters()),
        rollout=FLOAT * numbers + 2 * FLOAT,
    )


def room_of(work: Path, device: torch.device) -> Room:
    """What this machine has."""
    # What is published in a bucket takes no room here.
    bucket = resolved("store://students").scheme == "s3"
    store = work if bucket else _existing(local_path("store://students"))
    return Room(
        work=work,
        store=store,
        work_free=free_disk(work) + sum(_size(work / name) for name in KEPT),
        store_free=sys.maxsize if bucket else free_disk(store),
        one_disk=not bucket and work.stat().st_dev == store.stat().st_dev,
        host_free=available_memory(),
        device_free=torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None,
    )


def free_disk(path: Path) -> int:
    """Bytes that this user may still write there."""
    return shutil.disk_usage(path).free


def available_memory(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Bytes that this process may still take: the machine's, or its container's where that is less; None: unknown."""
    found = [left for left in (_machine(meminfo), _container(cgroup)) if left is not None]
    return min(found, default=None)


def _machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container(cgroup: Path) -> int | None:
    """The limit less what is used, file cache that can be dropped not counted (cgroup v2, else v1)."""
    for folder, limit, usage, cache in (
        (cgroup, "memory.max", "memory.current", "inactive_file"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or "max"
            continue
        return max(0, most - used + int(stat.get(cache, 0)))
    return None


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _size(folder: Path) -> int:
    return sum(Path(parent, name).stat().st_size for parent, _, names in os.walk(folder) for name in names)
