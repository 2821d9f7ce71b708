"""The images of an observation as a policy's network takes them, in numpy; a test holds them against LeRobot's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowstill.errors import ArtifactError
from flowstill.policies.interface import Floats


@dataclass(frozen=True)
class ImageRule:
    """How a policy wants its images.

    Attributes:
        size: height and width; None: as they come.
        centred: padding on all sides, values cut to [0, 1] (openpi); else on the left and the top (SmolVLA).
        stand_ins: at most so many of the cameras that are not observed get a masked image; None: all.
    """

    size: tuple[int, int] | None
    centred: bool
    stand_ins: int | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ImageRule":
        """The rule of a policy's configuration, which names the option that its network knows."""
        if "image_resolution" in config:
            height, width = config["image_resolution"]
            return cls((height, width), centred=True, stand_ins=None)
        target = config.get("resize_imgs_with_padding")  # (width, height)
        size = None if target is None else (target[1], target[0])
        return cls(size, centred=False, stand_ins=int(config["empty_cameras"]))

    def apply(self, images: Mapping[str, Floats], wanted: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Inputs ``image_N`` in [−1, 1] and ``image_mask_N`` from (B, 3, h, w) images in [0, 1].

        Raises:
            ArtifactError: no camera of the policy is there.
        """
        present = [key for key in wanted if key in images]
        if not present:
            raise ArtifactError(f"no camera of the policy is observed ({list(wanted)}); check the rename map")
        missing = [key for key in wanted if key not in images][: self.stand_ins]
        inputs: dict[str, npt.NDArray[Any]] = {}
        for number, key in enumerate([*present, *missing]):
            if key in images:
                image = images[key]
                if self.size is not None:
                    image = resize_with_pad(image, *self.size, centred=self.centred)
                image = image * np.float32(2.0) - np.float32(1.0)
            else:
                image = np.full_like(inputs["image_0"], -1.0)
            inputs[f"image_{number}"] = np.ascontiguousarray(image)
            inputs[f"image_mask_{number}"] = np.full(len(image), key in images)
        return inputs


def resize_with_pad(image_BCHW: Floats, height: int, width: int, *, centred: bool) -> Floats:
    """Bilinear (half-pixel centres, no antialiasing) to fit, zeros around it."""
    old_height, old_width = image_BCHW.shape[2:]
    if (old_height, old_width) == (height, width):
        return image_BCHW
    ratio = max(old_width / width, old_height / height)
    inner_height, inner_width = int(old_height / ratio), int(old_width / ratio)
    resized = _linear(_linear(image_BCHW, 2, inner_height), 3, inner_width)
    rows, columns = max(0, height - inner_height), max(0, width - inner_width)
    if not centred:
        return np.pad(resized, ((0, 0), (0, 0), (rows, 0), (columns, 0)))
    top, left = rows // 2, columns // 2
    return np.pad(resized.clip(0.0, 1.0), ((0, 0), (0, 0), (top, rows - top), (left, columns - left)))


def _linear(x: Floats, axis: int, size: int) -> Floats:
    old = x.shape[axis]
    position = np.maximum((np.arange(size, dtype=np.float32) + 0.5) * np.float32(old / size) - 0.5, 0)
    low = np.minimum(position.astype(np.int64), old - 1)
    weight = (position - low).astype(np.float32)
    weight = weight.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    below, above = np.take(x, low, axis), np.take(x, np.minimum(low + 1, old - 1), axis)
    mixed: Floats = below * (1 - weight) + above * weight
    return mixed
