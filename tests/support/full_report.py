"""One report with everything in it: written by the judge's own code, with real films."""

from pathlib import Path

import numpy as np
from PIL import Image

from flowstill_evaluator.gates.chain import overall, run_gates
from flowstill_evaluator.judge import write_evidence
from flowstill_evaluator.report.media import data_uri
from flowstill_evaluator.report.subject import Training
from flowstill_evaluator.report.summary import summarise
from flowstill_evaluator.videos import Side, write_film
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.reports import judge_task, subject

TASKS = ("reach-around", "drawer-open", "a-task-with-a-name-that-is-longer-than-any-column-has-room-for")
EPISODES = 70
FILMS = 3


def write_full_report(folder: Path, *, good: bool = False) -> Path:
    """Records and the report of them; returns the folder of ``report.html``.

    Gates of all three verdicts, with missing evidence; ``good``: everything passes.
    """
    rates = {} if good else {"student-draws": 0.72}
    records = syn.write_records(folder / "records", tasks=TASKS, episodes=EPISODES, rates=rates)
    if not good:
        (records / "memory.json").unlink()
    _film(records)
    evidence, task = syn.load(records, tasks=TASKS, episodes=EPISODES), judge_task(tasks=TASKS, episodes=EPISODES)
    results = run_gates(evidence, task.gates)
    out = folder / "evidence"
    out.mkdir()
    summary = summarise(evidence, results, overall(results))
    write_evidence(out, task, subject(published_step=1125), evidence, summary, records, _training(folder))
    return out


def _film(records: Path) -> None:
    """Films of the first failures, the baseline's episodes beside them."""
    lines = syn.read_lines(records)
    failed = [(e["task"], e["episode"]) for e in lines if e["arm"] == "student-draws" and not e["success"]]
    found = {(e["arm"], e["task"], e["episode"]): e for e in lines}
    (records / "videos").mkdir()
    for number, (task, episode) in enumerate(failed[:: max(len(failed) // FILMS, 1)][:FILMS]):
        path, pair = f"videos/{number}.mp4", [found[arm, task, episode] for arm in ("student-draws", "teacher@10")]
        sides = [Side(_frames(e["steps"] // 2, e["success"]), e["success"]) for e in pair]
        write_film(records / path, *sides)
        for e in pair:
            e["video"] = path
    syn.write_lines(records, lines)


def _frames(count: int, success: bool) -> list[np.ndarray]:
    """A disc on its way to a ring, which it reaches or passes."""
    row_HW, column_HW = np.mgrid[0:240, 0:240]
    frames = []
    for number in range(count):
        frame = np.full((240, 240, 3), 226, np.uint8)
        frame[160:] = (203, 196, 186)
        part = number / max(count - 1, 1)
        height = 150 - 70 * np.sin(np.pi * part) * (1.0 if success else 0.3)
        ring_HW = np.abs(np.hypot(row_HW - 150, column_HW - 200) - 22) < 3
        disc_HW = np.hypot(row_HW - height, column_HW - (30 + (170 if success else 120) * part)) < 14
        frame[ring_HW], frame[disc_HW] = (60, 140, 90), (31, 95, 208)
        frames.append(frame)
    return frames


def _training(folder: Path) -> Training:
    """A curve of twelve looks; a blank stands for the trainer's picture, whose drawing would import torch."""
    steps = list(range(125, 1501, 125))
    curve = syn.curve(steps, published=1125, reason="nearest, with a spread of 0.91")
    looks = []
    for look in curve.looks:
        fallen = float(np.exp(-look.step / 600))
        changes = {
            "loss": 0.02 + 0.6 * fallen, "distance": 0.02 + 0.7 * fallen + 0.004 * np.sin(look.step),
            "distance_error": 0.01 + 0.04 * fallen, "spread": 0.93 - 0.5 * fallen, "cosine": 0.84 - 0.4 * fallen,
            "nearest_cosine": 0.96 - 0.3 * fallen, "mse_mean": 0.1 + fallen, "mse_median": 0.06 + 0.8 * fallen,
            "mse_p90": 0.3 + 1.6 * fallen, "mse_p95": 0.4 + 1.9 * fallen, "mean_error": 0.02 + 0.3 * fallen,
        }  # fmt: skip
        looks.append(look.model_copy(update=changes))
    curve = curve.model_copy(update={"looks": looks})
    picture = folder / "curve.png"
    Image.new("RGB", (90, 56), "white").save(picture)
    return Training(curve, data_uri(picture))
