"""Print the requirements of some extras of pyproject.toml, without the project's own distributions.

The images install these first, in a layer of their own: a change of code changes only the last thin layer.
Standard library only: it runs in a base image. ``python3 requirements.py pyproject.toml trainer evaluator``
"""

import re
import sys
import tomllib
from pathlib import Path

_OWN = "lerobot_policy_flowstill"
_OWN_EXTRAS = re.compile(r"^flowstill\[(?P<extras>[^\]]+)\]$")


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Return the distribution's own requirements and those of `extras`, one string each.

    Raises:
        KeyError: pyproject.toml has no such extra.
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    # setuptools builds the project's wheels in the image, without a network.
    wanted = ["setuptools>=80", *project["dependencies"]]
    waiting = list(extras)
    while waiting:
        for line in project["optional-dependencies"][waiting.pop()]:
            own = _OWN_EXTRAS.match(line)
            if own:
                waiting += own["extras"].split(",")
            elif not line.startswith(_OWN):
                wanted.append(line)
    return sorted(set(wanted))


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
