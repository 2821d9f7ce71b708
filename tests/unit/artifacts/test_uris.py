import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstill.artifacts.uris import ArtifactUri, Locations, local_path, resolved
from flowstill.errors import ArtifactError

PART = st.text(string.ascii_letters + string.digits + "-_.@%=+ ", min_size=1, max_size=12).filter(
    lambda part: part not in (".", "..")
)
PATH = st.lists(PART, min_size=1, max_size=4).map("/".join)


@given(st.sampled_from(["file:///", "pvc://claim-1/", "store://"]), PATH)
def test_text_round_trips(prefix: str, path: str) -> None:
    uri = ArtifactUri.parse(prefix + path)
    assert str(uri) == prefix + path
    assert ArtifactUri.parse(str(uri)) == uri


def test_one_normal_form() -> None:
    assert str(ArtifactUri.parse("store://teachers//x/./y/")) == "store://teachers/x/y"
    assert str(ArtifactUri.parse("pvc://claim/")) == "pvc://claim"
    assert ArtifactUri.parse("pvc://claim/a/b") == ArtifactUri("pvc", "a/b", "claim")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://host/x", "no URI of Flowstill"),
        ("teachers/x", "no URI of Flowstill"),
        ("file://host/x", "absolute path"),
        ("pvc://UPPER/x", "names no claim"),
        ("pvc:///x", "names no claim"),
        ("store://a/../../etc", "'..'"),
        ("file:///a/..", "'..'"),
        ("store://a?b", "character"),
        ("store://a\nb", "character"),
        ("store://a\x00", "character"),
    ],
)
def test_what_is_no_uri_is_refused(text: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        ArtifactUri.parse(text)


def test_places(tmp_path: Path) -> None:
    (tmp_path / "volumes/claim").mkdir(parents=True)
    on_claim = Locations("pvc://claim/flowstill", tmp_path / "volumes")
    assert local_path("file:///a/b", on_claim) == Path("/a/b")
    assert local_path("pvc://claim/p/q", on_claim) == tmp_path / "volumes/claim/p/q"
    assert local_path("store://p", on_claim) == tmp_path / "volumes/claim/flowstill/p"
    assert local_path("store://p", Locations(f"file://{tmp_path}")) == tmp_path / "p"
    assert local_path("store://p", Locations(str(tmp_path))) == tmp_path / "p"


def test_missing_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="FLOWSTILL_STORE"):
        local_path("store://p", Locations())
    with pytest.raises(ArtifactError, match="claim gone is not mounted"):
        local_path("pvc://gone/p", Locations(None, tmp_path))
    with pytest.raises(ArtifactError, match="default store store://x"):
        local_path("store://p", Locations("store://x"))


def test_a_link_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "store/door").symlink_to(tmp_path / "secret")
    (tmp_path / "store/inside").mkdir()
    (tmp_path / "store/alias").symlink_to("inside")
    locations = Locations(str(tmp_path / "store"))
    with pytest.raises(ArtifactError, match="leads out"):
        local_path("store://door/x", locations)
    assert local_path("store://alias/x", locations) == tmp_path / "store/alias/x"


def test_environment() -> None:
    assert Locations.from_environment({}) == Locations()
    given_both = {"FLOWSTILL_STORE": "pvc://c", "FLOWSTILL_VOLUMES": "/v"}
    assert Locations.from_environment(given_both) == Locations("pvc://c", Path("/v"))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "root", "path"),
    [
        ("s3://my-bucket.eu/a//b/", "my-bucket.eu", "a/b"),
        ("s3://bucket", "bucket", ""),
        (f"hf://org/pi0.5_base@{COMMIT}", f"org/pi0.5_base@{COMMIT}", ""),
        (f"hf://datasets/org/d@{COMMIT}/data/v3", f"datasets/org/d@{COMMIT}", "data/v3"),
    ],
)
def test_buckets_and_commits(text: str, root: str, path: str) -> None:
    parsed = ArtifactUri.parse(text)
    assert (parsed.root, parsed.path) == (root, path)
    assert ArtifactUri.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://ab/x", "names no bucket"),
        ("s3://Upper/x", "names no bucket"),
        ("s3://a..b/x", "names no bucket"),
        ("s3://host:9000/x", "names no bucket"),
        ("s3://user@host/x", "names no bucket"),
        ("s3://bucket/../x", "'..'"),
        ("hf://org", "no repository of the hub"),
        (f"hf://or..g/n@{COMMIT}", "no repository of the hub"),
        (f"hf://org/n@{COMMIT[:-1]}", "not pinned"),
        (f"hf://org/n@{COMMIT.upper()}", "not pinned"),
        ("hf://datasets/org/n@v1", r"git ls-remote https://huggingface\.co/datasets/org/n refs/heads/v1"),
        (f"hf://org/n@{COMMIT}/a/../b", "'..'"),
    ],
)
def test_what_is_no_bucket_and_no_commit_is_refused(text: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        ArtifactUri.parse(text)


def test_with_a_bucket_as_the_store_work_lies_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    here = Locations("s3://bucket/flowstill", tmp_path, "pvc://scratch/flowstill")
    assert str(resolved("store://students/x", here)) == "s3://bucket/flowstill/students/x"
    assert str(resolved("store://workshop/x", here)) == "s3://bucket/flowstill/workshop/x"
    assert local_path("store://work/uid/train", here) == tmp_path / "scratch/flowstill/uid/train"
    with pytest.raises(ArtifactError, match="lies in s3://bucket/flowstill/students"):
        local_path("store://students/x", here)
    with pytest.raises(ArtifactError, match=r"set FLOWSTILL_WORK, or the chart's store\.work"):
        local_path("store://work/uid", Locations("s3://bucket"))
    with pytest.raises(ArtifactError, match=r"the work volume .* must be file"):
        local_path("store://work/uid", Locations("s3://bucket", tmp_path, "s3://bucket/work"))


def test_work_does_not_lead_out_of_its_volume(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch/uid").symlink_to("/etc")
    with pytest.raises(ArtifactError, match="leads out"):
        local_path("store://work/uid/train", Locations("s3://bucket", tmp_path, "pvc://scratch"))


@given(
    st.sampled_from(["s3://bucket/", "s3://", f"hf://org/n@{COMMIT}/", "hf://", "pvc://claim/", "store://"]),
    st.text(max_size=40),
)
def test_nothing_that_is_taken_leads_out_of_its_root(prefix: str, rest: str) -> None:
    try:
        parsed = ArtifactUri.parse(prefix + rest)
    except ArtifactError:
        return
    assert not parsed.path.startswith("/")
    assert not {"", "..", "."} & set(parsed.path.split("/")) or parsed.path == ""
    assert ArtifactUri.parse(str(parsed)) == parsed
    if parsed.root is not None:
        assert str(parsed).startswith(f"{parsed.scheme}://{parsed.root}")
