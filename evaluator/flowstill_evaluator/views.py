"""What a policy looks at, held against what the environments of an evaluation can show."""

from collections.abc import Mapping, Sequence

from flowstill.errors import UserError
from flowstill.policies.cameras import data_names
from flowstill.policies.interface import STATE, RunnerInfo
from flowstill_evaluator.suites.interface import CameraView, Offer, Suite, View


def view_of(info: RunnerInfo, arm: str, suite: Suite, tasks: Sequence[str], rename_map: Mapping[str, str]) -> View:
    """The state and the cameras that a policy wants, by the environment's names.

    Args:
        info: of the policy.
        arm: its name, for messages.
        suite: the suite.
        tasks: of the suite; every one of them has to fit.
        rename_map: the environment's feature names → the policy's.

    Raises:
        UserError: the policy cannot see what the environments show, or does not act on what they move; with the field.
    """
    offered = {name for offer in map(suite.offer, tasks) for name in (*offer.cameras, *offer.black)}
    names = data_names(offered, rename_map, info.renamed)
    cameras = tuple(
        CameraView(names.get(camera, camera), height, width)
        for camera, (height, width) in zip(info.cameras, info.camera_sizes, strict=True)
    )
    view = View(info.state_dim, cameras)
    for task in tasks:
        offer = suite.offer(task)
        _check_names(rename_map, offer, task)
        _check_view(view, offer, arm, task)
        if info.action_dim != offer.action_size:
            raise UserError(
                f"{arm} gives actions of {info.action_dim} numbers, {task} takes {offer.action_size}; evaluate on the "
                "tasks that the policy was trained for",
                field="spec.evaluation.tasks",
            )
    return view


def drawn(view: View, suite: Suite, tasks: Sequence[str]) -> bool:
    """Whether MuJoCo has to draw any of its cameras."""
    offers = [suite.offer(task) for task in tasks]
    return any(offer.offscreen and camera.name in offer.cameras for offer in offers for camera in view.cameras)


def _check_names(rename_map: Mapping[str, str], offer: Offer, task: str) -> None:
    known = {STATE, *offer.cameras, *offer.black}
    for name in rename_map:
        if name not in known:
            raise UserError(
                f"{task} has no {name!r}; it has {', '.join(sorted(known))}", field="spec.evaluation.renameMap"
            )


def _check_view(view: View, offer: Offer, arm: str, task: str) -> None:
    for camera in view.cameras:
        if camera.name not in (*offer.cameras, *offer.black):
            black = f" ({', '.join(offer.black)} is always black)" if offer.black else ""
            raise UserError(
                f"{arm} expects {camera.name!r}, {task} shows {', '.join((*offer.cameras, *offer.black))}{black}; map "
                "one to it",
                field="spec.evaluation.renameMap",
            )
        size = offer.sizes.get(camera.name, (camera.height, camera.width))
        if size != (camera.height, camera.width):
            raise UserError(
                f"{arm} looks at {camera.height}x{camera.width} pixels through {camera.name!r}, {task} draws "
                f"{size[0]}x{size[1]}; make the environment draw at the policy's size",
                field="spec.evaluation.custom.config",
            )
    if view.state_dim not in offer.states:
        sizes = "; ".join(f"{size}: {what}" for size, what in offer.states.items())
        raise UserError(
            f"{arm} was trained on states of {view.state_dim} numbers, {task} has {sizes}; evaluate on the tasks that "
            "the policy was trained for",
            field="spec.evaluation.tasks",
        )
