"""Policies on a command line: a folder or a URI, pinned to the bytes that are there now."""

import re

from pydantic import ValidationError

from flowstill.api.fields import Source
from flowstill.api.runtime import Runtime
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.manifest import StudentProperties, read_manifest
from flowstill.artifacts.stores import fetch
from flowstill.artifacts.uris import local_path, resolved
from flowstill.errors import ArtifactError, UserError
from flowstill_operator.command.flags import folder_uri
from flowstill_operator.observation import platform_problem
from flowstill_operator.platform import Platform

PINNED = re.compile(r"^(?P<source>.+)@(?P<digest>sha256:[0-9a-f]{64})$")
BY_DIGEST = re.compile(r"/sha256-(?P<hex>[0-9a-f]{64})/?$")
"""The store's own name of what is published in it."""


def pinned(text: str, flag: str, platform: Platform) -> dict[str, str]:
    """``uri`` and ``digest`` of a policy.

    On this machine the digest is that of the bytes; for a cluster it must be given, as ``URI@sha256:HEX``, or be part
    of the URI, as of everything that is published.

    Raises:
        UserError: it cannot be read, has other bytes, or is not pinned for a cluster.
    """
    uri, digest = located(text, flag, platform)
    if platform.name == "kubernetes":
        named = BY_DIGEST.search(uri)
        digest = digest or (f"sha256:{named['hex']}" if named else None)
        if digest is None:
            raise UserError(
                f"{uri} cannot be looked at from here: pin it to its bytes, as {uri}@sha256:DIGEST "
                "(the DistillJob's status.student has both)",
                field=flag,
            )
        return {"uri": uri, "digest": digest}
    try:
        folder = fetch(Source(uri=uri, digest=digest), flag)
        return {"uri": uri, "digest": digest or tree_digest(folder)}
    except ArtifactError as error:
        raise UserError(by_flag(str(error), flag), field=flag, reason=error.reason) from error


def pinned_student(text: str, flag: str, platform: Platform) -> dict[str, str]:
    """The same of a student; on this machine its manifest is looked at too.

    Raises:
        UserError: as above, or it is no student.
    """
    uri, _ = located(text, flag, platform)
    if platform.name == "local":
        properties(uri, flag)
    return pinned(text, flag, platform)


def located(text: str, flag: str, platform: Platform) -> tuple[str, str | None]:
    """The URI, which may be read there, and the digest that was given with it.

    Raises:
        UserError: it is no URI, or one that means nothing there.
    """
    given = PINNED.match(text)
    uri = folder_uri(given["source"] if given else text, flag, platform)
    try:
        source = Source(uri=uri, digest=given["digest"] if given else None)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{uri}: {message}", field=flag) from error
    problem = platform_problem([(flag, uri)], Runtime(), platform)
    if problem is not None:
        raise UserError(problem.message, reason=problem.reason)
    return source.uri, source.digest


def properties(uri: str, flag: str) -> StudentProperties:
    """What the manifest of a student says. On this machine its files are not looked at; else it is fetched.

    Raises:
        UserError: it is no student.
    """
    hint = "give the folder that `flowstill distill` wrote, or the store's"
    try:
        remote = resolved(uri).scheme in ("s3", "hf")
        manifest = read_manifest(fetch(Source(uri=uri), flag) if remote else local_path(uri))
    except ArtifactError as error:
        raise UserError(f"{uri} is no student ({error}): {hint}", field=flag, reason=error.reason) from error
    found = manifest.properties
    if not isinstance(found, StudentProperties):
        raise UserError(f"{uri} is an artifact of kind {manifest.kind}, and no student: {hint}", field=flag)
    return found


def by_flag(message: str, flag: str) -> str:
    """The message without the name of a field, which is the flag's by itself."""
    for ending in (".uri", ".digest"):
        message = message.removeprefix(f"{flag}{ending}: ")
    return message
