"""Evidence and verdict in, the report's document out."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from flowstill.api.children import JudgeTask
from flowstill.api.studentrollout import GateOverride, GateResult
from flowstill_evaluator import evidence as records
from flowstill_evaluator.evidence import Evidence, Gap
from flowstill_evaluator.gates.chain import TITLES
from flowstill_evaluator.report import document as doc
from flowstill_evaluator.report.subject import Artifact, Subject, Training
from flowstill_evaluator.report.summary import ArmSummary, Summary
from flowstill_evaluator.statistics import (
    LEVEL,
    Bounds,
    Floats,
    PairCounts,
    difference_interval,
    mcnemar,
    percentile_value,
)

BINS = 120


def build_report(
    task: JudgeTask,
    subject: Subject,
    evidence: Evidence,
    summary: Summary,
    films: doc.Films,
    training: Training | None = None,
) -> doc.Report:
    """The document; it depends on its arguments alone."""
    expected, pairs = evidence.expected, evidence.pairs
    counts = None if isinstance(pairs, Gap) or not len(pairs) else pairs.success()
    level = expected.level(LEVEL)
    paired = None if counts is None else _comparison(counts, difference_interval(counts, level))
    return doc.Report(
        verdict=summary.verdict,
        message=summary.sentence,
        subject=_subject(subject),
        evaluation=task.evaluation.model_dump(mode="json", by_alias=True, exclude_none=True),
        limits=task.gates.model_dump(mode="json", by_alias=True),
        served=expected.served,
        baseline=expected.baseline,
        look=doc.LookPlan(episodes_per_task=expected.episodes_per_task, looks=list(expected.looks), level=level),
        gates=[_gate(gate) for gate in summary.gates],
        missing=_missing(evidence),
        arms=[_arm(arm) for arm in summary.arms],
        paired=None if paired is None else doc.Comparison(**paired),
        left_out=0 if isinstance(pairs, Gap) else pairs.left_out,
        tasks=[doc.TaskComparison(task=t.task, **_comparison(t.counts, t.bounds)) for t in summary.tasks],
        latency=_latency(evidence),
        memory=_memory(evidence),
        velocity_shifts=[
            doc.JointShift(joint=s.joint, distance=s.distance, interval=_range(s.bounds)) for s in summary.shifts
        ],
        fidelity=None if isinstance(evidence.fidelity, Gap) else _fidelity(evidence.fidelity),
        training=None if training is None else training.curve,
        films=films,
        run=None if isinstance(evidence.run, Gap) else _run(evidence.run),
    )


def histogram(values_N: Floats | Sequence[float], low: float, high: float, *, logarithmic: bool) -> doc.Histogram:
    """Counts of values (N,) in :data:`BINS` equal bins; what lies beyond an end counts at that end.

    Args:
        values_N: the sample; positive where logarithmic.
        low: lower end of the axis; an exponent of ten where logarithmic.
        high: upper end.
        logarithmic: whether the bins are equal on a logarithmic axis.
    """
    sample_N = np.asarray(values_N, dtype=np.float64)
    placed_N = np.log10(sample_N) if logarithmic else sample_N
    counts, _ = np.histogram(np.clip(placed_N, low, high), bins=BINS, range=(low, high))
    return doc.Histogram(low=low, high=high, logarithmic=logarithmic, counts=[int(count) for count in counts])


def _range(bounds: Bounds) -> doc.Range:
    return doc.Range(low=bounds.low, high=bounds.high)


def _artifact(artifact: Artifact) -> doc.Artifact:
    return doc.Artifact(uri=artifact.uri, digest=artifact.digest)


def _subject(subject: Subject) -> doc.Subject:
    artifacts = ("student", "teacher", "baseline", "dataset", "rollouts")
    values = {name: getattr(subject, name) for name in doc.Subject.model_fields}
    return doc.Subject(**values | {name: _artifact(values[name]) for name in artifacts})


def _gate(gate: GateResult) -> doc.Gate:
    return doc.Gate(
        name=gate.name,
        title=TITLES[gate.name],
        gate_class=gate.gate_class,
        verdict=gate.verdict,
        measured=gate.measured,
        threshold=gate.threshold,
        interval=None if gate.interval is None else doc.Range(low=gate.interval.low, high=gate.interval.high),
        samples=gate.samples,
        message=gate.message,
        override=_override(gate.override),
    )


def _override(found: GateOverride | None) -> doc.Override | None:
    return None if found is None else doc.Override(**found.model_dump(mode="json"))


def _arm(arm: ArmSummary) -> doc.Arm:
    return doc.Arm(
        name=arm.name,
        role=arm.role,
        success=arm.success,
        episodes=arm.episodes,
        interval=_range(arm.bounds),
        mean_steps=arm.mean_steps,
        idle_rate=arm.idle_rate,
        clamped=arm.clamped,
        failures=dict(sorted(arm.failures.items(), key=lambda failure: (-failure[1], failure[0]))),
        tasks={task: doc.Tally(success=won, episodes=run) for task, (won, run) in arm.by_task.items()},
    )


def _comparison(counts: PairCounts, bounds: Bounds) -> dict[str, Any]:
    return {
        "pairs": counts.pairs,
        "both": counts.both,
        "gained": counts.gained,
        "lost": counts.lost,
        "neither": counts.neither,
        "difference": counts.difference,
        "interval": _range(bounds),
        "p_value": mcnemar(counts.gained, counts.lost),
    }


def _two(evidence: Evidence, sample: records.TwoSamples) -> list[tuple[str, doc.Role, Floats]]:
    """The baseline first, as everywhere on the page."""
    expected = evidence.expected
    return [(expected.baseline, "baseline", sample.baseline), (expected.served, "served", sample.student)]


def _latency(evidence: Evidence) -> doc.Latency | None:
    sample = evidence.latency
    if isinstance(sample, Gap) or not len(sample.student) or not len(sample.baseline):
        return None
    everything = np.concatenate([sample.student, sample.baseline])
    low = float(np.log10(everything.min())) - 0.08
    high = float(np.log10(np.quantile(everything, 0.9995))) + 0.08
    arms = [
        doc.LatencyArm(
            arm=arm,
            role=role,
            calls=len(values),
            mean=float(np.mean(values)),
            p50=float(np.median(values)),
            p90=percentile_value(values, 0.90),
            p99=percentile_value(values, 0.99),
            histogram=histogram(values, low, high, logarithmic=True),
        )
        for arm, role, values in _two(evidence, sample)
    ]
    return doc.Latency(speedup=float(np.median(sample.baseline) / np.median(sample.student)), arms=arms)


def _memory(evidence: Evidence) -> list[doc.MemoryArm]:
    if isinstance(evidence.memory, Gap):
        return []
    return [
        doc.MemoryArm(
            arm=arm,
            role=role,
            processes=len(values),
            median=float(np.median(values)),
            low=float(values.min()),
            high=float(values.max()),
        )
        for arm, role, values in _two(evidence, evidence.memory)
        if len(values)
    ]


def _fidelity(record: records.FidelityRecord) -> doc.Fidelity | None:
    if not record.cosine:
        return None
    return doc.Fidelity(
        observations=record.observations,
        chunks=record.chunks,
        cosine=record.cosine,
        teacher_self_cosine=record.teacher_self_cosine,
        spread_ratio=record.spread_ratio,
        distances={
            name: float(value)
            for name, value in record.distances.items()
            if isinstance(value, int | float) and isfinite(value)
        },
    )


def _run(run: records.Run) -> doc.Run:
    return doc.Run(
        arms=[doc.RunArm(**arm.model_dump()) for arm in run.arms],
        versions={name: str(version) for name, version in run.versions.items()},
        host={name: _plain(value) for name, value in run.host.items()},
        seeds=_plain(run.seeds),
        errors=_plain(run.errors if isinstance(run.errors, list) else [] if run.errors is None else [run.errors]),
    )


def _plain(value: Any) -> Any:
    """What others wrote, as JSON can hold it: a number that is not finite becomes its name."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _missing(evidence: Evidence) -> list[str]:
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
