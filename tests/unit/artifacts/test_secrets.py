import logging
import sys

import pytest

from flowstill.artifacts.secrets import RedactingFormatter, redact

HERE = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "HF_TOKEN": "hf_abcdef",
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "PATH": "/usr/bin",
}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("the key wJalrXUtnFEMI of AKIDEXAMPLE", "the key [redacted] of [redacted]"),
        ("Authorization: Bearer hf_another1", "Authorization: Bearer [redacted]"),
        ("GET /x?X-Amz-Signature=0a1b&X-Amz-Date=2", "GET /x?X-Amz-Signature=[redacted]&X-Amz-Date=[redacted]"),
        (
            "https://cdn/x?Policy=ey&Signature=ab&Key-Pair-Id=K",
            "https://cdn/x?Policy=[redacted]&Signature=[redacted]&Key-Pair-Id=[redacted]",
        ),
        ("https://h/x?access_token=ab c", "https://h/x?access_token=[redacted] c"),
        ("nothing in /usr/bin", "nothing in /usr/bin"),
    ],
)
def test_credentials_are_taken_out(text: str, clean: str) -> None:
    assert redact(text, HERE) == clean


def test_a_short_value_is_not_taken_for_a_word() -> None:
    assert redact("a token of a bucket", {"HF_TOKEN": "a"}) == "a token of a bucket"


def test_a_traceback_is_redacted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    try:
        raise ValueError("no such key: wJalrXUtnFEMI")
    except ValueError:
        record = logging.LogRecord(
            "x", logging.ERROR, __file__, 1, "failed with %s", ("wJalrXUtnFEMI",), sys.exc_info()
        )
    text = RedactingFormatter("%(message)s").format(record)
    assert "ValueError" in text
    assert "wJalrXUtnFEMI" not in text
