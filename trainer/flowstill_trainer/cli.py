"""``flowstill-train --spec FILE --output DIR``."""

import os
import sys


def main() -> int:
    """Run one Train task; the exit code is the child contract's."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything comes from the artifacts
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from flowstill.child.threads import settle_threads

    settle_threads()
    from flowstill.child.run import run_child
    from flowstill_trainer.distill import distill

    return run_child("Train", distill, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
