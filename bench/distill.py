"""What a step of distillation costs: Flowstill's trainer beside a plain loop and beside the paper's accounting.

    .venv/bin/python bench/distill.py                          # the three policies, tiny, and the quickstart's teacher
    .venv/bin/python bench/distill.py --policy quickstart --batch-size 128
    .venv/bin/python bench/distill.py --size full              # full-size networks, random weights, on a CUDA device
    .venv/bin/python bench/distill.py --size full --policy smolvla --batch-size 2 --steps 3   # fits a CPU of 24 GiB
    .venv/bin/python bench/distill.py --size full --policy pi0 --layers 6 --batch-size 2 --steps 2 --no-memory   # too

The plain loop (plain_loop.py) calls LeRobot's own training forward for every velocity and holds a second copy of the
model as teacher, also at two target steps, where targets are the student's own. A step is the batch and the update;
on a CPU its processor time counts, which other processes of the machine hardly change, and on a GPU the wall clock's.
Both take the same samples; before anything is timed their losses and gradients must agree in fp32. Then they step in
turn, so that they share whatever else the machine does; ratios are of medians. Calls of the expert and passes of the
VLM are counted by hooks. Memory is the peak of three steps in a fresh process that has loaded one arm: of the whole
process on a CPU, and in brackets what lies above its imports; of PyTorch's tensors on a GPU. The bank has few rows
here; its prefixes are kept where those of a bank of ``BANK`` rollouts would be.

A full-size network sees three pictures, one of a camera and two of empty ones, which LeRobot computes like any other.
Without a GPU the memory is that of two steps; ``--no-memory`` leaves it out.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lerobot_policy_flowstill.heads import drop_heads
from memory import Peak, cells, process_memory
from plain_loop import Cost, PlainLoop, counted
from shallow import LAYERS, shallow

from flowstill.api.distilljob import Dataset, Method, Training
from flowstill.policies import checkpoints
from flowstill.policies.pipelines import tokenizer_step
from flowstill.policies.registry import TEACHERS, load_flow_policy
from flowstill_trainer.bank import PREFIX_LIMIT, Bank, BankPlan, make_bank
from flowstill_trainer.batches import Batch, Batches, Sampled
from flowstill_trainer.checkpoint import CheckpointFolder
from flowstill_trainer.data import Frames, load_frames
from flowstill_trainer.train import Trainer, autocast

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "examples" / "quickstart"
POLICIES = (*TEACHERS, "quickstart")
BANK = 12_000
"""Rollouts of a bank as it is used (the quickstart's); decides whether its prefixes fit."""
TOLERANCE = {"loss": 1e-4, "gradient": 1e-3}
"""Relative, fp32."""
OURS, PLAIN = "Flowstill", "plain loop"
EMPTY_CAMERAS = 2
"""Beside the dataset's one: three pictures, as the published policies see."""
PAPER = "| the paper's (2 target steps) | – | – | – | – | 2.0 | 1.0 | 1 | 1.0 |"
"""SnapFlow, arXiv 2604.05656: 2.0 expert calls a sample, 1.0 of them with gradient, one prefix pass a batch."""


@dataclass(frozen=True)
class Setting:
    """What is distilled how."""

    target_steps: int
    mix_ratio: float
    bank: bool

    def __str__(self) -> str:
        """As the table names it."""
        return f"targetSteps {self.target_steps}, mixRatio {self.mix_ratio:g}{', bank' if self.bank else ''}"


SETTINGS = (Setting(2, 0.5, False), Setting(10, 0.5, False), Setting(10, 1.0, True), Setting(10, 0.5, True))


@dataclass(frozen=True)
class Scene:
    """A teacher, which can be loaded several times, and frames for it."""

    load: Callable[[], Any]
    dataset: Path
    episodes: list[int] | None = None

    def frames(self, policy: Any) -> Frames:
        """The frames as this policy takes them."""
        return load_frames(self.dataset, Dataset(uri="file:///dataset", episodes=self.episodes), policy)


@contextmanager
def scene_of(options: argparse.Namespace, policy: str, folder: Path) -> Iterator[Scene]:
    """The scene, made in ``folder`` if it is not there yet."""
    if policy == "quickstart":
        yield Scene(lambda: load_flow_policy(QUICKSTART / "teacher"), QUICKSTART / "dataset", list(range(20)))
        return
    sys.path.insert(0, str(ROOT))  # not at the end: site-packages may hold a "tests" of somebody else
    from tests.support.tiny_run import Tiny, small

    teacher = folder / "teacher"
    if not teacher.exists():
        with small(policy):
            Tiny(folder, policy)
    with small(policy) if options.size == "tiny" else nullcontext():
        load = (
            (lambda: load_flow_policy(teacher))
            if options.size == "tiny"
            else (lambda: full_size(policy, teacher, full_device(), options.layers))
        )
        yield Scene(load, folder / "dataset")


def full_device() -> str:
    """Where full-size networks are measured."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def full_size(kind: str, tiny: Path, device: str, layers: int = LAYERS) -> Any:
    """The policy as LeRobot builds it by default, with random weights and the tiny one's features and processors.

    On the device ``meta`` it has shapes and no numbers. ``layers`` are those of a Gemma.
    """
    from lerobot.policies.factory import make_policy_config

    from tests.support.tiny_smolvla import enlarge_vlm

    enlarge_vlm(tiny / "vlm" / "config.json")
    flow, small = TEACHERS[kind](), checkpoints.read_config(tiny, "cpu", "--size")
    config = make_policy_config(
        kind,
        input_features={name: value for name, value in small.input_features.items() if "empty_camera" not in name},
        output_features=small.output_features,
        device="cpu" if device == "meta" else device,  # LeRobot knows no other
        push_to_hub=False,
        empty_cameras=EMPTY_CAMERAS,
    )
    flow.adapt_config(config, tiny, "--size")
    home, config.device = config.device, device
    torch.manual_seed(0)
    with torch.device(device), shallow(kind, layers):
        policy = flow.policy_class(kind)(config)
    drop_heads(policy)
    policy.to(device).requires_grad_(False)
    config.device = home
    before, after = checkpoints.load_processors(tiny, config, flow.tokenizer(config), "--size")
    tokenizer_step(before).max_length = config.tokenizer_max_length
    made = flow(policy, before, after)
    made.device = torch.device(device)
    return made


@dataclass
class Arm:
    """One way to train, with its own batches of the same samples."""

    student: Any
    teacher: Any
    loop: Trainer | PlainLoop
    batches: Iterator[Sampled] | Iterator[Batch]

    def step(self) -> float:
        """A batch and an update; returns the loss."""
        loss = self.loop.update(next(self.batches))
        if self.student.device.type == "cuda":
            torch.cuda.synchronize()
        return loss

    def gradients(self) -> dict[str, torch.Tensor]:
        """Those of the last step, clipped."""
        return {n: p.grad.detach().clone() for n, p in self.student.trained() if p.grad is not None}


@dataclass(frozen=True)
class Bench:
    """What every arm of one setting needs."""

    scene: Scene
    setting: Setting
    batch_size: int
    folder: Path

    def method(self) -> Method:
        """The spec's."""
        rows = self.batch_size if self.setting.bank else 0
        return Method(target_steps=self.setting.target_steps, mix_ratio=self.setting.mix_ratio, bank_size=rows)

    def training(self) -> Training:
        """The spec's, in fp32."""
        return Training(batch_size=self.batch_size, precision="fp32")

    def arm(self, name: str, teacher: Any, base: Any) -> Arm:
        """The arm of that name; its student is made from ``base``."""
        student = make_student(base)
        bank = self.bank(teacher, student) if self.setting.bank else None
        if bank is not None and name == PLAIN:
            bank = replace(bank, prefix=None)
        method, training = self.method(), self.training()
        batches = Batches(self.scene.frames(teacher), bank, student, teacher, method, training)
        if name == OURS:
            checkpoints = CheckpointFolder(self.folder / "checkpoints", "bench", 1)
            return Arm(student, teacher, Trainer(student, teacher, batches, checkpoints), batches.iterate(0))
        whole = (batches.batch(sampled) for sampled in batches.iterate(0))
        return Arm(student, teacher, PlainLoop(student, teacher, method, training), whole)

    def bank(self, teacher: Any, student: Any) -> Bank:
        """Rollouts for one batch; the prefixes too, if those of a whole bank would be kept."""
        plan = BankPlan(
            self.batch_size,
            self.setting.target_steps,
            0.0,
            0,
            "bench",
            lambda: autocast(self.training(), teacher.device),
        )
        frames = self.scene.frames(teacher)
        bank = make_bank(self.folder / "bank", plan, teacher, student, frames, lambda *_: None, lambda: False)
        fits = bank.prefix is not None and bank.prefix.size_in_bytes() / self.batch_size * BANK <= PREFIX_LIMIT
        return bank if fits else replace(bank, prefix=None)


def make_student(teacher: Any) -> Any:
    """A student that has learnt something: one that equals its teacher would hide which of them makes the targets."""
    student = teacher.make_student(draws=8, neighbours=3, action_steps=None, multi_step=True)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in student.trained():
            parameter += 0.01 * torch.randn(parameter.shape, generator=random).to(parameter.device)
    return student


def compare(arms: dict[str, Arm]) -> tuple[dict[str, Cost], str]:
    """One step of each, counted; how far they are apart.

    Raises:
        AssertionError: losses or gradients differ, so that the arms do not do the same work.
    """
    costs, losses, gradients = {}, {}, {}
    for name, arm in arms.items():
        with counted(arm.student, arm.teacher) as costs[name]:
            losses[name] = arm.step()
        gradients[name] = arm.gradients()
    ours, plain = gradients[OURS], gradients[PLAIN]
    if ours.keys() != plain.keys():
        raise AssertionError(f"other parameters have gradients: {sorted(ours.keys() ^ plain.keys())[:8]}")
    square = sum(float((ours[name] - plain[name]).square().sum()) for name in ours)
    found = {
        "loss": abs(losses[OURS] - losses[PLAIN]) / abs(losses[PLAIN]),
        "gradient": (square / sum(float(value.square().sum()) for value in plain.values())) ** 0.5,
    }
    for what, difference in found.items():
        if not difference <= TOLERANCE[what]:
            raise AssertionError(f"the {what} of the arms differs by {difference:.1e}; {losses}")
    said = ", ".join(f"{what} {difference:.0e}" for what, difference in found.items())
    return costs, f"loss {losses[OURS]:.4f}, apart by {said}"


def timed(arms: dict[str, Arm], steps: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of every step, the arms in turn, after those that do not count. On a GPU in bf16, the spec's default."""
    on_gpu = any(arm.student.device.type == "cuda" for arm in arms.values())
    now = time.perf_counter if on_gpu else time.process_time
    for arm in arms.values():
        if on_gpu:
            arm.loop.training = arm.loop.training.model_copy(update={"precision": "bf16"})
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for step in range(-warm_up, steps):
        for name, arm in arms.items():
            started = now()
            arm.step()
            if step >= 0:
                seconds[name].append(now() - started)
    return seconds


def warm_up(options: argparse.Namespace) -> int:
    """Steps before those that count, beside the one that is compared: a full-size one takes a minute on a CPU."""
    return 0 if options.size == "full" and full_device() == "cpu" else 2


def alone(options: argparse.Namespace) -> None:
    """Print the MiB at most of three steps of one arm, and how many of them are above the imports."""
    policy, on_gpu = options.policy, options.size == "full" and full_device() == "cuda"
    TEACHERS.get(policy, TEACHERS["smolvla"])()
    for module in ("lerobot.datasets.lerobot_dataset", "torch._dynamo"):  # what frames and optimizers import
        import_module(module)
    imported = process_memory("VmRSS")
    with scene_of(options, policy, options.folder) as scene:
        bench = Bench(scene, SETTINGS[options.setting], options.batch_size, options.folder)
        teacher = scene.load()
        # Of the plain loop's second copy only the student stays; ours shares the teacher's VLM.
        arm = bench.arm(options.alone, teacher, teacher if options.alone == OURS else scene.load())
        gc.collect()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
        timed({options.alone: arm}, 1 + (warm_up(options) == 0), warm_up(options))
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else process_memory("VmHWM")
    print(json.dumps([peak, peak if on_gpu else peak - imported]))


def peak_memory(name: str, options: argparse.Namespace, policy: str, setting: int, folder: Path) -> Peak | None:
    """:func:`alone` in a fresh process; None where it is left out."""
    if options.no_memory:
        return None
    command = [sys.executable, __file__, "--alone", name, "--setting", str(setting), "--folder", str(folder)]
    command += ["--policy", policy, "--size", options.size, "--layers", str(options.layers)]
    command += ["--batch-size", str(options.batch_size), "--threads", str(options.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    whole, above = json.loads(done.stdout.splitlines()[-1])
    return whole, above


def report(bench: Bench, arms: dict[str, Arm], memory: dict[str, Peak | None], options: argparse.Namespace) -> None:
    """Measure one setting and print its rows."""
    size = bench.batch_size
    costs, said = compare(arms)
    medians = {name: statistics.median(found) for name, found in timed(arms, options.steps, warm_up(options)).items()}
    print(f"| **{bench.setting}** ({said}) | | | | | | | | |")
    for name, cost in costs.items():
        print(
            f"| {name} | {size / medians[name]:.3g} | {medians[PLAIN] / medians[name]:.2f} "
            f"| {cells(memory[name], memory[PLAIN])} | {cost.expert / size:.1f} | {cost.gradient / size:.1f} "
            f"| {cost.passes} | {cost.prefix / size:.1f} |"
        )
    print(PAPER, flush=True)


def measure(options: argparse.Namespace, policy: str, folder: Path) -> None:
    """Print the table of one policy."""
    with scene_of(options, policy, folder) as scene:
        memory = [
            {name: peak_memory(name, options, policy, setting, folder) for name in (OURS, PLAIN)}
            for setting in options.settings
        ]
        teacher, base = scene.load(), scene.load()
        parameters = sum(parameter.numel() for parameter in teacher.policy.parameters()) / 1e6
        where = torch.cuda.get_device_name() if teacher.device.type == "cuda" else f"CPU, {options.threads} thread(s)"
        print(
            f"\n### {policy}, {options.size if policy in TEACHERS else 'as it is'}: {parameters:.2f} M parameters, "
            f"batch {options.batch_size}, {options.steps} steps an arm, {where}\n\n"
            "| arm | samples/s | of the plain loop's | peak MiB (above imports) | of the plain loop's "
            "| expert calls a sample | with gradient | prefix passes a step | prefix rows a sample |\n"
            "|---|---|---|---|---|---|---|---|---|"
        )
        for setting, found in zip(options.settings, memory, strict=True):
            bench = Bench(scene, SETTINGS[setting], options.batch_size, folder)
            arms = {OURS: bench.arm(OURS, teacher, teacher), PLAIN: bench.arm(PLAIN, teacher, base)}
            report(bench, arms, found, options)
            del arms
            gc.collect()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", choices=(*POLICIES, "all"), default="all")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    numbered = "; ".join(f"{number}: {setting}" for number, setting in enumerate(SETTINGS))
    every = range(len(SETTINGS))
    parser.add_argument("--settings", type=int, nargs="+", choices=every, default=[*every], help=f"{numbered}; all")
    parser.add_argument("--batch-size", type=int, help="default: 32, and the paper's 4 at full size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of π0's and π0.5's {LAYERS}, at full widths")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out, which takes six loads")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    full = options.size == "full"
    gemma = options.policy in ("pi0", "pi05")
    if options.layers != LAYERS and not (full and gemma and 0 < options.layers < LAYERS):
        parser.error(f"--layers, of {LAYERS}, is for --size full and --policy pi0 or pi05")
    if full and options.policy != "smolvla" and options.layers == LAYERS and full_device() == "cpu":
        parser.error("without a CUDA device, --policy smolvla fits the memory, and pi0 and pi05 with --layers 6")
    if full and options.policy == "quickstart":
        parser.error(f"the quickstart's teacher has one size; give --policy {', '.join(TEACHERS)} or all")
    options.batch_size = options.batch_size or (4 if full else 32)
    torch.set_num_threads(options.threads)
    if options.alone:
        alone(options)
        return
    policies = TEACHERS if full else POLICIES
    for policy in policies if options.policy == "all" else [options.policy]:
        with tempfile.TemporaryDirectory() as folder:
            measure(options, policy, Path(folder))
        gc.collect()
        if full and full_device() == "cuda":
            torch.cuda.empty_cache()  # the next policy's processes need it


if __name__ == "__main__":
    main()
