"""Credentials of stores: which variables hold them, and how they are kept out of what people read."""

import logging
import os
import re
from collections.abc import Mapping

S3_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
HUB_SECRETS = ("HF_TOKEN",)
_ALL = (*S3_SECRETS, "AWS_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN", *HUB_SECRETS, "HUGGING_FACE_HUB_TOKEN")
_HIDDEN = "[redacted]"
_SHORTEST = 6
"""A shorter value would be part of ordinary words."""
_SIGNED = r"X-Amz-[A-Za-z-]+|Signature|AWSAccessKeyId|Policy|Key-Pair-Id|(?<![a-z_])[a-z_]*token"
"""Names of what signs a request. A token's is looked for from its beginning only: from each letter of a long text that
is none, it would take minutes."""
_QUERY = re.compile(rf"((?:{_SIGNED})=)[^&\s\"'<>)]+", re.I)
_HEADER = re.compile(r"((?:Bearer|AWS4-HMAC-SHA256)\s+)[^\r\n\"'<>]+", re.I)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without credentials: their values from the environment, signed queries, authorization headers."""
    variables = os.environ if environment is None else environment
    for name in _ALL:
        value = variables.get(name, "")
        if len(value) >= _SHORTEST:
            text = text.replace(value, _HIDDEN)
    return _HEADER.sub(rf"\1{_HIDDEN}", _QUERY.sub(rf"\1{_HIDDEN}", text))


class RedactingFormatter(logging.Formatter):
    """A log's lines, tracebacks too, without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """As usual, redacted."""
        return redact(super().format(record))
