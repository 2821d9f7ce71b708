"""What ``flowstill run`` shows while it runs, and at its end."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from flowstill.api import GROUP
from flowstill.api.children import ProgressReport
from flowstill.api.overrides import described
from flowstill.api.studentrollout import GateResult
from flowstill.artifacts.uris import Locations, local_path
from flowstill.errors import ArtifactError
from flowstill_operator.children import Document
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.steps import Note

LIVE_SECONDS = 0.5
PLAIN_SECONDS = 10.0
COLOURS = {
    "Completed": "green", "Succeeded": "green", "Pass": "green", "Inconclusive": "yellow", "Rejected": "red",
    "Failed": "red", "Fail": "red", "Superseded": "red", "RolledBack": "red",
}  # fmt: skip


class Display:
    """A bar per child on a terminal; plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = console.is_terminal
        self._last: dict[str, float] = {}
        self._said: dict[str, tuple[str, str]] = {}

    def event(self, resource: Document, note: Note) -> None:
        """One line per event; warnings stand out. What a resource's end repeats was said a line before."""
        said = (note.reason, note.message.partition(": ")[2])
        name = f"{resource['kind']} {resource['metadata']['name']}"
        if said[1] and self._said.get(name) == said:
            return
        self._said[name] = said
        style = "yellow" if note.type == "Warning" else None
        self.console.print(
            f"{name}: {note.reason}: {note.message}", style=style, markup=False, highlight=False, soft_wrap=True
        )

    async def follow(self, cluster: LocalCluster) -> None:
        """Show running children for ever."""
        if not self._live:
            while True:
                for job, report in await cluster.running():
                    self._line(job, report)
                await asyncio.sleep(1.0)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            tasks: dict[str, TaskID] = {}
            while True:
                running = await cluster.running()
                _show(bars, tasks, running)
                await asyncio.sleep(LIVE_SECONDS)

    def _line(self, job: Document, report: ProgressReport | None) -> None:
        name = job["metadata"]["name"]
        now = time.monotonic()
        if report is None or now - self._last.get(name, -PLAIN_SECONDS) < PLAIN_SECONDS:
            return
        self._last[name] = now
        count = f"{report.step}/{report.total_steps}" if report.total_steps else ""
        text = " ".join(part for part in (f"{title(job)}: {report.activity}", count, detail(report)) if part)
        self.console.print(text, markup=False, highlight=False)


def title(job: Document) -> str:
    """Which child of which resource."""
    labels = job["metadata"]["labels"]
    return f"{labels[f'{GROUP}/owner-name']} {labels[f'{GROUP}/role']}"


def detail(report: ProgressReport) -> str:
    """Loss, speed and what is left, as far as they are known."""
    parts = []
    if report.loss is not None:
        parts.append(f"loss {report.loss:.4g}")
    if report.samples_per_second is not None:
        parts.append(f"{report.samples_per_second:.3g}/s")
    if report.estimated_remaining_seconds is not None:
        parts.append(f"{report.estimated_remaining_seconds} s left")
    return ", ".join(parts)


def _show(bars: Progress, tasks: dict[str, TaskID], running: Sequence[tuple[Document, ProgressReport | None]]) -> None:
    names = {job["metadata"]["name"] for job, _ in running}
    for name in [name for name in tasks if name not in names]:
        bars.remove_task(tasks.pop(name))
    for job, report in running:
        name = job["metadata"]["name"]
        if name not in tasks:
            tasks[name] = bars.add_task(f"{title(job)}: starting", total=None, detail="")
        if report is not None:
            bars.update(
                tasks[name],
                description=f"{title(job)}: {report.activity}",
                completed=report.step,
                total=report.total_steps or None,
                detail=detail(report),
            )


def summarise(
    console: Console, resources: Sequence[Document], locations: Locations, logs: Sequence[Mapping[str, Path]]
) -> None:
    """Every resource with its end and its children's logs; of a rollout also arms, gates, and where its report lies."""
    for resource, paths in zip(resources, logs, strict=True):
        status: dict[str, Any] = resource.get("status") or {}
        phase = status.get("phase", "Pending")
        name = f"{resource['kind']} {resource['metadata']['name']}"
        console.print()
        console.print(f"[bold]{name}[/bold]: [{COLOURS.get(phase, 'default')}]{phase}[/]", highlight=False)
        if status.get("message"):
            console.print(f"  {status['message']}", markup=False, highlight=False, soft_wrap=True)
        for field in ("student", "evidence"):
            if status.get(field):
                console.print(f"  {field}: {status[field]['uri']}", markup=False, highlight=False, soft_wrap=True)
        if status.get("arms"):
            console.print(arms_table(status["arms"]))
        if status.get("gates"):
            console.print(gates_table(status["gates"]))
        report = report_path(status, locations)
        if report is not None:
            console.print(f"  report: {report}", markup=False, highlight=False, soft_wrap=True)
        for role, path in paths.items():
            console.print(f"  log of {role}: {path}", markup=False, highlight=False, soft_wrap=True)


def report_path(status: dict[str, Any], locations: Locations) -> Path | None:
    """Where the HTML report of a rollout lies."""
    if not status.get("evidence"):
        return None
    try:
        path = local_path(status["evidence"]["uri"], locations) / "report.html"
    except ArtifactError:
        return None
    return path if path.exists() else None


def arms_table(arms: Sequence[dict[str, Any]]) -> Table:
    """Every arm with its success, N and interval."""
    table = Table("ARM", "SUCCESS", "EPISODES", "95 % INTERVAL", box=None, pad_edge=True)
    for arm in arms:
        interval = arm["interval"]
        share = f"{100 * arm['success']:.1f} %"
        bounds = f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f} %"
        table.add_row(arm["name"], share, str(arm["episodes"]), bounds)
    return table


def gates_table(gates: Sequence[dict[str, Any]]) -> Table:
    """Every gate with its verdict."""
    table = Table("GATE", "VERDICT", "MEASURED", "THRESHOLD", "N", "", box=None, pad_edge=True)
    for gate in gates:
        colour = COLOURS.get(gate["verdict"], "default")
        table.add_row(
            gate["name"],
            f"[{colour}]{gate['verdict']}[/]",
            _number(gate.get("measured")),
            _number(gate.get("threshold")),
            str(gate.get("samples", 0)),
            _sentence(gate),
        )
    return table


def _sentence(gate: dict[str, Any]) -> str:
    """What was measured, and who answers for it all the same."""
    result = GateResult.model_validate(gate)
    return f"{result.message} {described(result)}".strip() if result.override else result.message


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
