"""What a run at full size takes: parameters, memory and disk, counted and not measured.

    .venv/bin/python bench/sizes.py

The networks are LeRobot's own, built on PyTorch's device ``meta``, which has shapes and no numbers, and loaded into
teacher and student as the trainer does. Memory and disk are what the trainer's own check before step 0 counts, for a
DistillJob with the default ``method`` and ``training``: what is certain, activations not.
"""

import sys
import tempfile
from pathlib import Path

from distill import ROOT, full_size

from flowstill.api.distilljob import DistillJobSpec
from flowstill.policies.registry import TEACHERS
from flowstill_trainer.preflight import FLOAT, Needs, Sizes, gib, needs, sizes_of, total


def spec_of(**method: object) -> DistillJobSpec:
    """The defaults, but for this."""
    return DistillJobSpec.model_validate(
        {"teacher": {"uri": "file:///teacher"}, "dataset": {"uri": "file:///dataset"}, "method": method}
    )


def sizes(kind: str) -> Sizes:
    """Of a student of the full-size policy, made as the trainer makes it."""
    from tests.support.tiny_run import Tiny, small

    with tempfile.TemporaryDirectory() as folder:
        with small(kind):
            tiny = Tiny(Path(folder), kind)
        teacher = full_size(kind, tiny.teacher_folder, "meta")
        return sizes_of(teacher.make_student(draws=8, neighbours=3, action_steps=None, multi_step=True))


def row(kind: str, found: Sizes) -> str:
    """The policy's line of the table."""

    def memory(needed: Needs) -> str:
        # The teacher shares all but what is trained.
        return gib(found.model + found.trained + total(needed.gradients))

    refined, plain = needs(spec_of(), found), needs(spec_of(refine={"steps": 0}), found)
    cells = (
        f"{found.model / FLOAT / 1e6:,.0f}", f"{found.trained / FLOAT / 1e6:,.0f}", gib(found.model),
        memory(refined), memory(plain), gib(total(refined.publishing)), gib(total(plain.publishing)),
    )  # fmt: skip
    return f"| {kind} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    sys.path.insert(0, str(ROOT))  # not at the end: site-packages may hold a "tests" of somebody else
    print(
        "| policy | million parameters | trained | weights | memory, refined | not refined | disk, refined "
        "| not refined |\n|---|---|---|---|---|---|---|---|"
    )
    for kind in TEACHERS:
        print(row(kind, sizes(kind)), flush=True)


if __name__ == "__main__":
    main()
