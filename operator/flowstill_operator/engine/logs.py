"""How the operator's log is written: lines for people, or JSON objects for a log store."""

import logging
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["text", "json"]
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up(level: str, kind: LogFormat) -> None:
    """Write the log of the whole process to standard error, kopf's only from warnings on.

    As JSON each line is one object with ``timestamp``, ``level``, ``logger``, ``message``, ``exc_info`` where there is
    a traceback, and what the call gave besides: ``kind`` and ``resource`` (NAMESPACE/NAME), ``phase`` of what changed.
    """
    handler = logging.StreamHandler()
    names = {"asctime": "timestamp", "levelname": "level", "name": "logger"}
    handler.setFormatter(logging.Formatter(TEXT) if kind == "text" else JsonFormatter(TEXT, rename_fields=names))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
