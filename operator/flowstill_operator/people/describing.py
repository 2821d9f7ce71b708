"""Everything about one resource, for ``flowstill describe``."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flowstill_operator.children import Document
from flowstill_operator.command.display import COLOURS, arms_table, gates_table
from flowstill_operator.people.place import Surroundings
from flowstill_operator.people.tables import age, duration, progress
from flowstill_operator.steps import BAD_NEWS, parse_timestamp

REFERENCES = ("student", "teacher", "baseline", "rollouts", "evidence")
SUMMARY: Mapping[str, Sequence[str]] = {
    "DistillJob": (
        "teacher.uri", "dataset.uri", "student.draws", "method.targetSteps", "training.steps", "training.batchSize",
        "runtime.nodes", "runtime.gpusPerNode",
    ),
    "StudentRollout": (
        "student.distillJob", "student.uri", "evaluation.suite", "evaluation.tasks", "evaluation.episodesPerTask",
        "evaluation.maxEpisodesPerTask", "evaluation.shards", "gates.profile", "approval", "target.deployment.name",
        "monitoring.window", "monitoring.interval",
    ),
}  # fmt: skip
"""Fields of the spec that say what it is about."""
MAX_LISTED = 5
TRUTHS = {"True": "green", "False": "red", "Unknown": "yellow"}


def describe(console: Console, resource: Document, around: Surroundings, steps: Sequence[str], now: datetime) -> None:
    """Print it."""
    metadata, status = resource["metadata"], resource.get("status") or {}
    phase = status.get("phase", "Pending")
    console.print(Text.assemble((f"{resource['kind']} {metadata['name']}", "bold")))
    console.print(Padding(_facts(resource, status, phase, now, around), (0, 0, 0, 2), expand=False))
    sections: list[tuple[str, RenderableType | None]] = [
        ("Spec", _rows([(path, text) for path, text in summary(resource)])),
        ("Conditions", _conditions(status.get("conditions") or [], now)),
        ("Arms", arms_table(status["arms"]) if status.get("arms") else None),
        ("Gates", gates_table(status["gates"]) if status.get("gates") else None),
        ("Monitoring", _signals(status.get("monitoring") or {}, now)),
        ("Artifacts", _rows([(n, f"{status[n]['uri']}") for n in REFERENCES if status.get(n)])),
        ("People", _actions(status.get("actions") or [])),
        ("Children", _children(around)),
        ("Events", _events(around, now)),
        ("What to do next", _rows([(f"{number}.", step) for number, step in enumerate(steps, start=1)])),
    ]
    for title, content in sections:
        if content is not None:
            console.print()
            console.print(Text(title, style="bold"))
            console.print(Padding(content, (0, 0, 0, 2), expand=False))


def summary(resource: Document) -> Iterator[tuple[str, str]]:
    """What the spec is about: (field, value)."""
    for path in SUMMARY[resource["kind"]]:
        value: Any = resource["spec"]
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, list):
            more = f" and {len(value) - MAX_LISTED} more" if len(value) > MAX_LISTED else ""
            yield path, ", ".join(map(str, value[:MAX_LISTED])) + more
        elif value is not None:
            yield path, str(value)


def _facts(resource: Document, status: dict[str, Any], phase: str, now: datetime, around: Surroundings) -> Table:
    metadata = resource["metadata"]
    rows: list[tuple[str, RenderableType]] = [("namespace", metadata.get("namespace", ""))]
    rows.append(("phase", Text(f"{phase}, stopped" if around.stopped else phase, style=COLOURS.get(phase, ""))))
    if status.get("message"):
        rows.append(("message", status["message"]))
    done = progress(resource)
    if done is not None:
        found = status.get("progress") or {}
        parts = [f"{done}%"]
        parts += [f"step {found['step']} of {found['totalSteps']}"] if found.get("totalSteps") else []
        parts += [f"loss {found['loss']:.4g}"] if "loss" in found else []
        parts += [f"{found['samplesPerSecond']:.3g} samples/s"] if "samplesPerSecond" in found else []
        parts += (
            [f"{duration(found['estimatedRemainingSeconds'])} left"] if found.get("estimatedRemainingSeconds") else []
        )
        rows.append(("progress", ", ".join(parts)))
    rows.append(("age", age(metadata.get("creationTimestamp"), now)))
    if status.get("startTime"):
        end = parse_timestamp(status["completionTime"]) if status.get("completionTime") else now
        rows.append(
            (
                "took" if status.get("completionTime") else "since its start",
                duration(max(0.0, (end - parse_timestamp(status["startTime"])).total_seconds())),
            )
        )
    rows += [("attempts", str(status["attempts"]))] if status.get("attempts") else []
    rows += [("image", status["image"])] if status.get("image") else []
    rows += [("target serves", around.served or "no policy of ours")] if around.served is not None else []
    if phase in ("Promoting", "Monitoring") and "rollBackTo" in status:
        rows += [("a roll-back puts", status["rollBackTo"] or "no entry: the initial policy")]
    return _rows(rows) or _grid()


def _grid() -> Table:
    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))


def _rows(rows: Sequence[tuple[str, RenderableType]]) -> Table | None:
    if not rows:
        return None
    grid = _grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(name), Text(value) if isinstance(value, str) else value)
    return grid


def _listed(headers: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table | None:
    if not rows:
        return None
    table = Table(box=None, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def _conditions(conditions: Sequence[dict[str, Any]], now: datetime) -> Table | None:
    rows = [
        (c["type"], Text(c["status"], style=TRUTHS[c["status"]] if c["type"] not in BAD_NEWS else ""), c["reason"],
         age(c.get("lastTransitionTime"), now), c.get("message", ""))
        for c in conditions
    ]  # fmt: skip
    return _listed(("TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"), rows)


def _signals(monitoring: dict[str, Any], now: datetime) -> Table | None:
    """Every signal of the window: the newest number, and how often there was one."""
    rows = [
        (s["name"], f"{s['value']:g}" if "value" in s else "", f"{s['threshold']:g}", str(s["samples"]),
         str(s["missing"]), str(s["breaches"]), age(s.get("lastChecked"), now), s.get("message", ""))
        for s in monitoring.get("signals") or []
    ]  # fmt: skip
    headers = ("SIGNAL", "VALUE", "LIMIT", "NUMBERS", "MISSING", "BREACHES IN A ROW", "CHECKED", "WHY NONE")
    return _listed(headers, rows)


def _actions(actions: Sequence[dict[str, Any]]) -> Table | None:
    rows = [
        (
            a["time"],
            a["action"],
            a.get("by", ""),
            a.get("reason", ""),
            f"refused: {a['refused']}" if a.get("refused") else "",
        )
        for a in actions
    ]
    return _listed(("TIME", "ACTION", "BY", "WHY", ""), rows)


def _children(around: Surroundings) -> Table | None:
    rows = [(child.role, child.name, child.state, "\n".join(child.pods)) for child in around.children]
    return _listed(("ROLE", "JOB", "STATE", "PODS"), rows)


def _events(around: Surroundings, now: datetime) -> Table | None:
    rows = [
        (
            age(event.time, now),
            Text(event.type, style="yellow" if event.type == "Warning" else ""),
            event.reason,
            event.message,
        )
        for event in around.events
    ]
    return _listed(("AGE", "TYPE", "REASON", "MESSAGE"), rows)
