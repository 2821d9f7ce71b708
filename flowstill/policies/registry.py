"""The policies that Flowstill distills: the only place that knows them all."""

from collections.abc import Callable
from pathlib import Path

from flowstill.policies import checkpoints
from flowstill.policies.checkpoints import STUDENT_PREFIX
from flowstill.policies.lerobot_flow import LeRobotFlow


def _smolvla() -> type[LeRobotFlow]:
    from flowstill.policies.smolvla import SmolVLAFlow

    return SmolVLAFlow


def _pi0() -> type[LeRobotFlow]:
    from flowstill.policies.pi0 import PI0Flow

    return PI0Flow


def _pi05() -> type[LeRobotFlow]:
    from flowstill.policies.pi05 import PI05Flow

    return PI05Flow


TEACHERS: dict[str, Callable[[], type[LeRobotFlow]]] = {"smolvla": _smolvla, "pi0": _pi0, "pi05": _pi05}
"""By LeRobot's type; a policy's network is imported when one is loaded."""


def load_flow_policy(
    folder: Path, *, device: str = "cpu", field: str = "spec.teacher", whole: bool = False
) -> LeRobotFlow:
    """A teacher's or a student's checkpoint, every tensor checked; see :meth:`LeRobotFlow.load`.

    Raises:
        TeacherRejected: naming ``field``, what is wrong and what to do.
    """
    accepted = {*TEACHERS, *(STUDENT_PREFIX + name for name in TEACHERS)}
    kind = checkpoints.check_folder(folder, accepted, field)
    return TEACHERS[kind.removeprefix(STUDENT_PREFIX)]().load(folder, device=device, field=field, whole=whole)
