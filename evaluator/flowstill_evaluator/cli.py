"""``flowstill-evaluate parity | rollouts | judge --spec FILE --output DIR``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flowstill.child.run import run_child
from flowstill.child.threads import settle_threads

USAGE = """usage: flowstill-evaluate {parity,rollouts,judge} --spec FILE --output DIR

  parity    compare the student's ONNX graph with PyTorch, same observations, same noise
  rollouts  run every arm in the simulator, paired, or take recorded trials, and publish the records
  judge     judge published records by the nine gates, and publish the evidence
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the three children and return its exit code."""
    settle_threads()
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments else ""
    match command:
        case "parity":
            from flowstill_evaluator import parity

            return run_child("Parity", parity.run, arguments)
        case "rollouts":
            from flowstill_evaluator import evaluation

            return run_child("Rollouts", evaluation.run, arguments)
        case "judge":
            from flowstill_evaluator import judge

            return run_child("Judge", judge.judge, arguments)
        case "-h" | "--help":
            print(USAGE, end="")
            return 0
    print(USAGE, end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
