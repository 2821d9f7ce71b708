"""Reading manifests: every error names the file, the field and the fix."""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flowstill.api import API_VERSION
from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.clusters.processes import NAMESPACE
from flowstill_operator.distilljob.observe import read_resource as read_distilljob
from flowstill_operator.engine.loop import ResourceKind
from flowstill_operator.platform import Platform
from flowstill_operator.rollout.observe import read_resource as read_rollout

TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"
MERGE_TAG = "tag:yaml.org,2002:merge"
NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$")
KINDS: tuple[ResourceKind, ...] = ("DistillJob", "StudentRollout")


@dataclass(frozen=True)
class Manifest:
    """One resource from a file; ``spec`` has every default filled in, so that equal specs compare equal."""

    kind: ResourceKind
    name: str
    spec: Document


def read_manifests(files: Sequence[Path], platform: Platform) -> list[Manifest]:
    """All resources of all files, DistillJobs first.

    Raises:
        UserError: naming file, field and fix; all findings at once.
    """
    found: list[Manifest] = []
    errors: list[str] = []
    for path in files:
        for number, document in enumerate(read_documents(path), start=1):
            where = f"{path}" if number == 1 else f"{path}, document {number}"
            try:
                found.append(manifest_of(document, platform))
            except UserError as error:
                errors.append(f"{where}: {error}")
    names = [(manifest.kind, manifest.name) for manifest in found]
    errors += [
        f"{kind} {name} is given twice: rename one" for kind, name in sorted({n for n in names if names.count(n) > 1})
    ]
    if errors:
        raise UserError("\n".join(errors))
    if not found:
        raise UserError(f"no {' or '.join(KINDS)} in {', '.join(map(str, files))}")
    return sorted(found, key=lambda manifest: KINDS.index(manifest.kind))


class _Loader(yaml.SafeLoader):
    """YAML as the API server takes it: no key twice (the last would win in silence); keys and times are strings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping with different keys."""
        found = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is no string", key_node.start_mark)
            if key in found:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            found.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP_TAG]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_documents(path: Path) -> list[Any]:
    """Everything in a YAML file.

    Raises:
        UserError: it cannot be read, or is no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return [d for d in yaml.load_all(text, Loader=_Loader) if d is not None]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: give the path of a manifest") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no valid YAML: {error}") from error


def manifest_of(document: Any, platform: Platform) -> Manifest:
    """One resource, checked.

    Raises:
        UserError: naming field and fix.
    """
    if not isinstance(document, dict):
        raise UserError("a manifest is a mapping with apiVersion, kind, metadata and spec")
    kind = document.get("kind")
    if kind not in KINDS:
        raise UserError(f"{kind!r} does not run here; {' and '.join(KINDS)} do, remove the rest", field="kind")
    if document.get("apiVersion") != API_VERSION:
        raise UserError(f"{document.get('apiVersion')!r}: use {API_VERSION}", field="apiVersion")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not NAME.match(name):
        raise UserError(
            f"{name!r}: use 1 to 40 lower-case letters, digits and '-', a letter or digit at both ends",
            field="metadata.name",
        )
    unknown = sorted(set(document) - {"apiVersion", "kind", "metadata", "spec", "status"})
    if unknown:
        raise UserError("unknown field; remove it or correct its name", field=str(unknown[0]))
    resource: Document = {
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": "not-yet"},
        "spec": document.get("spec") or {},
    }
    observed = read_distilljob(resource, platform) if kind == "DistillJob" else read_rollout(resource, platform)
    if observed.problem is not None or observed.spec is None:
        raise UserError(observed.problem.message if observed.problem else "the spec cannot be read")
    spec = observed.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return Manifest(kind, name, spec)
