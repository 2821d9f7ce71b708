"""A student or evidence where the user asked for it: whole and verified, or not at all."""

from pathlib import Path

from flowstill.api.distilljob import DistillJobSpec
from flowstill.api.fields import Source, StatusRef
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.manifest import StudentProperties, read_manifest, verify
from flowstill.artifacts.stores import fetch, push
from flowstill.artifacts.uris import ArtifactUri, local_path
from flowstill.errors import ArtifactError, UserError

FLAG = "--output"


def check_output(folder: Path, spec: DistillJobSpec) -> None:
    """Refuse, before hours of training, a folder that cannot take this student.

    One that holds a student of the same teacher, dataset and options is let through: it may be this very one.

    Raises:
        UserError: it holds something else, or its path cannot be used.
    """
    try:
        ArtifactUri.parse(f"file://{folder}")
    except ArtifactError as error:
        raise UserError(f"{error}; give another", field=FLAG) from error
    if not _occupied(folder):
        return
    try:
        found = read_manifest(folder).properties
    except ArtifactError:
        found = None
    if not isinstance(found, StudentProperties):
        raise UserError(f"{folder} is not empty and holds no student; give another, or remove it", field=FLAG)
    other = _other(found, spec)
    if other is not None:
        raise UserError(f"{folder} holds a student of {other}; give another, or remove it", field=FLAG)


def deliver(student: StatusRef, folder: Path) -> None:
    """Copy the published student to ``folder``; nothing is done when it is there.

    Raises:
        UserError: the folder holds other bytes, or the student cannot be read or does not fit on the disk.
    """
    source = fetch(student, "status.student")
    if _occupied(folder):
        if tree_digest(folder) != student.digest:
            raise UserError(
                f"{folder} holds another student than {student.uri}@{student.digest}; remove it, or give another: "
                "the same command then copies the student and does not train again",
                field=FLAG,
            )
        try:
            verify(folder)
        except ArtifactError as error:
            raise UserError(f"{error}; remove {folder}, and give the same command again", field=FLAG) from error
        return
    try:
        push(source, f"file://{folder}")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); give another: the same command then copies {student.uri} "
            "and does not train again",
            field=FLAG,
        ) from error


def check_evidence_folder(folder: Path) -> None:
    """Refuse, before hours of episodes, a folder that cannot take the evidence; other evidence there is replaced.

    Raises:
        UserError: it holds something else, or its path cannot be used.
    """
    try:
        ArtifactUri.parse(f"file://{folder}")
        if _occupied(folder) and read_manifest(folder).kind != "Evidence":
            raise UserError(f"{folder} holds no evidence; give another, or remove it", field=FLAG)
    except ArtifactError as error:
        raise UserError(f"{error}; give another, or remove what is there", field=FLAG) from error


def deliver_evidence(evidence: StatusRef, folder: Path) -> None:
    """Copy the published evidence to ``folder``, in the place of other evidence.

    Raises:
        UserError: it cannot be read, or not be written there; the verdict stands, and the store has its evidence.
    """
    source = fetch(evidence, "status.evidence")
    try:
        push(source, f"file://{folder}", force=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); give another: the same command then copies {evidence.uri} "
            "and runs no episode again",
            field=FLAG,
        ) from error


def _occupied(folder: Path) -> bool:
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _other(properties: StudentProperties, spec: DistillJobSpec) -> str | None:
    """What tells the student there from one of this spec, as far as its manifest says it; None: nothing."""
    counts = (properties.draws, properties.teacher_steps)
    if properties.method != spec.options() or counts != (spec.student.draws, spec.teacher.steps):
        return "other options"
    for what, there, asked in (
        ("teacher", properties.teacher, spec.teacher),
        ("dataset", properties.dataset, spec.dataset),
    ):
        if there.uri != asked.uri and not _same_bytes(there, asked):
            return f"another {what} ({there.uri})"
    return None


def _same_bytes(there: StatusRef, asked: Source) -> bool:
    """Whether an input is the same at another place; one that is not on this machine may be."""
    try:
        return there.digest == (asked.digest or tree_digest(local_path(asked.uri)))
    except (ArtifactError, OSError):
        return True
