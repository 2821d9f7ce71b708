"""``flowstill-evaluate`` with small networks of LeRobot: ``python -m tests.support.evaluate_small KIND parity …``."""

import sys

from tests.support.tiny_run import small

if __name__ == "__main__":
    kind = sys.argv.pop(1)
    with small(kind):
        from flowstill_evaluator.cli import main

        sys.exit(main())
