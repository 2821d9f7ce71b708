"""A child's last words: one JSON line that always fits."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flowstill.api.children import MAX_RESULT_BYTES, Result
from flowstill.artifacts.atomic import write_atomic

logger = logging.getLogger(__name__)
RESULT_FILE = "result.json"
DEFAULT_TERMINATION_LOG = "/dev/termination-log"
_ENDING = "..."
_Document = dict[str, Any]


def result_line(result: Result, limit: int = MAX_RESULT_BYTES) -> str:
    """The result as one line of JSON of at most ``limit`` bytes in UTF-8.

    What is too long loses, in this order, digits, the gates' sentences, its own message's end, then whole
    lists (fidelity, arms), which the artifact has too. Verdicts, digests and URIs stay.

    Raises:
        ValueError: the URIs alone are longer than the limit.
    """
    value: _Document = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    for shorten in _SHORTENINGS:
        line = _dump(value)
        if len(line.encode()) <= limit:
            return line
        value = shorten(value)
    line = _dump(value)
    if len(line.encode()) > limit:
        raise ValueError(f"a result of {len(line.encode())} bytes cannot be shortened to {limit}")
    return line


def clip(text: str, length: int) -> str:
    """At most ``length`` characters; a text that was cut says so by its ending."""
    return text if len(text) <= length else text[: max(0, length - len(_ENDING))] + _ENDING[:length]


def write_result(result: Result, work: Path, environment: Mapping[str, str] | None = None) -> None:
    """Write ``result.json`` into the work folder, then the same line as the termination message.

    A full disk does not keep the child from saying so: the termination message is written all the same.
    """
    try:
        write_atomic(work / RESULT_FILE, result_line(result).encode() + b"\n")
    except Exception as error:
        logger.error("%s is not written: %s", work / RESULT_FILE, error)
    write_message(result, environment)


def write_message(result: Result, environment: Mapping[str, str] | None = None) -> None:
    """Write the result as the container's termination message, where there is a place for one."""
    variables = os.environ if environment is None else environment
    named = variables.get("FLOWSTILL_TERMINATION_LOG")
    path = Path(named or DEFAULT_TERMINATION_LOG)
    if not named and not path.exists():
        logger.debug("no %s here; the result is in the work folder only", path)
        return
    try:
        path.write_text(result_line(result), encoding="utf-8")
    except OSError as error:
        logger.error("the termination message %s is not written: %s", path, error)


def _dump(value: _Document) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _gate_messages(length: int) -> Callable[[_Document], _Document]:
    def shorten(value: _Document) -> _Document:
        gates = [{**gate, "message": clip(gate["message"], length)} for gate in value["gates"]]
        return {**value, "gates": gates}

    return shorten


def _message(length: int) -> Callable[[_Document], _Document]:
    return lambda value: {**value, "message": clip(value["message"], length)}


def _without(name: str) -> Callable[[_Document], _Document]:
    return lambda value: {**value, name: []}


_SHORTENINGS: tuple[Callable[[_Document], _Document], ...] = (
    _rounded,
    _gate_messages(160),
    _message(512),
    _gate_messages(80),
    _message(160),
    _gate_messages(0),
    _without("fidelity"),
    _without("arms"),
)
