"""A child's log holds what Flowstill says, whatever was imported before."""

import subprocess
import sys

PROGRAM = """
import logging, os, sys
logging.basicConfig(format="theirs %(message)s")  # as libraries do on import
from flowstill.child.logs import log_to_stderr
log_to_stderr("process 1: ")
os.environ["AWS_SECRET_ACCESS_KEY"] = "0123456789abcdef"
for name in ("flowstill.x", "flowstill_trainer.x", "flowstill_evaluator.x", "somebody"):
    logging.getLogger(name).info("news of %s", name)
    logging.getLogger(name).debug("details of %s", name)
    logging.getLogger(name).warning("%s knows 0123456789abcdef", name)
"""


def test_our_news_everybodys_warnings_nobodys_credentials() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    said = [line.split(" ", 2)[2] for line in done.stderr.splitlines()]  # after the time
    expected = []
    for name in ("flowstill", "flowstill_trainer", "flowstill_evaluator"):
        expected += [f"INFO process 1: news of {name}.x", f"WARNING process 1: {name}.x knows [redacted]"]
    assert said == [*expected, "WARNING process 1: somebody knows [redacted]"]
