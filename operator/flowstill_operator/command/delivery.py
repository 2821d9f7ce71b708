"""A student or evidence where the user asked for it: whole and verified, or not at all."""

from pathlib import Path

from flowstill.api.distilljob import DistillJobSpec
from flowstill.api.fields import StatusRef
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.manifest import Manifest, StudentProperties, read_manifest, verify
from flowstill.artifacts.stores import fetch, push
from flowstill.artifacts.uris import ArtifactUri
from flowstill.errors import ArtifactError, UserError

FLAG = "--output"


def check_output(folder: Path, spec: DistillJobSpec) -> None:
    """Refuse, before hours of training, a folder that cannot take this student.

    One that holds a student of the same options is let through: it may be this very one.

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
        found = read_manifest(folder)
    except ArtifactError as error:
        raise UserError(
            f"{folder} is not empty and holds no student; give another, or remove it", field=FLAG
        ) from error
    if not _of_these_options(found, spec):
        raise UserError(f"{folder} holds a student of other options; give another, or remove it", field=FLAG)


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


def _of_these_options(manifest: Manifest, spec: DistillJobSpec) -> bool:
    """Whether the student may be one of this spec, as far as its manifest says it without reading the inputs."""
    properties = manifest.properties
    if not isinstance(properties, StudentProperties):
        return False
    counts = (properties.draws, properties.teacher_steps)
    return properties.method == spec.options() and counts == (spec.student.draws, spec.teacher.steps)
