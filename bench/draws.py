"""What draws cost: a one-step student with 1, 4, 8 and 16 draws beside its teacher's ten steps, batch 1.

    .venv/bin/python bench/draws.py                       # the quickstart's SmolVLA, on this machine's CPU
    .venv/bin/python bench/draws.py --teacher FOLDER      # any teacher that Flowstill distills

Every arm is asked in turn, so that they share whatever else the machine does; ratios are of medians, to the teacher at
its own steps in PyTorch. Memory is the peak of a fresh process that loads one arm and answers 20 times. What the
student has learnt does not change what it costs, so it is made from the teacher and not trained.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart" / "teacher"
DRAWS = (1, 4, 8, 16)
BASELINE = "teacher, PyTorch"
Ask = Callable[[int], object]
"""One answer; the number seeds its noise."""


def teacher_of(folder: Path, threads: int) -> Any:
    """The teacher, computing with so many threads."""
    import torch

    from flowstill.policies.registry import load_flow_policy

    torch.set_num_threads(threads)
    return load_flow_policy(folder)


def student_of(teacher: Any) -> Any:
    """A student that starts as this teacher."""
    return teacher.make_student(draws=8, neighbours=3, action_steps=None, multi_step=True)


def observations(policy: Any, count: int) -> dict[str, Any]:
    """Observations of the policy's shape, all alike."""
    import torch

    shapes = {name: feature.shape for name, feature in policy.policy.config.image_features.items()}
    return {
        "observation.state": torch.zeros(count, policy.state_dim),
        **{name: torch.zeros(count, *shapes[name]) for name in policy.cameras},
        "task": ["reach behind the post"] * count,
    }


def torch_arm(policy: Any, draws: int | None) -> Ask:
    """Preprocessed observation to chunk: the teacher at its own steps (``draws`` None), or the student's jump."""
    import torch
    from lerobot_policy_flowstill.draws import densest_chunk

    batch = policy.preprocess(observations(policy, 1))
    shape = (policy.chunk_size, policy.padded_action_dim)

    def ask(seed: int) -> object:
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            prefix = policy.encode_prefix(batch)
            if draws is None:
                return policy.chunk(prefix, torch.randn((1, *shape), generator=random), policy.steps)
            chunks = policy.jump(prefix, torch.randn((1, draws, *shape), generator=random))
            options = {"action_steps": policy.action_steps, "action_dim": policy.action_dim}
            return densest_chunk(chunks, neighbours=policy.neighbours, **options)

    return ask


def onnx_arm(graph: Path, draws: int, threads: int) -> Ask:
    """The exported graph, whose inputs were stored beside it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    with np.load(graph.with_suffix(".npz")) as stored:
        used = {value.name for value in session.get_inputs()}
        feeds = {name: stored[name] for name in stored.files if name in used}
        shape = tuple(stored["noise_shape"])

    def ask(seed: int) -> object:
        noise_BKHD = np.random.default_rng(seed).standard_normal((1, draws, *shape)).astype(np.float32)
        return session.run(["actions"], feeds | {"noise": noise_BKHD})

    return ask


def export_student(student: Any, graph: Path) -> None:
    """Write the graph and the preprocessed tensors of one observation."""
    from flowstill_trainer.export import CHECKED, export

    export(student, student.preprocess(observations(student, CHECKED)), graph)
    seen = student.prepared(student.preprocess(observations(student, 1))).padded_to(student.token_length).named()
    arrays = {name: value.cpu().numpy() for name, value in seen.items()}
    np.savez(graph.with_suffix(".npz"), noise_shape=(student.chunk_size, student.padded_action_dim), **arrays)


def arm(name: str, teacher: Path, graph: Path, threads: int) -> Ask:
    """The arm of that name, loaded alone."""
    if name == BASELINE:
        return torch_arm(teacher_of(teacher, threads), None)
    kind, _, draws = name.partition(" ")
    if kind == "onnx":
        return onnx_arm(graph, int(draws), threads)
    return torch_arm(student_of(teacher_of(teacher, threads)), int(draws))


def names() -> list[str]:
    """All arms, the baseline first."""
    return [BASELINE, *(f"{kind} {draws}" for kind in ("torch", "onnx") for draws in DRAWS)]


def peak_memory(name: str, options: argparse.Namespace, graph: Path) -> float:
    """MiB at most of a fresh process that answers 20 times."""
    command = [sys.executable, __file__, "--alone", name, "--teacher", str(options.teacher), "--graph", str(graph)]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def alone(options: argparse.Namespace) -> None:
    """Print this process's peak memory in MiB after 20 answers."""
    ask = arm(options.alone, options.teacher, options.graph, options.threads)
    for seed in range(20):
        ask(seed)
    # Not getrusage: what it says of a process includes the one that started it.
    status = Path("/proc/self/status").read_text()
    print(json.dumps(int(status.split("VmHWM:")[1].split()[0]) / 1024))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=QUICKSTART)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "student.onnx"
        export_student(student_of(teacher_of(options.teacher, options.threads)), graph)
        arms = {name: arm(name, options.teacher, graph, options.threads) for name in names()}
        times: dict[str, list[float]] = {name: [] for name in arms}
        for call in range(-10, options.calls):
            for name, ask in arms.items():
                started = time.perf_counter()
                ask(call + 10)
                if call >= 0:
                    times[name].append(1000 * (time.perf_counter() - started))
        memory = {name: peak_memory(name, options, graph) for name in arms}
    base = statistics.median(times[BASELINE])
    print(f"{options.calls} calls an arm, {options.threads} thread(s), batch 1, {options.teacher}")
    print("| arm | median ms | p99 ms | of the teacher | peak MiB | of the teacher |\n|---|---|---|---|---|---|")
    for name, found in times.items():
        median, p99 = statistics.median(found), float(np.percentile(found, 99))
        print(
            f"| {name} | {median:.2f} | {p99:.2f} | {median / base:.2f} | {memory[name]:.0f} "
            f"| {memory[name] / memory[BASELINE]:.2f} |"
        )


if __name__ == "__main__":
    main()
