"""``report.html``: one self-contained page that a reader can trust."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from flowstill.api.studentrollout import GateResult, Gates
from flowstill_evaluator.evidence import Evidence, Gap
from flowstill_evaluator.gates.base import points
from flowstill_evaluator.gates.chain import TITLES
from flowstill_evaluator.report.figures import Forest, Ridge, Row, forest, ridge, ticks_between
from flowstill_evaluator.report.media import Clip, embed
from flowstill_evaluator.report.subject import Subject, Training
from flowstill_evaluator.report.summary import ArmSummary, Summary
from flowstill_evaluator.statistics import PairCounts, difference_interval, mcnemar

_METHODS = {"snapflow": "SnapFlow"}
_FAMILIES = {"smolvla": "SmolVLA", "pi0": "π0", "pi05": "π0.5"}
_POLICIES = _FAMILIES | {f"flowstill_{kind}": name for kind, name in _FAMILIES.items()}
_UNITS = {"S1": " / 100", "P6": " / 100", "P2": " ×", "P3": " ×"}
_POINTS = {"S3", "P1", "P5"}
_HEADLINES = {
    "Pass": "The student may be served",
    "Fail": "The student must not be served",
    "Inconclusive": "The evidence does not decide",
}


def render_page(
    subject: Subject,
    evidence: Evidence,
    summary: Summary,
    limits: Gates,
    records: Path,
    training: Training | None = None,
) -> str:
    """The page as one string: no script, no address that a browser would have to fetch."""
    environment = Environment(
        loader=PackageLoader("flowstill_evaluator", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        points=points,
        percent=_percent,
        short=_short,
        measure=_measure,
        duration=_duration,
        thousands=_thousands,
        fact=_fact,
    )
    pairs = evidence.pairs
    counts = None if isinstance(pairs, Gap) or not len(pairs) else pairs.success()
    return environment.get_template("page.html.j2").render(
        style=files("flowstill_evaluator.report").joinpath("style.css").read_text("utf-8"),
        headline=_HEADLINES[summary.verdict],
        subject=subject,
        expected=evidence.expected,
        evidence=evidence,
        summary=summary,
        reasons=reasons(summary),
        titles=TITLES,
        method=_METHODS.get(subject.method, subject.method),
        policy=_POLICIES.get(subject.policy_type, subject.policy_type),
        baseline_name=_baseline_name(subject),
        counts=counts,
        interval=None if counts is None else difference_interval(counts),
        mcnemar=None if counts is None else mcnemar(counts.gained, counts.lost),
        arms_figure=arms_figure(summary.arms),
        difference_figure=None if counts is None else difference_figure(counts, summary, limits),
        shift_figure=shift_figure(summary, limits),
        latency_figure=None if isinstance(evidence.latency, Gap) else latency_figure(evidence),
        speed=_speed(evidence),
        fidelity=_fidelity(evidence),
        training=training,
        clips=failure_clips(records, evidence),
        run=None if isinstance(evidence.run, Gap) else evidence.run,
        gaps=_gaps(evidence),
    )


def reasons(summary: Summary) -> list[GateResult]:
    """The gates that say why: those that did not pass, failures first; what P1 and S3 showed when all did."""
    if summary.verdict == "Pass":
        return [gate for gate in summary.gates if gate.name in ("P1", "S3")]
    return sorted((g for g in summary.gates if g.verdict != "Pass"), key=lambda gate: gate.verdict != "Fail")


def arms_figure(arms: Sequence[ArmSummary]) -> Forest | None:
    """Success of every arm with its Wilson interval; the dashed line is the baseline's."""
    if not arms:
        return None
    rows = [
        Row(
            a.name,
            a.success / a.episodes,
            a.bounds,
            f"{a.success} / {a.episodes}  {_percent(a.success / a.episodes)}",
            a.role,
        )
        for a in arms
    ]
    reference = next((a.success / a.episodes for a in arms if a.role == "baseline"), None)
    return forest("Success of every arm", rows, 0.0, 1.0, [0, 0.25, 0.5, 0.75, 1.0], _percent_tick, reference)


