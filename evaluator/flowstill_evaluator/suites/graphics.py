"""Which graphics library draws without a screen here. MuJoCo itself is not imported: it reads the choice when it is."""

import os
import subprocess
import sys
from functools import lru_cache

from flowstill.errors import UserError

LIBRARIES = ("egl", "osmesa")
_PROBE = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).close()"


def no_graphics(why: str) -> UserError:
    """What to install for off-screen drawing."""
    return UserError(
        f"cameras cannot be drawn on this machine ({why}); install libegl1 and libgl1-mesa-dri, or libosmesa6, and "
        "leave MUJOCO_GL unset or set it to egl or osmesa",
        reason="NoGraphics",
    )


def choose_library() -> str:
    """The graphics library that works here: ``MUJOCO_GL``, or the first of EGL and OSMesa.

    A process asks this before it starts those that draw.

    Raises:
        UserError: none works; with what each says.
    """
    chosen = os.environ.get("MUJOCO_GL")
    said = []
    for library in (chosen,) if chosen else LIBRARIES:
        problem = _problem(library)
        if problem is None:
            return library
        said.append(f"{library}: {problem}")
    raise no_graphics("; ".join(said))


@lru_cache
def _problem(library: str) -> str | None:
    """Why a fresh process cannot draw with it, or None."""
    environment = {**os.environ, "MUJOCO_GL": library}
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False, env=environment)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]
