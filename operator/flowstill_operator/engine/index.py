"""Who must be looked at when something else changes."""

from collections.abc import Iterable

from flowstill_operator.children import Document
from flowstill_operator.engine.loop import Key


class Dependents:
    """The rollouts that wait for a DistillJob or watch a Deployment, and every resource that is known."""

    def __init__(self) -> None:
        self._sources: dict[Key, frozenset[tuple[str, str, str]]] = {}
        self._waiting: dict[tuple[str, str, str], set[Key]] = {}

    def note(self, key: Key, resource: Document | None) -> None:
        """Remember what the resource depends on; None: it is gone."""
        for source in self._sources.pop(key, frozenset()):
            self._waiting[source].discard(key)
            if not self._waiting[source]:
                del self._waiting[source]
        if resource is None:
            return
        sources = frozenset(_sources(key, resource.get("spec") or {}))
        self._sources[key] = sources
        for source in sources:
            self._waiting.setdefault(source, set()).add(key)

    def of(self, kind: str, namespace: str, name: str) -> list[Key]:
        """The resources that depend on that object."""
        return sorted(self._waiting.get((kind, namespace, name), ()))

    def beside(self, key: Key) -> list[Key]:
        """The other rollouts of the same target."""
        targets = (source for source in self._sources.get(key, ()) if source[0] == "Deployment")
        return sorted({other for target in targets for other in self._waiting[target]} - {key})

    def all(self) -> list[Key]:
        """Every resource that is known."""
        return sorted(self._sources)


def _sources(key: Key, spec: Document) -> Iterable[tuple[str, str, str]]:
    if key.kind != "StudentRollout":
        return
    job = (spec.get("student") or {}).get("distillJob")
    if isinstance(job, str):
        yield ("DistillJob", key.namespace, job)
    deployment = ((spec.get("target") or {}).get("deployment") or {}).get("name")
    if isinstance(deployment, str):
        yield ("Deployment", key.namespace, deployment)
