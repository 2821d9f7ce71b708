"""The processes that train one student together, as ``torchrun`` starts them, and what they tell each other.

Numbers of every step go by collective operations. Everything that may take long (a measurement, an export, parts of
the bank) is waited for by looking into the store that they found each other by, which has no timeout: if a process
is gone, so is either the store, or, by whoever started them, the one that waits.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from flowstill.api.children import Result
from flowstill.child.result import clip
from flowstill.errors import Interrupted, UserError

logger = logging.getLogger(__name__)

MEETING = timedelta(minutes=30)
"""For the pods of all nodes to start, and for one process to be late at a collective operation (a checkpoint)."""
LOOK_SECONDS = 0.1
GRACE_SECONDS = 20.0
"""What a process has to end by itself after another has; it may wait for that other in a collective operation."""
TURN_SECONDS = 60.0
"""How long the others wait for rank 0 to say the result, which may need its grace first."""
HEARD_SECONDS = 10.0
"""How long rank 0 stays for the others to hear it."""
RESULT = "result"


class EndedElsewhere(Interrupted):
    """Another process has ended; what it says is what all say."""


class Processes:
    """This process and the others: :class:`~flowstill.child.ranks.Ranks`.

    Attributes:
        rank: of this process.
        local_rank: on its node; its GPU.
        size: how many they are.
        local_size: how many of them are on this node.
    """

    def __init__(self, rank: int = 0, local_rank: int = 0, size: int = 1, local_size: int = 1) -> None:
        self.rank, self.local_rank, self.size, self.local_size = rank, local_rank, size, local_size
        self._server: Any = None
        self._store: Any = None
        self._names: Counter[str] = Counter()
        self._ending = threading.Lock()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Processes":
        """As ``torchrun`` says; without it, this process alone."""
        if int(environment.get("WORLD_SIZE", "1")) == 1:
            return cls()
        rank, local_rank, size = (int(environment[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
        return cls(rank, local_rank, size, int(environment.get("LOCAL_WORLD_SIZE", "1")))

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def begin(self, end: Callable[[Result], int]) -> None:
        """See :class:`~flowstill.child.ranks.Ranks`."""
        if self.size == 1:
            return
        server, _, _ = next(rendezvous("env://", timeout=MEETING))
        self._server, self._store = server, dist.PrefixStore("flowstill", server)
        threading.Thread(target=self._watch, args=(self._store.clone(), end), name="others", daemon=True).start()

    def start_collectives(self) -> str:
        """Make collective operations possible; returns the device to compute on.

        Raises:
            UserError: more processes on this node than it has GPUs.
        """
        if not torch.cuda.is_available():
            device, backend = "cpu", "gloo"
        elif self.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"this is process {self.local_rank + 1} of its node, which has {torch.cuda.device_count()} GPUs; start "
                "as many processes as there are",
                field="spec.runtime.gpusPerNode",
            )
        else:
            device, backend = "cuda", "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(self.local_rank)  # "cuda" is this one from now on
        if self.size > 1:
            dist.init_process_group(backend, store=self._server, rank=self.rank, world_size=self.size, timeout=MEETING)
        return device

    def share(self, what: str, make: Callable[[], str]) -> str:
        """What rank 0 makes, for all; the others wait, however long it takes. All must call it, in the same order.

        Raises:
            EndedElsewhere: another process has ended meanwhile.
        """
        if self.size == 1:
            return make()
        key = self._key(what)
        if self.first:
            text = make()
            self._store.set(key, text)
            return text
        self._await([key])
        return str(self._store.get(key).decode())

    def meet(self, what: str) -> None:
        """Wait until all are here, however long it takes.

        Raises:
            EndedElsewhere: another process has ended meanwhile.
        """
        if self.size == 1:
            return
        key = self._key(what)
        self._store.set(f"{key}/{self.rank}", "")
        self._await([f"{key}/{rank}" for rank in range(self.size)])

    def outcome(self) -> Result:
        """Wait for the result that another process says."""
        while not self._store.check([RESULT]):
            time.sleep(LOOK_SECONDS)
        return Result.model_validate_json(self._store.get(RESULT))

    def ended(self) -> bool:
        """Whether another process has ended already."""
        return self.size > 1 and bool(self._store.check([RESULT]))

    def total(self, value: float) -> float:
        """The sum over all processes; not finite where one of them is not."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of them."""
        return self._reduced(float(flag), dist.ReduceOp.MAX) > 0

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Make them what they are on rank 0. All must call it with the same shapes."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def _reduced(self, value: float, operation: Any) -> float:
        if self.size == 1:
            return value
        number = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(number, operation)
        return float(number)

    @contextmanager
    def settled(self, result: Result) -> Iterator[Result]:
        """See :class:`~flowstill.child.ranks.Ranks`."""
        if self._store is None:
            yield result
            return
        self._ending.acquire()  # for good: nobody else ends this process now
        try:
            line = self._store.compare_set(RESULT, "", result.model_dump_json())
        except RuntimeError as error:  # its server went with its process
            logger.warning("the other processes are out of reach (%s)", error)
            yield result
            return
        self._wait_for_rank_0(self._store)
        yield Result.model_validate_json(line)
        self._said(self._store)

    def _watch(self, store: Any, end: Callable[[Result], int]) -> None:
        """Look for another process's end, and end this one when it does not do so by itself."""
        try:
            while not store.check([RESULT]):
                time.sleep(1.0)
            result = Result.model_validate_json(store.get(RESULT))
        except RuntimeError as error:
            message = f"process {self.rank} of {self.size} has lost the others ({error})"
            result = Result(kind="Train", outcome="Error", reason="ProcessLost", message=clip(message, 1024))
        time.sleep(GRACE_SECONDS)
        if not self._ending.acquire(blocking=False):
            return  # it is ending by itself
        self._wait_for_rank_0(store)
        code = end(result)
        self._said(store)
        os._exit(code)

    def _wait_for_rank_0(self, store: Any) -> None:
        if not self.first:
            _look(store, ["said/0"], TURN_SECONDS)

    def _said(self, store: Any) -> None:
        """Tell the others; rank 0, which may hold the store, stays until they have heard."""
        try:
            store.set(f"said/{self.rank}", "")
            if self.first:
                _look(store, [f"said/{rank}" for rank in range(self.size)], HEARD_SECONDS)
        except RuntimeError as error:
            logger.debug("the other processes are out of reach (%s)", error)

    def _key(self, what: str) -> str:
        self._names[what] += 1
        return f"{what}/{self._names[what]}"

    def _await(self, keys: list[str]) -> None:
        while not self._store.check(keys):
            if self._store.check([RESULT]):
                raise EndedElsewhere("another process has ended")
            time.sleep(LOOK_SECONDS)


def _look(store: Any, keys: list[str], seconds: float) -> None:
    """Until they are there, or it has been long enough."""
    until = time.monotonic() + seconds
    try:
        while not store.check(keys) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
    except RuntimeError as error:
        logger.debug("the other processes are out of reach (%s)", error)
