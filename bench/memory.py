"""Memory of a process, and how a table says it."""

from pathlib import Path

type Peak = tuple[float, float]
"""MiB at most, and how many of them lie above the imports."""


def process_memory(what: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most. Not getrusage: that includes the process that started this one."""
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) / 1024


def cells(found: Peak | None, reference: Peak | None) -> str:
    """``PEAK (above imports) | of the reference's``; dashes where it was left out."""
    if found is None or reference is None:
        return "– | –"
    return f"{found[0]:.0f} ({found[1]:.0f}) | {found[1] / reference[1]:.2f}"
