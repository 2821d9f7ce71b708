"""Off-screen drawing of MuJoCo scenes, at the size that is wanted.

Meta-World asks for a 4096 shadow map and 4x multisampling, which software GL pays for in every frame: 5 frames/s at
120 x 120, against 35 with a map of 1024 and no multisampling, and 83 without shadows. A policy has learnt with shadows:
without them the mean pixel is 8 of 255 away from LeRobot's picture, with the small map 2.5, as with the large one.
"""

import mujoco
import numpy as np
import numpy.typing as npt

from flowstill_evaluator.suites.graphics import no_graphics

type Camera = str | mujoco.MjvCamera


SHADOW_MAP = 1024


class Drawer:
    """Draws one model from any of its cameras; a graphics context for each size, made when it is first used."""

    def __init__(
        self, model: mujoco.MjModel, *, option: mujoco.MjvOption | None = None, as_modelled: bool = False
    ) -> None:
        """Draw ``model``.

        Args:
            model: to draw.
            option: what of it is visible; default: MuJoCo's own choice.
            as_modelled: keep the model's own shadow map and multisampling, for pictures that are equal to the bit.
        """
        self._model, self._option, self._as_modelled = model, option, as_modelled
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}

    def draw(
        self, data: mujoco.MjData, camera: Camera, height: int, width: int, *, shadows: bool = True
    ) -> npt.NDArray[np.uint8]:
        """The scene as uint8 (height, width, 3).

        Raises:
            UserError: no off-screen graphics; the message says what to install.
        """
        renderer = self._renderers.get((height, width)) or self._make(height, width)
        renderer.update_scene(data, camera=camera, scene_option=self._option)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        frame: npt.NDArray[np.uint8] = renderer.render()
        return frame

    def close(self) -> None:
        """Free every graphics context."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    def _make(self, height: int, width: int) -> mujoco.Renderer:
        if not self._as_modelled:
            quality = self._model.vis.quality
            quality.offsamples, quality.shadowsize = 0, SHADOW_MAP
        size = self._model.vis.global_
        size.offheight, size.offwidth = max(size.offheight, height), max(size.offwidth, width)
        try:
            renderer = mujoco.Renderer(self._model, height=height, width=width)
        except Exception as error:  # of MuJoCo, PyOpenGL or the loader, by what is missing
            raise no_graphics(str(error)) from error
        self._renderers[height, width] = renderer
        return renderer
