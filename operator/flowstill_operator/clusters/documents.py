"""Objects of a local cluster as files."""

import json
from datetime import UTC, datetime
from pathlib import Path

from flowstill.artifacts.atomic import write_atomic
from flowstill_operator.children import Document


def read(path: Path) -> Document | None:
    """The object in that file, or None."""
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return document


def write(path: Path, document: Document) -> None:
    """Replace it, whole.

    Raises:
        StorageFull: there is no room.
    """
    write_atomic(path, json.dumps(document, indent=1, ensure_ascii=False).encode())


def now() -> str:
    """The time as a ``creationTimestamp``, with microseconds, by which Jobs can be put in order."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
