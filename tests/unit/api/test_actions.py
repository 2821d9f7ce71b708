"""Annotations by which people act: how they are read, and what is remembered of them."""

import pytest

from flowstill.api.actions import MAX_ACTIONS, Action, Request, find_request, read_request, read_requests, with_action

DIGEST = "sha256:" + "d" * 64


@pytest.mark.parametrize(
    ("text", "token", "by", "reason"),
    [
        (f"{DIGEST} alice: saw the videos", DIGEST, "alice", "saw the videos"),
        (f"{DIGEST} system:serviceaccount:argocd:server: by hand: twice", DIGEST,
         "system:serviceaccount:argocd:server", "by hand: twice"),
        (f"{DIGEST} Jane Doe:  fine ", DIGEST, "Jane Doe", "fine"),
        (DIGEST, DIGEST, "", ""),
        ("2026-11-28T18:00:00Z", "2026-11-28T18:00:00Z", "", ""),
        ("alice: it stutters", "", "alice", "it stutters"),
        ("now it stutters", "now", "", "it stutters"),
        ("", "", "", ""),
        ("  t   alice: x  ", "t", "alice", "x"),
    ],
)  # fmt: skip
def test_a_request_is_read(text, token, by, reason):
    request = read_request("abort", text)
    assert (request.token, request.by, request.reason) == (token, by, reason)


def test_what_is_written_is_what_is_read():
    for request in (
        Request("retry", "t", "alice", "again"),
        Request("retry", "t"),
        Request("approve", DIGEST, "b", "c"),
    ):
        assert read_request(request.action, request.text) == request


def test_whatever_is_written_fits_into_a_status():
    request = read_request("abort", f"{'t' * 900} {'b' * 900}: {'r' * 900}")
    Action(action="abort", token=request.token, by=request.by, reason=request.reason, time="2026-01-02T03:04:05Z")


def test_only_ours_are_requests():
    assert read_requests(None) == ()
    found = read_requests(
        {"other.dev/abort": "x", "flowstill.dev/target": "true", "flowstill.dev/abort": " ", "flowstill.dev/retry": "t"}
    )
    assert found == (Request("retry", "t"),)
    assert find_request(found, "abort") is None


def action(name, token):
    return Action(action=name, token=token, time="2026-01-02T03:04:05Z")


def test_the_record_is_bounded_and_keeps_what_must_not_act_again():
    record = [action("abort", "a")]
    for number in range(2 * MAX_ACTIONS):
        record = with_action(record, action("retry", f"r{number}"))
    assert len(record) == MAX_ACTIONS
    assert Request("abort", "a").recorded_in(record)
    assert Request("retry", f"r{2 * MAX_ACTIONS - 1}").recorded_in(record)
    assert not Request("retry", "r0").recorded_in(record)
    assert not Request("approve", "a").recorded_in(record)
