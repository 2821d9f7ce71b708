"""The OCI layout folder of the test cluster's images: what is shared, what is written, what is removed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import layers


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    layers.open_layout(tmp_path / "layout")
    return tmp_path / "layout"


def folder(root: Path, name: str) -> Path:
    path = root / name
    path.mkdir()
    (path / f"{name}.txt").write_text(name)
    return path


def names(layout: Path) -> set[str]:
    manifests = json.loads((layout / "index.json").read_text())["manifests"]
    return {named["annotations"]["org.opencontainers.image.ref.name"] for named in manifests}


def manifest(layout: Path, name: str) -> dict[str, Any]:
    for named in json.loads((layout / "index.json").read_text())["manifests"]:
        if named["annotations"]["org.opencontainers.image.ref.name"] == name:
            digest = named["digest"].removeprefix("sha256:")
            found: dict[str, Any] = json.loads((layout / "blobs" / "sha256" / digest).read_text())
            return found
    raise KeyError(name)


def blobs(layout: Path) -> int:
    return len(list((layout / "blobs" / "sha256").iterdir()))


def test_an_image_shares_the_layers_below_it(layout: Path, tmp_path: Path) -> None:
    layers.write_above(layout, None, "below:1", {"os": "linux"}, [folder(tmp_path, "base")])
    layers.write_above(layout, "below:1", "above:1", {"os": "linux"}, [folder(tmp_path, "code")])
    shared, own = manifest(layout, "below:1")["layers"], manifest(layout, "above:1")["layers"]
    assert own[:1] == shared
    assert len(own) == 2
    assert layers.has_image(layout, "above:1")
    assert not layers.has_image(layout, "above:2")


def test_a_newer_image_takes_the_place_of_the_older_one_and_of_what_only_that_needed(
    layout: Path, tmp_path: Path
) -> None:
    layers.write_above(layout, None, "below:1", {}, [folder(tmp_path, "base")])
    layers.write_above(layout, "below:1", "above:1", {}, [folder(tmp_path, "old")])
    before = blobs(layout)
    layers.write_above(layout, "below:1", "above:2", {}, [folder(tmp_path, "new")])
    layers.drop_older(layout, "above:2")
    assert names(layout) == {"below:1", "above:2"}
    assert blobs(layout) == before
    assert len(manifest(layout, "above:2")["layers"]) == 2


def test_a_dropped_image_below_leaves_its_layers_to_those_above(layout: Path, tmp_path: Path) -> None:
    layers.write_above(layout, None, "below:1", {}, [folder(tmp_path, "base")])
    layers.write_above(layout, "below:1", "above:1", {}, [folder(tmp_path, "code")])
    layers.write_above(layout, None, "below:2", {}, [folder(tmp_path, "other")])
    layers.drop_older(layout, "below:2")
    digests = [layer["digest"].removeprefix("sha256:") for layer in manifest(layout, "above:1")["layers"]]
    assert all((layout / "blobs" / "sha256" / digest).exists() for digest in digests)
