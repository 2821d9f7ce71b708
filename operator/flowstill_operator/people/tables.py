"""One line per resource, with a bar of how far it is."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flowstill.api.fields import duration_seconds
from flowstill_operator.children import Document
from flowstill_operator.command.display import COLOURS
from flowstill_operator.people.place import SHORT
from flowstill_operator.rollout.observe import STEPS as ROLLOUT_STEPS
from flowstill_operator.steps import parse_timestamp

UNITS = ((86_400, "d"), (3600, "h"), (60, "m"))
BAR, NARROW_BAR = 12, 5
STOPPED = "Stopped"
"""No phase: nobody works on it, and the command that did goes on when it is given again."""
WIDE, WIDEST = 100, 130
"""Columns of the terminal from which on the bar is long, and messages are shown."""
PLAIN_WIDTH = 10_000
"""Of what goes into a file or a pipe, where nothing may be cut or folded."""


def uncut(console: Console) -> Console:
    """The same console; into a file or a pipe one without an end of line."""
    return console if console.is_terminal else Console(file=console.file, width=PLAIN_WIDTH)


def states(
    resources: Sequence[Document],
    now: datetime,
    *,
    width: int,
    namespaces: bool = False,
    stopped: Callable[[Document], bool] = lambda resource: False,
) -> Table:
    """The table of ``flowstill get``; ``namespaces``: with a column of theirs; ``stopped``: as a Place says."""
    table = Table(box=None, pad_edge=False)
    names = ["NAMESPACE"] if namespaces else []
    names += ["NAME", "PHASE", "PROGRESS", "", "LEFT", "SUCCESS", "BASELINE", "GATES", "AGE"]
    names += ["MESSAGE"] if width >= WIDEST else []
    for name in names:
        table.add_column(name, no_wrap=name != "MESSAGE", justify="right" if name in ("", "LEFT") else "left")
    for resource in resources:
        status: dict[str, Any] = resource.get("status") or {}
        metadata, phase, done = resource["metadata"], status.get("phase", "Pending"), progress(resource)
        rest = left(resource, now)
        if stopped(resource):
            phase, rest = STOPPED, ""
        bar = ProgressBar(completed=done or 0, width=BAR if width >= WIDE else NARROW_BAR)
        cells: list[RenderableType] = [metadata.get("namespace", "")] if namespaces else []
        cells += [f"{SHORT[resource['kind']]}/{metadata['name']}", Text(phase, style=COLOURS.get(phase, ""))]
        cells += ["", ""] if done is None else [bar, f"{done}%"]
        cells += [rest, *(status.get(key, "") for key in ("success", "baselineSuccess", "gatesSummary"))]
        cells += [age(metadata.get("creationTimestamp"), now), Text(status.get("message", ""))]
        table.add_row(*cells[: len(names)])
    return table


def progress(resource: Document) -> int | None:
    """Percentage of the training's steps, or of a rollout's children that are decided; None before there is any."""
    status: dict[str, Any] = resource.get("status") or {}
    if resource["kind"] == "DistillJob":
        found = status.get("progress") or {}
        percentage: int | None = found.get("progressPercentage")
        return 100 if status.get("phase") == "Succeeded" else percentage
    if status.get("phase") == "Completed":
        return 100
    true = {c["type"] for c in status.get("conditions") or [] if c["status"] == "True"}
    if not status.get("conditions"):
        return None
    kinds = [kind for _, kind in ROLLOUT_STEPS] + (["Promoted"] if "target" in resource["spec"] else [])
    kinds += ["Monitored"] if "monitoring" in resource["spec"] else []
    return 100 * sum(kind in true for kind in kinds) // len(kinds)


def left(resource: Document, now: datetime) -> str:
    """How long a training that runs still takes, or a window."""
    status: dict[str, Any] = resource.get("status") or {}
    if status.get("phase") == "Monitoring" and status.get("monitoring"):
        since = (now - parse_timestamp(status["monitoring"]["startTime"])).total_seconds()
        return duration(max(0.0, duration_seconds(resource["spec"]["monitoring"]["window"]) - since))
    seconds = (status.get("progress") or {}).get("estimatedRemainingSeconds")
    return duration(seconds) if seconds is not None and status.get("phase") == "Running" else ""


def age(created: str | None, now: datetime) -> str:
    """How long ago that was."""
    return "" if created is None else duration(max(0.0, (now - parse_timestamp(created)).total_seconds()))


def duration(seconds: float) -> str:
    """Such as 3h12m: its two largest units; seconds only below two minutes."""
    if seconds < 120:
        return f"{int(seconds)}s"
    rest = int(seconds)
    parts: list[str] = []
    for size, unit in UNITS:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return "".join(part for part in parts[:2] if not part.startswith("0"))
