"""What a child writes to its log."""

import logging
import sys

from flowstill.artifacts.secrets import RedactingFormatter

OURS = ("flowstill", "flowstill_trainer", "flowstill_evaluator")


def log_to_stderr(who: str = "") -> None:
    """Our own news, everybody's warnings, nobody's credentials.

    Libraries set up a log of their own when they are imported, which would keep ours out; it is taken away.

    Args:
        who: stands before every message.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(f"%(asctime)s %(levelname)s {who}%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in OURS:
        logging.getLogger(package).setLevel(logging.INFO)
