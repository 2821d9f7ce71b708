"""How far the safety gates of a spec may go: limits of the cluster's administrator, which a spec may only tighten."""

from collections.abc import Iterator

from pydantic import Field
from pydantic.alias_generators import to_camel

from flowstill.api.fields import Model
from flowstill.api.gates import LIMITS, LITERAL_SAFETY, ClampLimits, CliffLimits, Gates, VelocityLimits

SAFETY = ("s1", "s2", "s3")


class SafetyLimits(Model):
    """The chart's ``safetyLimits``; by default what the API itself allows."""

    s1: ClampLimits = Field(default_factory=ClampLimits, alias="S1")
    s2: VelocityLimits = Field(default_factory=VelocityLimits, alias="S2")
    s3: CliffLimits = Field(default_factory=CliffLimits, alias="S3")

    def loosened(self, gates: Gates) -> Iterator[str]:
        """Every safety limit of a spec that is looser than these, with its field and the limit."""
        literal = gates.profile == "literal"
        for gate in SAFETY:
            for name in LIMITS[gate]:
                wanted = LITERAL_SAFETY[gate] if literal else getattr(getattr(gates, gate), name)
                limit = getattr(getattr(self, gate), name)
                if wanted > limit:
                    field = f"spec.gates.{gate.upper()}.{to_camel(name)}"
                    yield (
                        f"spec.gates.profile literal has {wanted:g} for {gate.upper()}, and safetyLimits of the chart "
                        f"allow at most {limit:g}: take the default profile, with {field} {limit:g} or less"
                        if literal
                        else f"{field} is {wanted:g}, and safetyLimits of the chart allow at most {limit:g}: set it to "
                        "that or less"
                    )
