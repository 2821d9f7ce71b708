"""What the operator's command line and its environment may say."""

import pytest

from flowstill_operator.main import arguments
from flowstill_operator.remote_stores import HubAccess, RemoteStores, S3Access
from flowstill_operator.store_flags import remote_stores

IMAGES = ["--trainer-image=t", "--evaluator-image=e"]


@pytest.mark.parametrize("name", ["team-*", "!team", "a.b", "Team", "-a"])
def test_a_pattern_is_no_namespace(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWSTILL_NAMESPACES", f"robots, {name}")
    with pytest.raises(SystemExit):
        arguments(IMAGES)
    assert f"{name!r} is not the name of a namespace" in capsys.readouterr().err


def test_namespaces_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWSTILL_NAMESPACES", "robots, arms-2")
    assert arguments(IMAGES).namespaces == "robots, arms-2"


def test_images_are_required_and_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWSTILL_EVALUATOR_IMAGE", raising=False)
    with pytest.raises(SystemExit):
        arguments(IMAGES[:1])
    assert "--evaluator-image (or FLOWSTILL_EVALUATOR_IMAGE) is required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--store=file:///data"], "--store file:///data: pods can only use pvc://CLAIM[/PATH] or s3://BUCKET"),
        (["--store=s3://models"], "--store-work is needed with a bucket as --store"),
        (["--store=s3://models", "--store-work=s3://work"], "--store-work s3://work: children work on a claim"),
        (["--store=s3://No/x", "--store-work=pvc://w"], "--store: 's3://No/x' names no bucket"),
        (["--store=pvc://c/../x"], "--store: 'pvc://c/../x' has '..' in its path"),
        (["--s3-endpoint=minio:9000"], "--s3-endpoint minio:9000: use http(s)://HOST[:PORT]"),
        (["--s3-endpoint=https://key:secret@minio"], "without a path and without credentials"),
        (["--hub-endpoint=https://hub.test/x?y=1"], "--hub-endpoint https://hub.test/x?y=1: use"),
        (["--hub-endpoint=https://hub.test:port"], "--hub-endpoint https://hub.test:port: use"),
        (["--store-proxy=socks5://proxy"], "--store-proxy socks5://proxy: use"),
        (["--s3-secret=Not_A_Name"], "--s3-secret Not_A_Name: not the name of a Secret"),
        (["--hub=yes"], "--hub yes: use true or false"),
    ],
)
def test_flags_of_stores_that_cannot_work_are_named(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments([*IMAGES, *flags])
    assert words in capsys.readouterr().err


def test_stores_of_the_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote_stores(arguments(IMAGES)) == RemoteStores(s3=S3Access(path_style=False))
    given = {
        "STORE": "s3://models/flowstill",
        "STORE_WORK": "pvc://scratch",
        "S3_ENDPOINT": "https://minio.storage:9000",
        "S3_REGION": "eu-central-1",
        "S3_SECRET": "store",
        "S3_BUCKETS": "teachers, data",
        "HUB": "true",
        "HUB_SECRET": "hub",
        "STORE_CA": "company-ca",
        "STORE_PROXY": "http://proxy:3128",
        "STORE_NO_PROXY": ".svc",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"FLOWSTILL_{name}", value)
    assert remote_stores(arguments(IMAGES)) == RemoteStores(
        s3=S3Access("https://minio.storage:9000", "eu-central-1", True, "store", ("teachers", "data")),
        hub=HubAccess("https://huggingface.co", "hub"),
        work="pvc://scratch",
        ca="company-ca",
        proxy="http://proxy:3128",
        no_proxy=".svc",
    )
