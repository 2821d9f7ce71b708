"""Bounded field types: every string has a maximum length, every number is finite."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from flowstill.api.uris import NOT_PINNED, OFFERED, URI, pinned


class Model(BaseModel):
    """A frozen API model: camelCase outside, snake_case inside, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False
    )


class StatusModel(Model):
    """A status model: fields written by a newer version are ignored, so that a downgrade can read them."""

    model_config = ConfigDict(extra="ignore")


ALWAYS_MUTABLE = ("suspend",)
"""Sections of a spec that may be changed at any time; of ``runtime``, ttlSecondsAfterFinished may be."""


def written(pattern: str, words: str) -> BeforeValidator:
    """Say in words how a value is written; the pattern alone is what the API server says.

    Args:
        pattern: the field's.
        words: after "write".
    """

    def check(value: Any) -> Any:
        if not isinstance(value, str) or re.search(pattern, value) is None:
            raise ValueError(f"write {words}")
        return value

    return BeforeValidator(check)


def _pinned(value: Any) -> Any:
    """Refuse a branch or a tag of the hub, and say how its commit is found."""
    if isinstance(value, str) and not pinned(value):
        raise ValueError(NOT_PINNED)
    return value


Uri = Annotated[
    str,
    Field(
        min_length=8,
        max_length=1024,
        pattern=URI,
        description=f"{OFFERED} in the default store.",
    ),
    BeforeValidator(_pinned),
    written(URI, OFFERED),
]
_DIGEST = r"^sha256:[0-9a-f]{64}$"
Digest = Annotated[
    str,
    Field(pattern=_DIGEST, max_length=71, description="sha256:HEX"),
    written(_DIGEST, "sha256: and 64 hexadecimal digits"),
]
Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
ShortText = Annotated[str, Field(max_length=256)]
Message = Annotated[str, Field(max_length=1024)]
FeatureName = Annotated[str, Field(min_length=1, max_length=128)]
Label = Annotated[str, Field(max_length=63)]
NotBlank = Annotated[str, Field(pattern=r"\S")]
Timestamp = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]


def _real(value: str) -> str:
    """Refuse the 31st of February, which the pattern lets through."""
    datetime.fromisoformat(value)
    return value


_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"
Moment = Annotated[
    str,
    Field(max_length=32, pattern=_MOMENT, json_schema_extra={"format": "date-time"}),
    AfterValidator(_real),
    written(_MOMENT, "a time with its zone, such as 2026-12-31T23:59:59Z"),
]
"""A time that a user writes, such as 2026-12-31T23:59:59Z: with its zone."""
_DURATION = r"^[1-9][0-9]{0,5}[smh]$"
Duration = Annotated[
    str,
    Field(max_length=7, pattern=_DURATION),
    written(_DURATION, "a whole number of seconds, minutes or hours, such as 90s, 30m or 24h"),
]
"""A length of time such as 24h, 30m or 90s: a whole number of one unit."""


def duration_seconds(text: str) -> int:
    """The length of a :data:`Duration` (s)."""
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
ParityThreshold = Annotated[float, Field(gt=0.0, le=1.0)]
"""Largest absolute difference of normalised actions between the exported graph and the trained student."""


class Source(Model):
    """An artifact to read: where it lies and, when given, the digest that its bytes must have."""

    uri: Uri
    digest: Digest | None = None


class ArtifactRef(Model):
    """An artifact pinned to its bytes."""

    uri: Uri
    digest: Digest


class StatusRef(StatusModel):
    """An artifact that was read or published."""

    uri: Annotated[str, Field(max_length=1024)]
    digest: Digest
