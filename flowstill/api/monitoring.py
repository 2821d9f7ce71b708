"""``spec.monitoring``: how long a promoted student is watched, by which signals, and what was seen of them."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from flowstill.api.fields import Duration, Model, NotBlank, StatusModel, Timestamp, duration_seconds

RESTARTS = "restarts"
"""The signal that there always is."""
MAX_QUERIES = 8
MAX_PODS = 256
LONGEST_WINDOW, SHORTEST_INTERVAL, LONGEST_INTERVAL = "720h", "10s", "1h"
WINDOW_REFUSED = f"spec.monitoring.window must be at least spec.monitoring.interval, and at most {LONGEST_WINDOW}"
INTERVAL_REFUSED = f"spec.monitoring.interval must be between {SHORTEST_INTERVAL} and {LONGEST_INTERVAL}"
RESERVED = f"spec.monitoring.queries: {RESTARTS} is the name of the signal that counts restarts; take another"
TOO_FEW_CHECKS = (
    "spec.monitoring.queries: minSamples is more than the window has checks (window / interval); lower it, or watch "
    "longer or more often"
)


class MonitoringQuery(Model):
    """A Prometheus query that has one number as its answer, and what that number must not be."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    query: Annotated[
        NotBlank,
        Field(
            max_length=1024,
            description="PromQL, evaluated at each check. One series or a scalar: aggregate by sum, max or avg.",
        ),
    ]
    comparison: Annotated[
        Literal["above", "below"], Field(description="On which side of the threshold a value is a breach.")
    ]
    threshold: float
    failure_limit: Annotated[
        int, Field(ge=1, le=1000, description="So many breaches in a row put the previous policy back.")
    ] = 3
    min_samples: Annotated[
        int, Field(ge=1, le=100_000, description="With fewer numbers than this the window does not end well.")
    ] = 1

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value == RESTARTS:
            raise ValueError(RESERVED)
        return value

    def is_breach(self, value: float) -> bool:
        """Whether the value lies on the wrong side; the threshold itself is no breach."""
        return value > self.threshold if self.comparison == "above" else value < self.threshold


class Monitoring(Model):
    """For how long a promoted student is watched before the rollout is completed, and by which signals."""

    window: Annotated[Duration, Field(description="From when the Deployment became available, such as 24h or 30m.")]
    interval: Annotated[Duration, Field(description="Between two checks of all signals, 10s to 1h.")] = "60s"
    max_restarts: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="Of the containers of pods that serve the student, in the window; one more puts the previous "
            "policy back.",
        ),
    ] = 3
    queries: Annotated[
        list[MonitoringQuery],
        Field(max_length=MAX_QUERIES, description="Asked of the Prometheus that the chart names."),
    ] = Field(default_factory=list)

    @property
    def window_seconds(self) -> int:
        """How long the student is watched (s)."""
        return duration_seconds(self.window)

    @property
    def interval_seconds(self) -> int:
        """Between two checks (s)."""
        return duration_seconds(self.interval)

    @field_validator("queries")
    @classmethod
    def _one_each(cls, value: list[MonitoringQuery]) -> list[MonitoringQuery]:
        names = [query.name for query in value]
        if len(set(names)) != len(names):
            raise ValueError("spec.monitoring.queries has a name twice; give each query its own")
        return value

    @model_validator(mode="after")
    def _can_be_done(self) -> "Monitoring":
        if not duration_seconds(SHORTEST_INTERVAL) <= self.interval_seconds <= duration_seconds(LONGEST_INTERVAL):
            raise ValueError(INTERVAL_REFUSED)
        if not self.interval_seconds <= self.window_seconds <= duration_seconds(LONGEST_WINDOW):
            raise ValueError(WINDOW_REFUSED)
        if any(query.min_samples > self.window_seconds // self.interval_seconds for query in self.queries):
            raise ValueError(TOO_FEW_CHECKS)
        return self


class Signal(StatusModel):
    """What was seen of one signal: ``restarts``, or a query by its name."""

    name: Annotated[str, Field(max_length=63)]
    value: Annotated[float, Field(description="The newest number that there was.")] | None = None
    threshold: float
    samples: Annotated[int, Field(ge=0, description="Checks that gave a number.")] = 0
    missing: Annotated[int, Field(ge=0, description="Checks that gave none.")] = 0
    breaches: Annotated[int, Field(ge=0, description="Breaches in a row, the newest check included.")] = 0
    last_checked: Timestamp | None = None
    message: Annotated[str, Field(max_length=256, description="Why the newest check gave no number.")] | None = None


class PodRestarts(StatusModel):
    """A pod of the student and how often its containers had been restarted when it was last counted."""

    name: Annotated[str, Field(max_length=253)]
    restarts: Annotated[int, Field(ge=1)]


class MonitoringStatus(StatusModel):
    """The window so far; with it another life of the operator goes on where this one was."""

    start_time: Timestamp
    last_checked: Timestamp
    signals: Annotated[list[Signal], Field(max_length=MAX_QUERIES + 1)]
    pods: Annotated[
        list[PodRestarts],
        Field(max_length=MAX_PODS, description="Pods with restarts: what further ones are counted against."),
    ] = Field(default_factory=list)
