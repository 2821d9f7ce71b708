"""Read by every Python that starts with this folder in PYTHONPATH: LeRobot builds its π0 and π0.5 small in it.

So that commands, and the processes that they start, are the real ones; they pay for nothing until LeRobot's module is
imported.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

KINDS = {f"lerobot.policies.{kind}.modeling_{kind}": kind for kind in ("pi0", "pi05")}


class Shrinking(MetaPathFinder):
    """Patches these modules as soon as they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual one, whose loader patches too."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in KINDS else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_shrink(module: ModuleType) -> None:
            from tests.support import tiny_openpi

            execute(module)
            tiny_openpi.shrink(KINDS[fullname])

        spec.loader.exec_module = execute_and_shrink
        return spec


sys.meta_path.insert(0, Shrinking())
