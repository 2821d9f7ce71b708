"""The artifact of kind ``Records``: trials as they were written down, with the two policies that they are about."""

import shutil
import tempfile
from pathlib import Path

from flowstill.api.fields import ArtifactRef, StatusRef
from flowstill.artifacts.digests import MANIFEST
from flowstill.artifacts.manifest import Manifest, RecordsProperties, describe_files, read_manifest
from flowstill.artifacts.stores import fetch, push
from flowstill.artifacts.trials import Trials, read_trials
from flowstill.errors import ArtifactError, RecordsRejected


def push_records(trials: Trials, about: RecordsProperties, uri: str, *, force: bool = False) -> StatusRef:
    """Copy the trials and the logs that they name to ``uri``, byte for byte, all of it or none.

    Raises:
        ArtifactError: other bytes are there and ``force`` is not set.
        StorageFull: it did not fit; what was there before is kept.
    """
    with tempfile.TemporaryDirectory(prefix="flowstill-records-") as name:
        folder = Path(name)
        for path in trials.files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(trials.folder / path, folder / path)
        manifest = Manifest(kind="Records", files=describe_files(folder), properties=about)
        (folder / MANIFEST).write_bytes(manifest.to_bytes())
        if read_trials(folder).trials != trials.trials:
            raise RecordsRejected(f"{trials.folder} changed while it was read; push it again when nothing writes to it")
        return push(folder, uri, force=force)


def fetch_records(ref: ArtifactRef, what: str) -> tuple[RecordsProperties, Trials]:
    """Read the artifact, hold every byte against its digest, and check the trials anew.

    Args:
        ref: what to read.
        what: the field that named it, for messages.

    Raises:
        ArtifactError: it cannot be read, differs from its digest, or is of another kind.
        RecordsRejected: it is no folder of trials that this version takes.
    """
    folder = fetch(ref, what)
    push_it = f"publish trials with `flowstill records push FOLDER {ref.uri}`, and give what that prints"
    try:
        manifest = read_manifest(folder)
    except ArtifactError as error:
        raise ArtifactError(f"{ref.uri} holds no records: {push_it} ({error})", field=f"{what}.uri") from error
    if not isinstance(manifest.properties, RecordsProperties):
        text = f"{ref.uri} is an artifact of kind {manifest.kind}, not Records: {push_it}"
        raise ArtifactError(text, field=f"{what}.uri")
    return manifest.properties, read_trials(folder)
