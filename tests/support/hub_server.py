"""A hub of the tests: the endpoints that are asked when a commit is read or made, with commits kept in memory.

Large files are redirected to a second server, which must not be given the token.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.loopback import serving

TOKEN = "hf_thisIsTheTokenOfTheTests"
LARGE = 4096
PAGE = 3


@dataclass
class Stored:
    """A file of a commit."""

    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        size = len(self.content)
        found = {"type": "file", "path": path, "size": size, "oid": self.git}
        return found | {"lfs": {"oid": self.sha256, "size": size, "pointerSize": 130}} if size >= LARGE else found


@dataclass
class Hub:
    """Repositories by ``models/ORG/NAME`` or ``datasets/ORG/NAME``, each with its commits, the newest last."""

    repositories: dict[str, dict[str, dict[str, Stored]]] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Authorization of every request to the hub itself."""
    large_asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Range and Authorization of every request for a large file."""
    url: str = ""
    large_url: str = ""
    refuse_writes: bool = False

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Make one that has exactly these files."""
        commits = self.repositories.setdefault(repository, {})
        seed = json.dumps([len(commits), repository, sorted(files)])
        oid = hashlib.sha1(seed.encode()).hexdigest()
        commits[oid] = {path: Stored(content) for path, content in files.items()}
        return oid

    def head(self, repository: str) -> str:
        return next(reversed(self.repositories[repository]))


@contextmanager
def hub_server(address: str = "127.0.0.1") -> Iterator[Hub]:
    """Run it."""
    hub = Hub()

    api, large = (type(kind.__name__, (kind,), {"hub": hub}) for kind in (_Api, _Large))
    with serving(api, address) as hub.url, serving(large, address) as hub.large_url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        """Nothing on the test's output."""

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_json(self, value: Any, **headers: str) -> None:
        self.send(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def send_file(self, content: bytes, etag: str) -> None:
        asked = self.headers.get("Range")
        if asked is None:
            self.send(200, content, ETag=f'"{etag}"')
            return
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send(206, content[start:], Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}")


class _Large(_Handler):
    def do_GET(self) -> None:
        self.hub.large_asked.append((self.headers.get("Range") or "", self.headers.get("Authorization")))
        wanted = urlsplit(self.path).path.rpartition("/")[2]
        for commits in self.hub.repositories.values():
            for files in commits.values():
                for stored in files.values():
                    if stored.sha256 == wanted:
                        self.send_file(stored.content, wanted)
                        return
        self.send(404)

    def do_PUT(self) -> None:
        content = self.body()
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            self.send(400, b"other bytes than their oid")
            return
        self.hub.uploaded[oid] = content
        self.send(200)


class _Api(_Handler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.hub.asked.append(("GET", url.path, self.headers.get("Authorization")))
        if not self._allowed():
            return
        parts = unquote(url.path).strip("/").split("/")
        if parts[0] == "api":
            self._api(parts[1:], url.query)
        else:
            self._resolve(parts)

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        body = self.body()
        self.hub.asked.append(("POST", url.path, self.headers.get("Authorization")))
        if not self._allowed():
            return
        if url.path == "/api/validate-yaml":
            self.send_json({"errors": [], "warnings": []})
        elif url.path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            parts = unquote(url.path).strip("/").split("/")[1:]
            name, action = "/".join(parts[:3]), parts[3]
            if action == "preupload":
                files = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": _mode(f["size"]), "shouldIgnore": False} for f in files]
                self.send_json({"files": modes})
            else:
                self._commit(name, [json.loads(line) for line in body.splitlines() if line])

    def _allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.send(401, b'{"error": "Invalid credentials in Authorization header"}', X_Error_Code="GatedRepo")
        return False

    def _api(self, parts: list[str], query: str) -> None:
        name = "/".join(parts[:3])
        commits = self.hub.repositories.get(name)
        if commits is None:
            self.send(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif len(parts) < 4 or parts[3] != "tree":
            self.send_json(
                {
                    "id": "/".join(parts[1:3]),
                    "sha": self.hub.head(name),
                    "siblings": [],
                    "private": True,
                    "_id": "1",
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "disabled": False,
                    "gated": False,
                }
            )
        elif parts[4] not in commits:
            self.send(404, b"{}", X_Error_Code="RevisionNotFound")
        else:
            self._tree(commits[parts[4]], "/".join(parts[5:]), query)

    def _tree(self, files: dict[str, Stored], below: str, query: str) -> None:
        start = int(query.partition("cursor=")[2] or 0)
        found = [stored.entry(path) for path, stored in sorted(files.items()) if path.startswith(below and f"{below}/")]
        folders = [{"type": "directory", "path": "a-folder", "size": 0, "oid": "0" * 40}] if not start else []
        if not found:
            self.send(404, b"{}", X_Error_Code="EntryNotFound")
            return
        path = urlsplit(self.path).path
        more = {"Link": f'<{self.hub.url}{path}?recursive=true&cursor={start + PAGE}>; rel="next"'}
        self.send_json(folders + found[start : start + PAGE], **(more if start + PAGE < len(found) else {}))

    def _resolve(self, parts: list[str]) -> None:
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if kind == "datasets" else parts
        commits = self.hub.repositories.get(f"{kind}/{parts[0]}/{parts[1]}", {})
        stored = commits.get(parts[3], {}).get("/".join(parts[4:]))
        if stored is None:
            self.send(404)
        elif len(stored.content) >= LARGE:
            self.send(302, Location=f"{self.hub.large_url}/{stored.sha256}?X-Amz-Signature=0123")
        else:
            self.send_file(stored.content, stored.git)

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            known = each["oid"] in self.hub.uploaded
            upload = {"upload": {"href": f"{self.hub.large_url}/{each['oid']}"}}
            objects.append({**each, **({} if known else {"actions": upload})})
        self.send_json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        if self.hub.refuse_writes:
            self.send(403, b'{"error": "no write rights"}')
            return
        header, *operations = lines
        parent = header["value"].get("parentCommit")
        if parent is not None and parent != self.hub.head(name):
            self.send(412, b'{"error": "the parent is not the newest commit"}')
            return
        files = {path: stored.content for path, stored in self.hub.repositories[name][self.hub.head(name)].items()}
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "deletedFile":
                del files[value["path"]]
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        oid = self.hub.commit(name, files)
        self.send_json(
            {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "hookOutput": ""}
        )


def _mode(size: int) -> str:
    return "lfs" if size >= LARGE else "regular"
