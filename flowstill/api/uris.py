"""How the URI of an artifact is written; what it means is :mod:`flowstill.artifacts.uris`'s."""

import re

OFFERED = "file:///PATH, pvc://CLAIM/PATH, s3://BUCKET/PATH, hf://[datasets/]ORG/NAME@COMMIT[/PATH] or store://PATH"
BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
URI = rf"^((file|pvc|hf|store)://[^\s?#]+|s3://{BUCKET}(/[^\s?#]*)?)$"
PINNED = r"^hf://(datasets/)?[^/@]+/[^/@]+@[0-9a-f]{40}(/|$)"
NOT_PINNED = (
    "hf:// needs the 40 hexadecimal digits of a commit, hf://[datasets/]ORG/NAME@COMMIT: what a branch or a tag names "
    "changes; `git ls-remote https://huggingface.co/[datasets/]ORG/NAME HEAD` prints the newest"
)
REFERENCE = (
    r"^(?P<uri>(?:file|pvc|s3|store)://[^\s?#@]+|hf://[^\s?#@]+@[0-9a-f]{40}(?:/[^\s?#@]*)?)"
    r"@(?P<digest>sha256:[0-9a-f]{64})$"
)
"""``URI@sha256:HEX``; of an ``hf`` URI the commit has an @ of its own."""


def pinned(uri: str) -> bool:
    """Whether it names one commit, if it lies in the hub."""
    return not uri.startswith("hf://") or re.match(PINNED, uri) is not None
