"""One of the processes that train a tiny student together in several ways; rank 0 writes what came out.

``python -m tests.support.train_together KIND FOLDER``, started as ``torchrun`` starts processes: :func:`together`.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.warm_children import TOGETHER, WarmProcess

REPOSITORY = Path(__file__).parents[2]
SIZE = 2
BATCH = 5
"""Odd, so that the shares differ."""
WAYS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp in parts": {"gradient_accumulation": 2},
    "fsdp": {"parallel": "fsdp"},
    "fsdp in parts": {"parallel": "fsdp", "gradient_accumulation": 2},
}


REFINED = ("ddp", "fsdp in parts")
"""Ways of which a refinement is made too."""


def meeting_point() -> dict[str, str]:
    """What tells the processes of one run how to find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(SIZE)}


def together(kind: str, folder: Path, log: Any, warm: WarmProcess | None = None) -> list[subprocess.Popen[bytes]]:
    """This module in several processes: forks of the warm one, or fresh."""
    common = os.environ | meeting_point() | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    arguments = [kind, str(folder)]
    command = [sys.executable, "-m", __name__, *arguments]
    if warm is not None:
        command = warm.command([TOGETHER, *arguments])
    return [
        subprocess.Popen(command, cwd=REPOSITORY, env=common | rank_variables(rank), stderr=log) for rank in range(SIZE)
    ]


