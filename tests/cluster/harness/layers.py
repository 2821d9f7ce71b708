"""Images written as what they add to one that is already there: a change of code must not write gigabytes again.

`buildah push` compresses every layer of an image each time, which takes minutes. This writes the layers straight
from the storage's overlay folders, uncompressed, and only those above the nearest image that the layout has.
"""

import hashlib
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

_MEDIA = "application/vnd.oci.image"
_LAYER_TYPE = f"{_MEDIA}.layer.v1.tar"
_MANIFEST_TYPE = f"{_MEDIA}.manifest.v1+json"
_OPAQUE = "trusted.overlay.opaque"
_REFERENCE = "org.opencontainers.image.ref.name"


def open_layout(layout: Path) -> None:
    """Make `layout` an OCI layout folder without images, unless it is one."""
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    if not (layout / "index.json").exists():
        (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": []}))


def has_image(layout: Path, name: str) -> bool:
    """Say whether the layout has an image of this name."""
    return any(named["annotations"][_REFERENCE] == name for named in _read(layout / "index.json")["manifests"])


def find_below(storage: Path, layout: Path, name: str) -> tuple[str | None, list[Path]]:
    """Return the nearest image under `name` that `layout` has, and the overlay folders above it, lowest first.

    Without such an image the folders are all of them.
    """
    known = {named["annotations"][_REFERENCE] for named in _read(layout / "index.json")["manifests"]}
    tops = {
        other: image["layer"]
        for image in _read(storage / "overlay-images" / "images.json")
        for other in image.get("names", [])
    }
    below_of = {top: other for other, top in tops.items() if other in known and other != name}
    parents = {layer["id"]: layer.get("parent") for layer in _read(storage / "overlay-layers" / "layers.json")}
    folders: list[Path] = []
    layer = tops[name]
    while layer and layer not in below_of:
        folders.insert(0, storage / "overlay" / layer / "diff")
        layer = parents[layer]
    return (below_of[layer] if layer else None), folders


def write_above(layout: Path, below: str | None, name: str, config: dict[str, Any], folders: list[Path]) -> None:
    """Write image `name` into `layout`: the layers of `below`, and one for each of `folders`.

    Args:
        layout: an OCI layout folder that has `below`.
        below: the image whose layers are shared; None: there is none.
        name: the new image's name.
        config: its OCI configuration; its layers' digests are set here.
        folders: overlay folders, lowest first.
    """
    manifests = _read(layout / "index.json")["manifests"]
    shared_layers, shared_digests = _layers_of(layout, manifests, below) if below else ([], [])
    added = [_write_layer(layout, folder) for folder in folders]
    digests = [*shared_digests, *(layer["digest"] for layer in added)]
    config = {**config, "rootfs": {"type": "layers", "diff_ids": digests}}
    # The history counts layers of its own build; without one every reader goes by the digests alone.
    config.pop("history", None)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": {"mediaType": f"{_MEDIA}.config.v1+json", **_write_json(layout, config)},
        "layers": [*shared_layers, *added],
    }
    written = {"mediaType": _MANIFEST_TYPE, **_write_json(layout, manifest), "annotations": {_REFERENCE: name}}
    others = [named for named in manifests if named["annotations"][_REFERENCE] != name]
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [*others, written]}))


def drop_older(layout: Path, name: str) -> None:
    """Forget the images of `name`'s repository with another tag, and remove every file that no image needs."""
    index = _read(layout / "index.json")
    repository = name.rpartition(":")[0]
    kept = [
        named
        for named in index["manifests"]
        if named["annotations"][_REFERENCE] == name or named["annotations"][_REFERENCE].rpartition(":")[0] != repository
    ]
    (layout / "index.json").write_text(json.dumps({**index, "manifests": kept}))
    needed = set()
    for named in kept:
        manifest = _read(_blob(layout, named["digest"]))
        needed |= {part["digest"] for part in (named, manifest["config"], *manifest["layers"])}
    for blob in (layout / "blobs" / "sha256").iterdir():
        if f"sha256:{blob.name}" not in needed:
            blob.unlink()


def _layers_of(layout: Path, manifests: list[dict[str, Any]], name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The layers of an image of the layout, and their digests before compression."""
    found = next(named for named in manifests if named["annotations"][_REFERENCE] == name)
    manifest = _read(_blob(layout, found["digest"]))
    return manifest["layers"], _read(_blob(layout, manifest["config"]["digest"]))["rootfs"]["diff_ids"]


def _write_layer(layout: Path, folder: Path) -> dict[str, Any]:
    unfinished = layout / "layer.unfinished"
    with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            _add(tar, path, str(path.relative_to(folder)))
    with unfinished.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = unfinished.stat().st_size
    unfinished.rename(layout / "blobs" / "sha256" / digest)
    return {"mediaType": _LAYER_TYPE, "digest": f"sha256:{digest}", "size": size}


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    status = path.lstat()
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        # The overlay's sign for a removed file, in the words of an OCI layer.
        parent, _, removed = name.rpartition("/")
        tar.addfile(tarfile.TarInfo(f"{parent}/.wh.{removed}" if parent else f".wh.{removed}"))
        return
    tar.add(path, name, recursive=False)
    if stat.S_ISDIR(status.st_mode) and _OPAQUE in os.listxattr(path):
        # The folder hides what lies under it in lower layers.
        tar.addfile(tarfile.TarInfo(f"{name}/.wh..wh..opq"))


def _write_json(layout: Path, content: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(content).encode()
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
