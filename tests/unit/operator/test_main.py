"""What the operator's command line and its environment may say."""

import pytest

from flowstill_operator.main import arguments

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


def test_a_store_that_no_pod_can_mount_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments([*IMAGES, "--store=file:///data"])
    assert "pods can only read pvc://" in capsys.readouterr().err
