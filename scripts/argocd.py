"""Writes gitops/argocd/argocd-cm.yaml from the Lua files beside it: a patch of Argo CD's own ConfigMap."""

from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "gitops" / "argocd"
GROUP = "flowstill.dev"
HEADER = "# Made from the Lua files beside it by `python scripts/argocd.py`; change those, not this file.\n"


class Text(str):
    """A string that is written as a block."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def _dump(document: Any) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120)


def config_map(folder: Path = FOLDER) -> str:
    """The text of the patch: health and actions of every kind that has a folder."""
    data: dict[str, Text] = {}
    for kind in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        data[f"resource.customizations.health.{GROUP}_{kind}"] = Text((folder / kind / "health.lua").read_text())
        actions = folder / kind / "actions"
        definitions = [
            {"name": path.parent.name, "action.lua": Text(path.read_text())}
            for path in sorted(actions.glob("*/action.lua"))
        ]
        whole = {"discovery.lua": Text((actions / "discovery.lua").read_text()), "definitions": definitions}
        data[f"resource.customizations.actions.{GROUP}_{kind}"] = Text(_dump(whole))
    return HEADER + _dump({"data": data})


if __name__ == "__main__":
    (FOLDER / "argocd-cm.yaml").write_text(config_map())
