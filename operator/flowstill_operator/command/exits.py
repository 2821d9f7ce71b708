"""The exit codes of ``flowstill``: stable, so that scripts and CI can rely on them."""

from collections.abc import Sequence

COMPLETED, REJECTED, USAGE, INCONCLUSIVE, INTERRUPTED = 0, 1, 2, 3, 130
NAMES = {
    COMPLETED: "completed",
    REJECTED: "rejected",
    USAGE: "refused",
    INCONCLUSIVE: "inconclusive",
    INTERRUPTED: "interrupted",
}
"""In a word, for ``--json``."""
MEANINGS = {
    COMPLETED: "what was asked for is done, and every verdict is a pass or overridden by somebody",
    REJECTED: "a verdict is a rejection, or a child could not do its work",
    USAGE: "bad input, or something that cannot be read or written; the error names it and the fix",
    INCONCLUSIVE: "too little evidence for a verdict, or suspended by spec.suspend; this is no rejection",
    INTERRUPTED: "stopped; the same command continues",
}
GOOD = frozenset({"Completed", "Succeeded"})
OPEN = frozenset({"Inconclusive", "Suspended"})
"""Neither yes nor no."""


def exit_code(phases: Sequence[str]) -> int:
    """The worst end decides; a failure weighs more than too little evidence."""
    if all(phase in GOOD for phase in phases):
        return COMPLETED
    others = {phase for phase in phases if phase not in GOOD}
    # A run ends with a rollout still pending when the DistillJob that it waits for is suspended.
    waiting = {"Pending"} if "Suspended" in others else set()
    return INCONCLUSIVE if others - waiting <= OPEN else REJECTED


def table() -> str:
    """The exit codes for ``--help``."""
    return "exit codes:\n" + "\n".join(
        f"  {code:<4} {f'{NAMES[code]}:':<14} {meaning}" for code, meaning in MEANINGS.items()
    )