def difference_figure(counts: PairCounts, summary: Summary, limits: Gates) -> Forest:
    """Paired differences with their margins: all tasks together (P1), then each (S3)."""
    bounds = difference_interval(counts)
    rows = [
        Row(
            "All episodes",
            counts.difference,
            bounds,
            f"{points(counts.difference)}",
            "served",
            -limits.p1.margin,
        )
    ]
    rows += [
        Row(
            t.task,
            t.counts.difference,
            t.bounds,
            f"{points(t.counts.difference)}",
            "other",
            -limits.s3.margin,
        )
        for t in summary.tasks
    ]
    reach = max(*(abs(end) for row in rows for end in (row.bounds.low, row.bounds.high)), limits.s3.margin * 1.3)
    ticks = ticks_between(-reach, reach)
    return forest("Difference to the baseline", rows, -reach, reach, ticks, points, 0.0)


def shift_figure(summary: Summary, limits: Gates) -> Forest | None:
    """Velocity shift of every joint, with the limit."""
    if not summary.shifts:
        return None
    limit = limits.s2.max_distance
    rows = [
        Row(
            s.joint,
            s.distance,
            s.bounds,
            f"{s.distance:.3f}",
            "served" if s.distance <= limit else "beyond",
            limit,
        )
        for s in summary.shifts
    ]
    high = max(limit * 1.3, *(min(s.bounds.high, 20 * limit) for s in summary.shifts))
    return forest("Velocity shift by joint", rows, 0.0, high, ticks_between(0.0, high), lambda v: f"{v:g}")


def latency_figure(evidence: Evidence) -> Ridge | None:
    """Latency of the served student and of the baseline on one logarithmic axis."""
    latency = evidence.latency
    if isinstance(latency, Gap) or not len(latency.student) or not len(latency.baseline):
        return None
    samples = [
        (evidence.expected.baseline, "baseline", latency.baseline),
        (evidence.expected.served, "served", latency.student),
    ]
    return ridge("Milliseconds a call", samples)


def failure_clips(records: Path, evidence: Evidence) -> list[Clip]:
    """The student's failures first, then the baseline's; other videos when there are no failures."""
    arms = (evidence.expected.served, evidence.expected.baseline)
    episodes = [e for arm in arms for e in evidence.episodes.get(arm, ())]
    failed = {e.video for e in episodes if not e.success}
    return embed(records, [e for e in episodes if e.video in failed]) or embed(records, episodes)


def _speed(evidence: Evidence) -> float | None:
    latency = evidence.latency
    if isinstance(latency, Gap) or not len(latency.student) or not len(latency.baseline):
        return None
    return float(np.median(latency.baseline) / np.median(latency.student))


def _fidelity(evidence: Evidence) -> dict[str, Any] | None:
    fidelity = evidence.fidelity
    if isinstance(fidelity, Gap) or not fidelity.cosine:
        return None
    own = fidelity.teacher_self_cosine
    return {
        "observations": len(fidelity.cosine),
        "chunks": fidelity.chunks,
        "cosine": float(np.mean(fidelity.cosine)),
        "lowest": float(np.min(fidelity.cosine)),
        "own": float(np.mean(own)) if own else None,
        "spread": fidelity.spread_ratio,
        "distances": {k: v for k, v in fidelity.distances.items() if isinstance(v, int | float)},
    }


def _gaps(evidence: Evidence) -> list[str]:
    """Why evidence is missing, each reason once."""
    parts = (
        evidence.run,
        evidence.pairs,
        evidence.velocity,
        evidence.latency,
        evidence.memory,
        evidence.fidelity,
    )
    return list(dict.fromkeys(part.why for part in parts if isinstance(part, Gap)))


def _baseline_name(subject: Subject) -> str:
    if not subject.baseline_is_teacher:
        return "the policy served now"
    return f"its teacher at {subject.teacher_steps} denoising steps"


def _percent(proportion: float) -> str:
    return f"{100.0 * proportion:.1f} %"


def _percent_tick(proportion: float) -> str:
    return f"{100.0 * proportion:g} %"


def _short(digest: str | None) -> str:
    return "no digest" if not digest else digest[:19] + "…" if len(digest) > 24 else digest


def _thousands(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _fact(value: Any, name: str) -> str:
    """A fact of the machine; bytes are said in GiB."""
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    return str(value)


def _measure(value: float | None, gate: str) -> str:
    """A gate's number in the unit of its limit."""
    if value is None:
        return "–"
    if gate in _POINTS:
        return f"{points(value)} pt"
    return f"{value:.3g}{_UNITS.get(gate, '')}".replace("-", "−")
