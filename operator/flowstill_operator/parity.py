"""What a parity child measured: the largest difference of two runtimes, against its threshold."""

from dataclasses import dataclass

from flowstill.api.children import Result

PARITY_FAILED = "ParityFailed"
PARITY_FAILED_TEXT = "the exported graph is not the trained student: {measured}"


@dataclass(frozen=True)
class Measured:
    """A difference of normalised actions, ONNX Runtime against PyTorch."""

    difference: float
    threshold: float

    @property
    def holds(self) -> bool:
        """Whether the exported graph is the trained student."""
        return self.difference <= self.threshold

    @property
    def text(self) -> str:
        """Both numbers in a sentence."""
        numbers = f"{self.difference:.2g}, threshold {self.threshold:.2g}"
        return f"largest difference of ONNX and PyTorch {numbers}"


def measured(result: Result) -> Measured | None:
    """The measurement in a parity child's result; None when it says that it succeeded without one."""
    if result.difference is None or result.threshold is None:
        return None
    return Measured(result.difference, result.threshold)
