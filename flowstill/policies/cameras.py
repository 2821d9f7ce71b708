"""Which cameras a policy looks through, and what the data calls them. No torch here.

A fine-tune keeps every camera of its base policy in ``input_features``, also those that its own data had not. LeRobot
trains without them: what a batch lacks is left out (``prepare_images`` of SmolVLA) or is a masked image
(``_preprocess_images`` of π0 and π0.5), to which nothing attends and which moves no position.
"""

from collections.abc import Collection, Iterable, Mapping

STAND_IN = "empty_camera_"


def real_cameras(image_features: Iterable[str]) -> tuple[str, ...]:
    """The image features that are cameras: LeRobot adds empty ones, which are always masked."""
    return tuple(name for name in image_features if not name.rpartition(".")[2].startswith(STAND_IN))


def features_shown(statistics: Iterable[str], renamed: Mapping[str, str]) -> frozenset[str]:
    """What the data of a checkpoint's last training had, by the policy's names.

    LeRobot saves the statistics of all features of that data with the normaliser, by the data's own names, cameras'
    among them (``lerobot_train.py`` of 0.6). Processors that were written by hand, or by older versions, may hold
    none of any camera.

    Args:
        statistics: names of the features that the normaliser has statistics of.
        renamed: the data's names → the policy's, as the checkpoint's own processor has them.
    """
    return frozenset(renamed.get(name, name) for name in statistics)


def never_shown(cameras: Collection[str], shown: frozenset[str]) -> tuple[str, ...]:
    """The cameras that are not among :func:`features_shown`; none where no camera is, which does not tell."""
    return tuple(name for name in cameras if name not in shown) if shown.intersection(cameras) else ()


def data_names(offered: Collection[str], rename_map: Mapping[str, str], renamed: Mapping[str, str]) -> dict[str, str]:
    """The policy's names → the data's: as the user maps them, else the same, else as the checkpoint's processor does.

    Args:
        offered: feature names of the data.
        rename_map: the user's, the data's names → the policy's.
        renamed: what the checkpoint's own processor renames, likewise.
    """
    free = [old for old in offered if old not in rename_map]
    own = {renamed[old]: old for old in free if old in renamed}
    return own | {old: old for old in free} | {new: old for old, new in rename_map.items() if old in offered}
