"""Publishing a folder in a repository of the Hugging Face Hub: one commit, so all of it or none."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowstill.api.fields import StatusRef
from flowstill.artifacts.digests import files_of, is_ours, tree_digest
from flowstill.artifacts.hub import HubArtifact, endpoint_of
from flowstill.artifacts.manifest import verify
from flowstill.artifacts.remote import RemoteFile
from flowstill.artifacts.secrets import redact
from flowstill.artifacts.transfers import Movement, TransferFailed, has_checksum, tell
from flowstill.artifacts.uris import ArtifactUri, HubRepository
from flowstill.errors import ArtifactError


def push_to_hub(
    folder: Path, uri: str, *, force: bool = False, environment: Mapping[str, str] | None = None
) -> StatusRef:
    """Commit a folder to ``hf://[datasets/]ORG/NAME[/PATH]`` and return it pinned to the commit.

    The repository must be there: whether it is private is for its owner to say. Nothing is committed when the newest
    commit has these very files.

    Raises:
        ArtifactError: nothing to commit, no such repository, no right to write, or other files are there and ``force``
            is not set.
        DigestMismatch: an artifact of ours that is damaged.
        TransferFailed: the hub could not be reached.
    """
    variables = os.environ if environment is None else environment
    repository, path = _target(uri)
    if is_ours(folder):
        verify(folder)
    digest = tree_digest(folder)
    files = dict(files_of(folder))
    api = _api(variables)
    with _explained(uri):
        tell(f"asking for the newest commit of {repository}")
        head = str(api.repo_info(repository.name, repo_type=repository.kind).sha)
        there = _files_at(repository, head, path, variables)
        if not _same(there, files, folder):
            strangers = [] if is_ours(folder) else sorted(there.keys() - files.keys())
            if strangers and not force:
                raise ArtifactError(
                    f"{uri} has other files ({', '.join(strangers[:5])}): push to a folder of its own in it, such as "
                    f"{uri.rstrip('/')}/students/NAME, or delete them with --force"
                )
            tell(f"committing {len(files)} files to {repository}")
            head = _commit(api, repository, path, files, strangers, head)
            there = _files_at(repository, head, path, variables)
    if not _same(there, files, folder):
        raise ArtifactError(f"{uri}: the commit {head} has not the bytes of {folder}; push it again")
    return StatusRef(uri=str(ArtifactUri.parse(f"hf://{repository}@{head}/{path}")), digest=digest)


def _target(uri: str) -> tuple[HubRepository, str]:
    rest = uri.removeprefix("hf://").strip("/")
    count = 3 if rest.startswith("datasets/") else 2
    parts = rest.split("/")
    name = "/".join(parts[:count])
    if "@" in name:
        raise ArtifactError(f"{uri} names a commit, and pushing makes a new one: leave out what follows the @")
    repository = HubRepository.parse(name)
    # A parsed URI has a path in its normal form, and no way out of it.
    return repository, ArtifactUri.parse(f"hf://{repository}@{'0' * 40}/{'/'.join(parts[count:])}").path


def _api(environment: Mapping[str, str]) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint_of(environment), token=environment.get("HF_TOKEN") or None)


def _files_at(
    repository: HubRepository, commit: str, path: str, environment: Mapping[str, str]
) -> dict[str, RemoteFile]:
    """The files below the path; none where there is no such path."""
    top = HubArtifact(ArtifactUri.parse(f"hf://{repository}@{commit}"), environment)
    movement = Movement(f"listing {repository}", 0)
    below = f"{path}/" if path else ""
    files = movement.persist(top.files, str(repository))
    return {file.name.removeprefix(below): file for file in files if file.name.startswith(below)}


def _same(there: dict[str, RemoteFile], files: Mapping[str, Path], folder: Path) -> bool:
    """Whether the commit has these files; beside an artifact of ours there may be others."""
    if not is_ours(folder) and there.keys() != files.keys():
        return False
    return all(name in there and has_checksum(path, there[name]) for name, path in files.items())


def _commit(
    api: Any, repository: HubRepository, path: str, files: Mapping[str, Path], strangers: list[str], parent: str
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    below = f"{path}/" if path else ""
    operations: list[Any] = [CommitOperationAdd(f"{below}{name}", str(file)) for name, file in files.items()]
    operations += [CommitOperationDelete(f"{below}{name}") for name in strangers]
    done = api.create_commit(
        repository.name,
        operations,
        commit_message="Publish with Flowstill",
        repo_type=repository.kind,
        parent_commit=parent,
    )
    return str(done.oid)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ArtifactError(f"{uri}: HF_HUB_OFFLINE is set; unset it to push to the hub") from error
    except RepositoryNotFoundError as error:
        repository, _ = _target(uri)
        kind = " --type dataset" if repository.kind == "dataset" else ""
        raise ArtifactError(
            f"{uri}: there is no such repository, or HF_TOKEN may not see it; make it with "
            f"`hf repos create {repository.name} --private{kind}`"
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(uri, error.response.status_code, str(error)) from None
    except httpx.HTTPError as error:
        raise TransferFailed(f"{uri}: {redact(str(error))}") from None


def _refusal(uri: str, status: int, text: str) -> ArtifactError | TransferFailed:
    said = redact(" ".join(text.split()))[:400]
    if status in (401, 403):
        return ArtifactError(f"{uri}: HF_TOKEN may not write there ({said})")
    if status in (409, 412):
        return ArtifactError(f"{uri}: somebody else has committed meanwhile; push again ({said})")
    return ArtifactError(f"{uri}: {said}") if 400 <= status < 500 else TransferFailed(f"{uri}: {said}")
