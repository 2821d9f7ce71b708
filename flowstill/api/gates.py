"""``spec.gates``: the limits of the nine gates."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from flowstill.api.fields import Model

GateName = Literal["S1", "S2", "S3", "P1", "P2", "P3", "P4", "P5", "P6"]


class ClampLimits(Model):
    """S1: fails on a paired one-sided test against the baseline, and always above the absolute limit."""

    max_per_hundred: Annotated[float, Field(ge=0.0, le=2.0)] = 2.0


class VelocityLimits(Model):
    """S2: Wasserstein-1 of joint velocity, per joint, in units of the baseline's spread."""

    max_distance: Annotated[float, Field(gt=0.0, le=0.15)] = 0.15


class CliffLimits(Model):
    """S3: no task loses more than the margin (proportion of episodes)."""

    margin: Annotated[float, Field(gt=0.0, le=0.10)] = 0.10


class SuccessLimits(Model):
    """P1: paired non-inferiority of aggregate success."""

    margin: Annotated[float, Field(gt=0.0, le=0.5)] = 0.03


class LatencyLimits(Model):
    """P2: upper 95 % bound of the ratio of p99 latencies."""

    max_ratio: Annotated[float, Field(gt=0.0, le=10.0)] = 1.10
    min_calls: Annotated[int, Field(ge=100, le=1_000_000)] = 1000


class MemoryLimits(Model):
    """P3: ratio of resident memory, median of fresh processes."""

    max_ratio: Annotated[float, Field(gt=0.0, le=10.0)] = 1.05
    processes: Annotated[int, Field(ge=3, le=50)] = 5


class FidelityLimits(Model):
    """P4: cosine of a student chunk to the nearest teacher chunk, and spread against the teacher's."""

    min_cosine: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.85
    min_spread_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    observations: Annotated[int, Field(ge=8, le=65_536)] = 64


class PerTaskLimits(Model):
    """P5: fails when a Holm-corrected paired test shows some task lower than the margin."""

    margin: Annotated[float, Field(gt=0.0, le=0.5)] = 0.03


class FailedClampedLimits(Model):
    """P6: rate of episodes that both failed and clamped, tested like S1."""

    max_per_hundred: Annotated[float, Field(ge=0.0, le=100.0)] = 2.0


LIMITS: Mapping[str, tuple[str, ...]] = {
    "s1": ("max_per_hundred",),
    "s2": ("max_distance",),
    "s3": ("margin",),
    "p1": ("margin",),
    "p2": ("max_ratio",),
    "p3": ("max_ratio",),
    "p4": ("min_cosine", "min_spread_ratio"),
    "p5": ("margin",),
    "p6": ("max_per_hundred",),
}
"""Fields that are limits; the others say how much is measured."""


LITERAL_SAFETY: Mapping[str, float] = {"s1": 2.0, "s2": 0.15, "s3": 0.05}
"""Limits of the literal profile's safety gates: per hundred, of the baseline's spread, proportion of episodes."""


class Gates(Model):
    """Limits of the nine gates. Safety gates (S) may be tightened, never loosened beyond their defaults."""

    profile: Literal["default", "literal"] = Field(
        default="default",
        description="literal: point estimates against fixed numbers, as docs/gates.md has them, without margins or "
        "intervals. It turns most good students away; its limits cannot be set.",
    )
    s1: ClampLimits = Field(default_factory=ClampLimits, alias="S1")
    s2: VelocityLimits = Field(default_factory=VelocityLimits, alias="S2")
    s3: CliffLimits = Field(default_factory=CliffLimits, alias="S3")
    p1: SuccessLimits = Field(default_factory=SuccessLimits, alias="P1")
    p2: LatencyLimits = Field(default_factory=LatencyLimits, alias="P2")
    p3: MemoryLimits = Field(default_factory=MemoryLimits, alias="P3")
    p4: FidelityLimits = Field(default_factory=FidelityLimits, alias="P4")
    p5: PerTaskLimits = Field(default_factory=PerTaskLimits, alias="P5")
    p6: FailedClampedLimits = Field(default_factory=FailedClampedLimits, alias="P6")

    @model_validator(mode="after")
    def _literal_has_its_own(self) -> "Gates":
        if self.profile == "literal" and any(
            getattr(getattr(self, gate), name) != type(getattr(self, gate)).model_fields[name].default
            for gate, names in LIMITS.items()
            for name in names
        ):
            raise ValueError("spec.gates.profile literal has limits of its own: leave those of the gates out")
        return self
