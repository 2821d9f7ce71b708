"""How the page says numbers and names."""

from collections.abc import Mapping
from math import floor, log10
from typing import Any

from flowstill_evaluator.gates.base import points
from flowstill_evaluator.report.document import Ending, Gate, Report

METHODS = {"snapflow": "SnapFlow"}
_FAMILIES = {"smolvla": "SmolVLA", "pi0": "π0", "pi05": "π0.5"}
POLICIES = _FAMILIES | {f"flowstill_{kind}": name for kind, name in _FAMILIES.items()}
_HEADLINES = {
    "Pass": "The student may be served",
    "Fail": "The student must not be served",
    "Inconclusive": "The evidence does not decide",
}
SYMBOLS = {"Pass": "✓", "Fail": "✗", "Inconclusive": "?"}
_UNITS = {"S1": " / 100", "P6": " / 100", "P2": " ×", "P3": " ×"}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_POINTS = {"S3", "P1", "P5"}
_DISTANCES = {
    "student": "Energy distance, student to teacher",
    "teacher_self": "Energy distance, teacher to itself",
    "student_spread": "Spread of the student's draws",
    "teacher_spread": "Spread of the teacher's draws",
}


def baseline_name(report: Report) -> str:
    """What the student was compared with."""
    subject = report.subject
    if subject.baseline != subject.teacher:
        return "the policy served now"
    return f"its teacher at {subject.teacher_steps} denoising steps"


def headline(report: Report) -> str:
    """The verdict as one sentence; overrides can open the way, and are never silent."""
    stopping = [gate for gate in report.gates if gate.verdict != "Pass"]
    if stopping and all(gate.override is not None and not gate.override.lapsed for gate in stopping):
        return "The student may be served by override"
    return _HEADLINES[report.verdict]


def reasons(report: Report) -> list[Gate]:
    """The gates that say why: those that did not pass, failures first; what P1 and S3 showed when all did."""
    if all(gate.verdict == "Pass" for gate in report.gates):
        return [gate for gate in report.gates if gate.name in ("P1", "S3")]
    return sorted((g for g in report.gates if g.verdict != "Pass"), key=lambda gate: gate.verdict != "Fail")


def measure(value: float | None, gate: str) -> str:
    """A gate's number in the unit of its limit."""
    if value is None:
        return "–"
    if gate in _POINTS:
        return f"{points(value)} pt"
    return f"{value:.3g}{_UNITS.get(gate, '')}".replace("-", "−")


def ending(side: Ending) -> str:
    """How an episode ended, in a few words."""
    after = f"after {side.steps} step{'' if side.steps == 1 else 's'}"
    return f"succeeded {after}" if side.success else f"failed ({side.failure or 'unexplained'}) {after}"


def chance(p_value: float) -> str:
    """A p value with its sign, such as ``= 0.029`` or ``< 0.001``."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}" if p_value < 0.1 else f"= {p_value:.2f}"


def scientific(number: float) -> str:
    """Such as ``3.4 × 10⁻⁶``."""
    mantissa, exponent = f"{number:.1e}".split("e")
    if not -3 < int(exponent) < 4:
        return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return f"{number:.2g}"


def percent(proportion: float) -> str:
    """Such as ``87.5 %``."""
    return f"{100.0 * proportion:.1f} %"


def confidence(level: float) -> str:
    """What bounds of a one-sided level hold with, such as ``95 %``; enough digits to tell it from 100."""
    digits = max(0, -floor(log10(level)) - 2)
    return f"{100.0 * (1.0 - level):.{digits}f} %"


def percent_tick(proportion: float) -> str:
    """Such as ``25 %``."""
    return f"{100.0 * proportion:g} %"


def short(digest: str | None) -> str:
    """As much of a digest as tells it from others."""
    return "no digest" if not digest else digest[:19] + "…" if len(digest) > 24 else digest


def thousands(number: float) -> str:
    """Such as ``1 214 336``."""
    return f"{number:,.0f}".replace(",", " ")


def size(count: float) -> str:
    """Bytes in MiB."""
    return f"{count / 2**20:.2f} MiB" if count < 2**20 else f"{count / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Such as ``3 min 51 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def distance(name: str) -> str:
    """What a distance or spread of ``fidelity.json`` is between."""
    return _DISTANCES.get(name, name.replace("_", " ").capitalize())


def settings(values: Mapping[str, Any], without: str = "") -> str:
    """Fields with their values, those within a field in brackets; what is empty or not set is left out."""
    said = (f"{name} {_setting(value)}" for name, value in values.items() if name != without and _is_set(value))
    return ", ".join(said)


def _is_set(value: Any) -> bool:
    return value is not None and value not in ("", {}, [])


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({settings(value)})"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def fact(value: Any, name: str) -> str:
    """A fact of the machine; bytes are said in GiB."""
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    return str(value)
