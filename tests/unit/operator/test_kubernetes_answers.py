"""What an answer of the API server means for the loop."""

from typing import Any

import pytest

from flowstill_operator.clusters.interface import Conflict, Gone, Refused
from flowstill_operator.clusters.kubernetes import ApiError, _check


def answer(reason: str, *causes: str) -> dict[str, Any]:
    return {"message": "no", "reason": reason, "details": {"causes": [{"reason": cause} for cause in causes]}}


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (404, answer("NotFound"), Gone),
        (403, answer("Forbidden", "NamespaceTerminating"), Gone),
        (403, answer("Forbidden"), ApiError),
        (409, answer("Conflict"), Conflict),
        (400, answer("BadRequest"), Refused),
        (422, answer("Invalid", "FieldValueInvalid"), Refused),
        (429, answer("TooManyRequests"), ApiError),
        (500, {}, ApiError),
    ],
)
def test_an_answer_that_is_no_success_says_what_to_do(
    status: int, body: dict[str, Any], meaning: type[Exception]
) -> None:
    with pytest.raises(meaning):
        _check(status, body)


@pytest.mark.parametrize(
    ("body", "seconds"), [(answer("TooManyRequests"), 0.0), ({"details": {"retryAfterSeconds": 7}}, 7.0)]
)
def test_how_long_the_server_asks_to_be_left_alone(body: dict[str, Any], seconds: float) -> None:
    with pytest.raises(ApiError) as caught:
        _check(429, body)
    assert caught.value.retry_after == seconds


def test_a_success_is_one() -> None:
    _check(201, {})
