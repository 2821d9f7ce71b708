"""What a client asked the API server for, as the proxy between them saw it."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

PATH = re.compile(
    r"^/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)
WRITES = ("POST", "PUT", "PATCH", "DELETE")
OURS = ("distilljobs", "studentrollouts")

type Document = dict[str, Any]


@dataclass
class Call:
    """One request.

    Attributes:
        plural, namespace, name, sub: what it is about; empty where the path has none.
        watch: it is a stream of events.
        body: that the client sent.
        performed: the status that the API server answered; None when it was never asked.
        fault: what the client got instead or besides.
    """

    method: str
    path: str
    plural: str = ""
    namespace: str = ""
    name: str = ""
    sub: str = ""
    watch: bool = False
    body: bytes = b""
    performed: int | None = None
    answer: bytes = field(default=b"", repr=False)
    fault: str = ""

    @property
    def writes(self) -> bool:
        """Whether it asks for a change."""
        return self.method in WRITES

    @property
    def succeeded(self) -> bool:
        """Whether the API server did what it asks for, whatever the client was told."""
        return self.performed is not None and self.performed < 300

    def document(self) -> Document:
        """The object that the client sent."""
        read: Document = json.loads(self.body)
        return read


def read_call(method: str, path: str, watch: bool, body: bytes) -> Call:
    """The request with what its path says."""
    found = PATH.match(path)
    if found is None:
        return Call(method, path, watch=watch, body=body)
    parts = {key: found[key] or "" for key in ("plural", "namespace", "name", "sub")}
    return Call(method, path, watch=watch, body=body, **parts)
