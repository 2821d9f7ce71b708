"""The one status write of a pass."""

from typing import Any

from flowstill.api.fields import StatusModel
from flowstill_operator.children import Document


def status_document(status: StatusModel, stored: Document) -> Document:
    """The status as JSON. Fields that a newer version wrote are kept, so that a downgrade loses nothing."""
    known = {field.alias or name for name, field in type(status).model_fields.items()}
    kept: Document = {key: value for key, value in stored.items() if key not in known}
    dumped: dict[str, Any] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**kept, **{key: value for key, value in dumped.items() if value != []}}


def same_status(wanted: Document, stored: Document) -> bool:
    """Whether writing would change nothing."""
    return wanted == {key: value for key, value in stored.items() if value != []}
