"""Objects of a local cluster as files."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flowstill.artifacts.atomic import write_atomic
from flowstill.errors import StorageFull
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


def keep(broken: Callable[[BaseException], None], path: Path, document: Document) -> None:
    """Write it down, or end this run by ``broken``: what is not on disk has not happened.

    Raises:
        StorageFull: there is no room.
    """
    try:
        write(path, document)
    except StorageFull as error:
        broken(error)
        raise


def now() -> str:
    """The time as a ``creationTimestamp``, with microseconds, by which Jobs can be put in order."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
