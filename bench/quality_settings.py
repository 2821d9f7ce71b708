"""What bench/quality.py compares: settings of distillation, training seeds and sets of episodes."""

from dataclasses import dataclass, field
from typing import Any

from flowstill.api.distilljob import DistillJobSpec

TEACHER_STEPS = 10
DRAWS, NEIGHBOURS = 8, 3
TRAINING_SEEDS = (0, 1, 2)
BANK = 12_000
TASK = "reach-around"


@dataclass(frozen=True)
class Episodes:
    """A set of paired episodes.

    Attributes:
        purpose: ``choice`` decides the defaults, ``claim`` says how good they are; they share no episode.
        seed: of the evaluation.
        count: how many are wanted.
    """

    purpose: str
    seed: int
    count: int


CHOICE = Episodes("choice", seed=11, count=400)
CLAIM = Episodes("claim", seed=12, count=1200)


@dataclass(frozen=True)
class Setting:
    """One way to distill.

    Attributes:
        name: as the table has it.
        method: what differs from ``spec.method`` of the quickstart.
        training: what differs from its ``spec.training``.
    """

    name: str
    method: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def spec(self, teacher: str, dataset: str, seed: int) -> DistillJobSpec:
        """The DistillJob of this setting and that training seed."""
        plain = {"targetSteps": 10, "mixRatio": 1.0, "bankSize": BANK, "stateJitter": 0.02, "refine": {"steps": 0}}
        method = plain | self.method
        training = {
            "steps": 1500, "batchSize": 128, "learningRate": 5e-4, "warmupSteps": 100, "ema": 0.999,
            "precision": "fp32", "seed": seed, **self.training,
        }  # fmt: skip
        return DistillJobSpec.model_validate(
            {
                "teacher": {"uri": teacher, "steps": TEACHER_STEPS},
                "dataset": {"uri": dataset},
                "student": {"draws": DRAWS, "drawNeighbours": NEIGHBOURS},
                "method": method,
                "training": training,
                "runtime": {"gpusPerNode": 0},
            }
        )


REFINED = {"name": "dmd", "steps": 500}
NO_BANK = {"bankSize": 0, "mixRatio": 0.5}
SETTINGS = (
    Setting("10, bank"),
    Setting("4, bank", {"targetSteps": 4}),
    Setting("10, bank, refined", {"refine": REFINED}),
    Setting("10, bank, half flow matching", {"mixRatio": 0.5}),
    Setting("2", {"targetSteps": 2, **NO_BANK}),
    Setting("2, the paper's weight", {"targetSteps": 2, "consistencyWeight": 0.1, **NO_BANK}),
    Setting("4, bank, refined", {"targetSteps": 4, "refine": REFINED}),
    Setting("2, refined", {"targetSteps": 2, "refine": REFINED, **NO_BANK}),
    Setting("10, half flow matching, refined", {"stateJitter": 0.0, "refine": REFINED, **NO_BANK}),
)
"""In the order of use: what finishes first is published first."""


def setting(name: str) -> Setting:
    """The setting of that name.

    Raises:
        KeyError: there is none.
    """
    return {each.name: each for each in SETTINGS}[name]
