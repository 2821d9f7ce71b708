"""``lerobot-eval`` where LeRobot builds small networks: ``python -m tests.support.eval_small KIND --policy.path=…``."""

import sys

from tests.support.tiny_run import small

if __name__ == "__main__":
    kind = sys.argv.pop(1)
    with small(kind):
        from lerobot.scripts.lerobot_eval import main

        main()
