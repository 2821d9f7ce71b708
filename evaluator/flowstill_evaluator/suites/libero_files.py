"""What of LIBERO lies where: tasks and initial states in hf-libero's wheel, the meshes where the user has put them.

Nothing of LIBERO is imported here, and nothing is ever downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowstill.errors import UserError
from flowstill_evaluator.suites.tasks import FIELD

ASSETS_VARIABLE = "FLOWSTILL_LIBERO_ASSETS"
ASSETS_REPOSITORY = "lerobot/libero-assets"
_PART = "scenes"  # of what every scene needs
MAX_STEPS = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Actions of an episode, as LeRobot counts them: those that settle the scene come before."""


@dataclass(frozen=True)
class LiberoTask:
    """One task of LIBERO.

    Attributes:
        suite: such as ``libero_object``.
        index: its number in that suite, as LeRobot's ``task_ids`` have it.
        name: LIBERO's.
    """

    suite: str
    index: int
    name: str

    @property
    def sentence(self) -> str:
        """What a policy is told."""
        return re.sub(r"^[A-Z][A-Z0-9_]*_SCENE\d+_", "", self.name).replace("_", " ")

    @property
    def max_steps(self) -> int:
        """Actions after which an episode without success has failed."""
        return MAX_STEPS[self.suite]

    @property
    def definition(self) -> Path:
        """The BDDL file."""
        return package() / "bddl_files" / self.suite / f"{self.name}.bddl"

    def initial_states(self) -> npt.NDArray[np.float64]:
        """Its canonical initial states (N, time and qpos and qvel).

        They are arrays that ``torch.save`` wrote: a zip file with an ordinary pickle. Read like that they spare every
        simulator's process the import of torch.
        """
        path = package() / "init_files" / self.suite / f"{self.name}.pruned_init"
        with zipfile.ZipFile(path) as archive:
            [member] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            states: npt.NDArray[np.float64] = np.asarray(pickle.loads(archive.read(member)), dtype=np.float64)
        return states


def package() -> Path:
    """The folder of ``libero.libero``.

    Raises:
        UserError: hf-libero is not installed.
    """
    found = importlib.util.find_spec("libero")
    if found is None or not found.submodule_search_locations:
        raise UserError("LIBERO is not installed; install flowstill[libero]", field="spec.evaluation.suite")
    return Path(next(iter(found.submodule_search_locations))) / "libero"


def task_of(name: str) -> LiberoTask:
    """The task called ``SUITE/NUMBER`` or ``SUITE/NAME``.

    Raises:
        UserError: LIBERO has none of that name.
    """
    suite, _, which = name.partition("/")
    names = _names().get(suite)
    if names is None:
        has = ", ".join(f"{each}/0 to {each}/{len(tasks) - 1}" for each, tasks in _names().items())
        raise UserError(f"LIBERO has no task {name!r}; it has {has}, also by name", field=FIELD)
    index = int(which) if which.isdecimal() else names.index(which) if which in names else -1
    if not 0 <= index < len(names):
        listed = "; ".join(f"{number}: {each}" for number, each in enumerate(names[:10]))
        raise UserError(f"{suite} has no task {which!r}; it has 0 to {len(names) - 1} ({listed})", field=FIELD)
    return LiberoTask(suite, index, names[index])


def assets() -> Path:
    """The folder of meshes and textures.

    Raises:
        UserError: there is none; with everywhere it was looked for.
    """
    own = os.environ.get(ASSETS_VARIABLE)
    places = [Path(own)] if own else [package() / "assets", Path.home() / ".cache" / "libero" / "assets"]
    for place in places:
        if (place / _PART).is_dir():
            return place
    looked = " and ".join(str(place) for place in places)
    raise UserError(
        f"LIBERO's meshes are not in {looked} (a folder with {_PART}/ in it); nothing is downloaded here: fetch them "
        f"once with `hf download --repo-type dataset {ASSETS_REPOSITORY} --local-dir FOLDER` and set "
        f"{ASSETS_VARIABLE}=FOLDER (spec.runtime.env on a cluster)",
        field="spec.evaluation.suite",
        reason="AssetsMissing",
    )


@lru_cache
def _names() -> dict[str, list[str]]:
    """Names of the tasks by suite, in LeRobot's order; LIBERO's own module of them imports torch."""
    path = package() / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("flowstill_libero_task_map", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {suite: list(module.libero_task_map[suite]) for suite in MAX_STEPS}
