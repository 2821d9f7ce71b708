"""``fidelity/curve.json`` of a student: how near it was to its teacher while it was trained, and which step it is."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from flowstill.api.fields import Model
from flowstill.errors import ArtifactError

CURVE: Final = "fidelity/curve.json"
PICTURE: Final = "fidelity/curve.png"
NotNegative = Annotated[float, Field(ge=0.0)]


class Look(Model):
    """A student at one step of its training beside its teacher, on held-out observations.

    All of it is of normalised actions, the executed steps' real dimensions, with the weights that would be published
    and one draw a chunk. Teacher and student start from the same noises.

    Attributes:
        step: updates done; those of the training count in the refinement too.
        phase: which of the two it was looked at in; their losses are not alike.
        loss: of that step's batch.
        distances: energy distance to the teacher's chunks, per square root of the dimension, of every observation;
            without bias, so it may be below 0.
        distance: their mean.
        distance_error: its standard error over the observations; None of a single one.
        spread: standard deviation over noises, relative to the teacher's.
        cosine: between the chunks of one noise, mean.
        nearest_cosine: to the nearest teacher chunk of another noise, mean; what gate P4 looks at.
        mse_mean: squared error between the chunks of one noise, per dimension: mean over chunks.
        mse_median: median over chunks.
        mse_p90: 90th percentile.
        mse_p95: 95th percentile.
        mean_error: squared error between the mean over noises and the teacher's (mean-of-K), per dimension.
    """

    step: Annotated[int, Field(ge=0)]
    phase: Literal["training", "refinement"] = "training"
    loss: float
    distances: list[float]
    distance: float
    distance_error: NotNegative | None
    spread: NotNegative
    cosine: float
    nearest_cosine: float
    mse_mean: NotNegative
    mse_median: NotNegative
    mse_p90: NotNegative
    mse_p95: NotNegative
    mean_error: NotNegative


class Curve(Model):
    """All looks, and the step that is published.

    Attributes:
        teacher_steps: of the teacher's chunks.
        observations: that were looked at.
        chunks: of each.
        steps: of the training and of the refinement after it.
        published_step: whose weights the student has.
        reason: why that one.
        looks: in the order of steps.
    """

    teacher_steps: Annotated[int, Field(ge=1)]
    observations: Annotated[int, Field(ge=1)]
    chunks: Annotated[int, Field(ge=2)]
    steps: Annotated[int, Field(ge=1)]
    published_step: Annotated[int, Field(ge=1)]
    reason: str
    looks: Annotated[list[Look], Field(min_length=1)]


def read_curve(student: Path) -> Curve | None:
    """The curve of a student's artifact; None: it was made before there were any.

    Raises:
        ArtifactError: it is not one that this version reads.
    """
    path = student / CURVE
    if not path.is_file():
        return None
    try:
        return Curve.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path} is no curve that this version reads: {where}: {first['msg']}") from error
