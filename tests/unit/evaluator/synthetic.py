"""A records folder like one of a real evaluation: two-way reaching, six arms, 200 paired episodes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from flowstill.artifacts.curve import Curve, Look
from flowstill_evaluator.evidence import Evidence, Expected, load_evidence

STUDENT, TEACHER = "sha256:" + "5" * 64, "sha256:" + "7" * 64
RATES = {
    "teacher@10": 0.88,
    "teacher@4": 0.84,
    "teacher@2": 0.73,
    "teacher@1": 0.04,
    "student": 0.90,
    "student-draws": 0.985,
}
JOINTS = 7


def expected(tasks: Iterable[str] = ("reach-around",), episodes: int = 200) -> Expected:
    return Expected("metaworld", tuple(tasks), episodes, "student-draws", "teacher@10", STUDENT, TEACHER)


def episode(arm: str, task: str, index: int, **changes: Any) -> dict[str, Any]:
    success = bool(changes.get("success", True))
    return {
        "suite": "metaworld",
        "task": task,
        "arm": arm,
        "episode": index,
        "seed": 1000 + index,
        "success": success,
        "failure": None if success else "contact",
        "steps": 61 if success else 34,
        "reward": 12.5,
        "clamped_steps": 0,
        "idle_chunks": 0,
        "chunks": 8,
        "video": None,
        **changes,
    }


def outcomes(rate: float, count: int, seed: int) -> list[bool]:
    """Exactly the rate, at shuffled places."""
    made = np.arange(count) < round(rate * count)
    return [bool(x) for x in np.random.default_rng(seed).permutation(made)]


def write_records(
    folder: Path,
    tasks: Iterable[str] = ("reach-around",),
    episodes: int = 200,
    rates: dict[str, float] | None = None,
) -> Path:
    """Good evidence: what the gates pass. Tests then break one file of it."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(7)
    rates = RATES | (rates or {})
    lines = []
    for number, (arm, rate) in enumerate(rates.items()):
        for order, task in enumerate(tasks):
            for index, success in enumerate(outcomes(rate, episodes, 31 * number + order)):
                idle = int(generator.random() < 0.05)
                failure = None if success else ("timeout" if index % 5 == 0 else "contact")
                made = episode(arm, task, index, success=success, failure=failure, idle_chunks=idle)
                lines.append(made | {"steps": int(generator.normal(63, 6)) if success else 37})
    write_lines(folder, lines)
    np.savez(
        folder / "joint_velocity.npz",
        **{a: velocities(n) for n, a in enumerate(("teacher@10", "student-draws"))},
    )
    write_json(
        folder,
        "latency",
        {
            arm: {
                "calls": 1200,
                "milliseconds": [float(x) for x in generator.lognormal(np.log(ms), 0.08, 1200)],
            }
            for arm, ms in (("teacher@10", 41.0), ("student-draws", 9.2))
        },
    )
    write_json(folder, "memory", {"teacher@10": [905e6 + 1e6 * k for k in range(5)], "student-draws": [2.1e8] * 5})
    cosines = np.clip(generator.normal(0.957, 0.03, 64), -1, 1)
    write_json(
        folder,
        "fidelity",
        {
            "cosine": [float(x) for x in cosines],
            "spread_ratio": 0.87,
            "teacher_self_cosine": [float(x) for x in np.clip(generator.normal(0.971, 0.02, 64), -1, 1)],
            "observations": 64,
            "chunks": 16,
            "distances": {"student": 0.0143, "teacher_self": 0.0091},
        },
    )
    write_json(folder, "run", run_record(rates))
    return folder


def run_record(arms: Iterable[str]) -> dict[str, Any]:
    return {
        "arms": [
            {
                "name": arm,
                "uri": "store://students/reach" if arm.startswith("student") else "store://teachers/reach",
                "digest": STUDENT if arm.startswith("student") else TEACHER,
                "steps": 1 if arm.startswith("student") else int(arm.split("@")[1]),
                "draws": 8 if arm == "student-draws" else 1,
                "runtime": "onnx" if arm.startswith("student") else "torch",
                "providers": ["CPUExecutionProvider"] if arm.startswith("student") else [],
            }
            for arm in arms
        ],
        "seeds": {"environment": 0},
        "errors": [],
        "versions": {"torch": "2.9.0", "onnxruntime": "1.23.2", "mujoco": "3.3.7"},
        "host": {"cpu": "x86_64, 2 cores", "memory": "24 GiB"},
    }


def velocities(seed: int, scale: float = 1.0, rows: int = 6000) -> np.ndarray:
    """Joint velocities that are smooth in time, shape (rows, joints)."""
    generator = np.random.default_rng(100 + seed)
    noise = generator.normal(size=(rows + 8, JOINTS))
    smooth = np.apply_along_axis(lambda x: np.convolve(x, np.ones(9) / 3, mode="valid"), 0, noise)
    return (smooth * scale * np.linspace(0.2, 1.1, JOINTS)).astype(np.float32)


def write_lines(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]


def write_json(folder: Path, name: str, value: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(value))


def read_json(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def load(folder: Path, **changes: Any) -> Evidence:
    return load_evidence(folder, expected(**changes))


def curve(steps: list[int], *, published: int, reason: str = "nearest") -> Curve:
    """What a trainer writes about its looks at these steps; nothing is checked."""
    looks = [
        Look(
            step=step, loss=0.1, distances=[0.1, 0.2], distance=0.15, distance_error=0.05, spread=0.9, cosine=0.8,
            nearest_cosine=0.9, mse_mean=0.4, mse_median=0.3, mse_p90=0.8, mse_p95=1.0, mean_error=0.1,
        )
        for step in steps
    ]  # fmt: skip
    values = {"teacher_steps": 10, "observations": 64, "chunks": 16, "steps": max(steps, default=1), "looks": looks}
    return Curve.model_construct(**values, published_step=published, reason=reason)
