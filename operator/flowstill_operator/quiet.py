"""What kopf would do for each object that is heard of, and need not: compare it with what it was."""

from collections.abc import Iterable
from typing import Any

import kopf


class NoComparison(kopf.DiffBaseStorage):  # type: ignore[misc]
    """Keeps nothing of an object and finds nothing of it, where kopf's own copies each several times.

    Nobody listens to changes of fields; that was most of the operator's processor time.
    """

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        """Nothing of it."""
        del body, extra_fields
        return kopf.BodyEssence({})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing was stored."""
        del body
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Store nothing."""
