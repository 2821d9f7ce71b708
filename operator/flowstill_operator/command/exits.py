"""The exit codes of ``flowstill``: stable, so that scripts and CI can rely on them."""

from collections.abc import Sequence

COMPLETED, REJECTED, USAGE, INCONCLUSIVE, INTERRUPTED = 0, 1, 2, 3, 130
MEANINGS = {
    COMPLETED: "completed: everything asked for was done, and every verdict is a pass",
    REJECTED: "rejected, or failed: a verdict says no, or a child could not do its work",
    USAGE: "bad input: nothing was started, or what it needs cannot be read or written; the error names the fix",
    INCONCLUSIVE: "inconclusive: too little evidence for a verdict, or spec.suspend is true; this is no rejection",
    INTERRUPTED: "interrupted: the same command continues",
}
GOOD = frozenset({"Completed", "Succeeded"})
OPEN = frozenset({"Inconclusive", "Suspended", "Pending"})
"""Neither yes nor no. A rollout is Pending at the end of a run while the DistillJob that it waits for is suspended."""


def exit_code(phases: Sequence[str]) -> int:
    """The worst end decides; a failure weighs more than too little evidence."""
    if all(phase in GOOD for phase in phases):
        return COMPLETED
    others = {phase for phase in phases if phase not in GOOD}
    return INCONCLUSIVE if others <= OPEN else REJECTED


def table() -> str:
    """The exit codes for ``--help``."""
    return "exit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in MEANINGS.items())
