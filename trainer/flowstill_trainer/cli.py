"""``flowstill-train --spec FILE --output DIR``: one process, or one of those that ``torchrun`` starts."""

import logging
import os
import sys
from functools import partial


def main() -> int:
    """Run one Train task; the exit code is the child contract's."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything comes from the artifacts
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from flowstill.child.threads import settle_threads

    settle_threads()
    from flowstill.child.run import run_child
    from flowstill_trainer.distill import distill
    from flowstill_trainer.processes import Processes

    processes = Processes.from_environment()
    code = run_child("Train", partial(distill, processes=processes), sys.argv[1:], processes)
    if processes.size > 1:
        logging.shutdown()
        os._exit(code)  # all is said; an orderly end would wait for collective operations that others left
    return code


if __name__ == "__main__":
    sys.exit(main())
