"""What can go wrong, said so that the reader knows what to do next.

A :class:`UserError` is final: the same input fails again, so nobody retries it (a child ends with exit code 65, a
Job's podFailurePolicy fails it at once). Everything else is worth another attempt.
"""

USER_ERROR_EXIT_CODE = 65
"""BSD ``EX_DATAERR``; the pod failure policy treats 64 to 78 as the user's error."""


class FlowstillError(Exception):
    """Base of all our own errors."""

    reason = "Error"


class UserError(FlowstillError):
    """The input cannot work; the message names the field and the fix."""

    reason = "InvalidInput"

    def __init__(self, message: str, *, field: str | None = None, reason: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        if reason is not None:
            self.reason = reason


class ArtifactError(UserError):
    """A URI that cannot be read, or whose bytes are not those of its digest."""

    reason = "ArtifactUnreadable"


class DigestMismatch(ArtifactError):
    """The bytes differ from the digest that was asked for."""

    reason = "DigestMismatch"


class TeacherRejected(UserError):
    """The checkpoint is no flow policy that Flowstill can distill, or its tensors do not match."""

    reason = "TeacherRejected"


class DatasetRejected(UserError):
    """The dataset's features do not fit the policy."""

    reason = "DatasetRejected"


class RecordsRejected(UserError):
    """Records of trials that cannot be believed as they are: the message names file, line and fix."""

    reason = "RecordsRejected"


class StorageFull(UserError):
    """No space left; what was done before is kept."""

    reason = "StorageFull"


class MemoryShort(UserError):
    """What a run is certain to need is more memory than there is."""

    reason = "MemoryShort"


class NonFiniteLoss(UserError):
    """Training met NaN or infinity; the last good checkpoint is kept."""

    reason = "NonFiniteLoss"


class Interrupted(FlowstillError):
    """SIGTERM: the checkpoint is saved, the next attempt continues from it."""

    reason = "Interrupted"
