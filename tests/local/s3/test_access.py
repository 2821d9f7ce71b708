"""Whether a bucket may be reached at all: names, credentials, certificates, and what the command line says."""

import logging
import subprocess
from pathlib import Path

import pytest

from flowstill.api.fields import Source
from flowstill.artifacts import transfers
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.stores import fetch, push
from flowstill.artifacts.transfers import TransferFailed
from flowstill.errors import ArtifactError
from flowstill_operator import cli
from tests.local.s3.folders import same
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, s3_server


def test_nothing_there_and_no_bucket(bucket: Path) -> None:
    with pytest.raises(ArtifactError, match=r"spec\.dataset\.uri: s3://.*nothing there; .*flowstill store push"):
        fetch(Source(uri="store://datasets/none"), "spec.dataset")
    with pytest.raises(ArtifactError, match=r"(?i)no such bucket|does not exist"):
        fetch(Source(uri="s3://no-such-bucket/x"))


def test_no_credential_in_errors_or_logs(
    folder: Path, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may repeat what it was sent; whoever reads the message must not see it."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token-0001")
    words = f"bad key {ACCESS_KEY} {SECRET_KEY} the-session-token-0001 X-Amz-Signature=0123abcd&x".encode()
    for status in (403, 400, 500):
        body = b"<Error><Code>Odd</Code><Message>" + words.replace(b"&", b"&amp;") + b"</Message></Error>"
        proxy.faults[:] = [Fault("answer", method=m, status=status, body=body, times=1000) for m in ("GET", "PUT")]
        with caplog.at_level(logging.DEBUG), pytest.raises((ArtifactError, TransferFailed)) as caught:
            push(folder, "store://teachers/mine")
        for text in (str(caught.value), repr(caught.value), caplog.text):
            assert "[redacted]" in str(caught.value)
            for secret in (ACCESS_KEY, SECRET_KEY, "the-session-token-0001", "0123abcd"):
                assert secret not in text


def test_a_server_of_a_private_authority(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, certificate, key = (tmp_path / name for name in ("ca.crt", "server.crt", "server.key"))
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN"
    own = f"{make}=authority -keyout {tmp_path}/ca.key -out {authority}"
    signed = f"{make}=store -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    signed += f" -CA {authority} -CAkey {tmp_path}/ca.key -keyout {key} -out {certificate}"
    for command in (own, signed):
        subprocess.run(command.split(), check=True, capture_output=True)
    monkeypatch.setattr(transfers, "TRIES", 1)
    with s3_server((certificate, key)) as server:
        server.bucket("private")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        with pytest.raises(TransferFailed, match=r"private.*error sending request: UnknownIssuer"):
            push(folder, "s3://private/teachers/mine")
        monkeypatch.setenv("FLOWSTILL_CA_FILE", str(authority))
        assert same(fetch(push(folder, "s3://private/teachers/mine")), folder)
        monkeypatch.setenv("FLOWSTILL_CA_FILE", str(tmp_path / "none"))
        with pytest.raises(ArtifactError, match=r"FLOWSTILL_CA_FILE: .*none cannot be read"):
            push(folder, "s3://private/teachers/mine")


def test_the_command_line_pushes_to_a_bucket_and_reads_from_it(
    folder: Path, bucket: Path, proxy: FaultProxy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", f"s3://{bucket.name}/flowstill")
    assert cli.main(["store", "push", str(folder), "store://teachers/mine", *store]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == f"store://teachers/mine@{tree_digest(folder)}"
    assert (bucket / "flowstill/teachers/mine/policy/model.safetensors").is_file()
    assert cli.main(["run", "none.yaml", *store]) == 2
    assert "--store: s3://" in capsys.readouterr().err
    monkeypatch.setattr(transfers, "TRIES", 1)
    proxy.faults += [Fault("answer", method=method, times=1000) for method in ("GET", "PUT")]
    assert cli.main(["store", "push", str(folder), "store://teachers/other", *store]) == 2
    assert "the same command continues" in capsys.readouterr().err


def test_refused_credentials_name_the_fix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-0001")
    with pytest.raises(ArtifactError, match=r"refuses these credentials .*store\.s3\.secret"):
        push(folder, "store://teachers/mine")


def test_a_bucket_is_no_place_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowstill.artifacts.stores import work_folder

    monkeypatch.delenv("FLOWSTILL_WORK")
    with pytest.raises(ArtifactError, match=r"store\.work"):
        work_folder("store://work/uid/train")