def rank_variables(rank: int) -> dict[str, str]:
    """What tells a process which one it is."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def main(kind: str, folder: Path) -> None:
    """Train alone, then together in every way."""
    import torch

    from flowstill.api.children import Result
    from flowstill.api.distilljob import Method, Training
    from flowstill_trainer.processes import Processes
    from tests.support.tiny_run import Tiny, small

    torch.set_num_threads(1)
    processes = Processes.from_environment()
    processes.begin(lambda result: 1)
    processes.start_collectives()
    method = Method(target_steps=3, mix_ratio=0.5, bank_size=10, state_jitter=0.05)
    training = Training(
        steps=6, batch_size=BATCH, learning_rate=1e-2, warmup_steps=2, precision="fp32", ema=0.9, checkpoint_every=2
    )

    def at_3(step: int) -> bool:
        return step == 3 and processes.rank == 1

    with small(kind):
        tiny = Tiny(folder / f"tiny-{processes.rank}", kind)
        make = Maker(tiny, method, folder)
        found = {"alone": make.run(training, Processes(), f"alone-{processes.rank}")}
        for name, options in WAYS.items():
            found[name] = make.run(training.model_copy(update=options), processes, name)
        sharded = training.model_copy(update={"parallel": "fsdp"})
        found["stopped"] = make.run(sharded, processes, "resumed", stop=at_3)
        found["resumed"] = make.run(training, processes, "resumed")
        found["poisoned"] = make.run(training, processes, "poisoned", poison=at_3)
        watch = Chosen() if processes.first else None
        found["chosen"] = make.run(training, processes, "chosen", watch=watch)
        found["refined alone"] = make.refine(training, Processes(), f"refined-alone-{processes.rank}")
        for name in REFINED:
            found[f"refined {name}"] = make.refine(training.model_copy(update=WAYS[name]), processes, f"refined {name}")
        found["refined stopped"] = make.refine(sharded, processes, "refined-resumed", stop=at_3)
        found["refined resumed"] = make.refine(training, processes, "refined-resumed")
    (folder / f"found-{processes.rank}.json").write_text(json.dumps(found))
    with processes.settled(Result(kind="Train", outcome="Succeeded", reason="Done")):
        pass  # each has written its own
    os._exit(0)


class Chosen:
    """A watch that chose an earlier step, of which all weights are 7."""

    step = 2

    def due(self, step: int) -> bool:
        return False

    def state(self, step: int) -> Any:
        return (), {}

    def choice(self) -> "Chosen":
        return self

    @property
    def best(self) -> Any:
        from collections import defaultdict

        import torch

        return defaultdict(lambda: torch.tensor(7.0))


class Maker:
    """Runs of one tiny student."""

    def __init__(self, tiny: Any, method: Any, folder: Path) -> None:
        self.tiny, self.method, self.folder = tiny, method, folder
        self.weights: dict[str, Any] = {}

    def run(
        self, training: Any, processes: Any, name: str, stop: Any = None, poison: Any = None, watch: Any = None
    ) -> dict[str, Any]:
        """Losses by step; norms of the gradients; how far the weights are from the first run's; what was raised."""
        from flowstill_trainer.bank import BankPlan, make_bank
        from flowstill_trainer.batches import Batches
        from flowstill_trainer.checkpoint import CheckpointFolder
        from flowstill_trainer.train import Trainer, autocast

        root = self.folder / name
        teacher = self.tiny.teacher()
        student = self.tiny.student(teacher)
        frames = self.tiny.frames(teacher)
        plan = BankPlan(self.method.bank_size, 3, 0.05, 0, "a", lambda: autocast(training, teacher.device))
        bank = make_bank(root / "bank", plan, teacher, student, frames, lambda *_: None, lambda: False, processes)
        batches = Batches(frames, bank, student, teacher, self.method, training)
        one = Trainer(student, teacher, batches, CheckpointFolder(root / "checkpoints", "a", 2), processes, watch)
        return self._watched(one, [one.learner], "alone", stop, poison)

    def refine(self, training: Any, processes: Any, name: str, stop: Any = None) -> dict[str, Any]:
        """The same of a refinement, from the teacher's weights on."""
        from flowstill.api.distilljob import Refine
        from flowstill_trainer.checkpoint import CheckpointFolder
        from flowstill_trainer.refine import RefineBatches, Refiner

        teacher = self.tiny.teacher()
        student = self.tiny.student(teacher)
        refine = Refine(steps=5, learning_rate=1e-3, fake_learning_rate=3e-3)
        batches = RefineBatches(self.tiny.frames(teacher), student, teacher, refine, training, 0.05)
        one = Refiner(student, teacher, batches, CheckpointFolder(self.folder / name, "a", 2), processes=processes)
        begun = one.checkpoints.latest()
        if begun is not None:
            one.restore(begun)
        return self._watched(one, list(one.learners.values()), "refined", stop)

    def _watched(self, one: Any, learners: list[Any], group: str, stop: Any, poison: Any = None) -> dict[str, Any]:
        """Run it, and say what happened; weights are compared with those of the group's first run."""
        import torch

        from flowstill.errors import FlowstillError

        losses: dict[int, float] = {}
        norms: list[float] = []
        for learner in learners:
            learner.shared.clip = _noting(learner.shared.clip, norms)

        def progress(step: int, total: int, loss: float, rate: float) -> None:
            losses[step] = loss
            if poison is not None and poison(step):
                with torch.no_grad():
                    for parameter in learners[0].parameters.values():
                        parameter.fill_(float("nan"))

        error = ""
        try:
            one.run(progress, lambda: stop is not None and stop(one.step))
        except FlowstillError as raised:
            error = f"{type(raised).__name__}: {raised}"
        difference, trained = None, []
        if not error:
            weights = {n: p.detach() for n, p in one.student.policy.named_parameters()}
            first = self.weights.setdefault(group, weights)
            trained = [float(weights[name].sum()) / weights[name].numel() for name, _ in one.student.trained()]
            difference = max(float((weights[n] - p).abs().max()) for n, p in first.items())
        return {"losses": losses, "norms": norms, "difference": difference, "trained": trained, "error": error}


def _noting(clip: Any, norms: list[float]) -> Any:
    """``clip``, which notes what it returns."""

    def noted(limit: float) -> float:
        norms.append(clip(limit))
        return norms[-1]

    return noted


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
