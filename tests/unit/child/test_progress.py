import io
import logging
import math
import socket
import urllib.error
import urllib.request
from typing import TextIO

import pytest

from flowstill.api.children import ProgressReport
from flowstill.child.progress import ProgressTracker
from flowstill.child.server import ProgressServer, metrics_text


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_a_plain_line_every_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    with ProgressTracker(stream, clock) as progress:
        for step in range(1, 31):
            clock.now += 1
            progress.update(step, 100, "training", loss=0.5, samples_per_second=64.0)
    assert lines(stream) == [
        "training: 1 of 100, loss 0.5, 64 samples/s",
        "training: 11 of 100, 89 s left, loss 0.5, 64 samples/s",
        "training: 21 of 100, 79 s left, loss 0.5, 64 samples/s",
    ]


def test_a_new_activity_and_the_last_step_are_always_said() -> None:
    stream = io.StringIO()
    with ProgressTracker(stream, Clock()) as progress:
        progress.update(0, 3, "bank")
        progress.update(1, 3, "bank")
        progress.update(3, 3, "bank")
        progress.update(0, 0, "exporting")
    assert lines(stream) == ["bank: 0 of 3", "bank: 3 of 3, 0 s left", "exporting"]


def test_time_left_counts_from_where_this_attempt_began() -> None:
    clock = Clock()
    with ProgressTracker(io.StringIO(), clock) as progress:
        progress.update(500, 1000, "training")
        assert progress.report.estimated_remaining_seconds is None
        clock.now += 20
        progress.update(600, 1000, "training")
        assert progress.report.estimated_remaining_seconds == 80
        progress.update(0, 10, "fidelity")
        clock.now += 2
        progress.update(1, 10, "fidelity")
        assert progress.report.estimated_remaining_seconds == 18


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_left_out(value: float) -> None:
    with ProgressTracker(io.StringIO(), Clock()) as progress:
        progress.update(1, 2, "training", loss=value, samples_per_second=value)
        assert progress.report == ProgressReport(activity="training", step=1, total_steps=2)


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    with ProgressTracker(stream, Clock()) as progress:
        progress.update(2, 2, "training", loss=0.25)
    assert "training" in stream.getvalue()
    assert "2/2" in stream.getvalue()
    assert "━" in stream.getvalue()


def get(port: int | None, path: str) -> tuple[str, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_served_over_http(host: str) -> None:
    with ProgressTracker(io.StringIO(), Clock(), (host, 0)) as progress:
        progress.update(3, 10, "training", loss=0.5)
        kind, body = get(progress.port, "/progress")
        assert kind == "application/json"
        assert ProgressReport.model_validate_json(body) == progress.report
        kind, body = get(progress.port, "/metrics")
        assert kind.startswith("text/plain; version=0.0.4")
        assert 'flowstill_child_step{activity="training"} 3\n' in body
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(progress.port, "/secrets")
        port = progress.port
    with pytest.raises(urllib.error.URLError):
        get(port, "/progress")


def test_metrics_leave_out_what_is_unknown_and_escape_labels() -> None:
    text = metrics_text(ProgressReport(activity='a"b\\c', step=0, total_steps=2, loss=0.125))
    assert 'flowstill_child_loss{activity="a\\"b\\\\c"} 0.125' in text
    assert "samples_per_second" not in text
    assert text.count("# TYPE") == 3


def test_a_taken_port_does_not_stop_the_work(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            caplog.at_level(logging.WARNING),
            ProgressTracker(io.StringIO(), Clock(), ("127.0.0.1", port)) as progress,
        ):
            progress.update(1, 2, "training")
            assert progress.port is None
    assert f"no progress on port {port}" in caplog.text


def test_one_who_asked_and_went_away_leaves_nothing_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    server = ProgressServer(("127.0.0.1", 0), lambda: ProgressReport(activity="training", step=0, total_steps=1))
    for error in (BrokenPipeError(), ConnectionResetError(), ValueError("a defect")):
        try:
            raise error
        except type(error):
            server._server.handle_error(None, ("127.0.0.1", 1))
    server.close()
    said = capfd.readouterr().err
    assert "a defect" in said
    assert "BrokenPipe" not in said + "ConnectionReset"


def test_the_server_follows_the_newest_report() -> None:
    reports = iter(range(5))
    server = ProgressServer(("127.0.0.1", 0), lambda: ProgressReport(activity="a", step=next(reports), total_steps=5))
    try:
        steps = [ProgressReport.model_validate_json(get(server.port, "/progress")[1]).step for _ in range(3)]
    finally:
        server.close()
    assert steps == [0, 1, 2]


def test_no_terminal_means_no_escape_codes() -> None:
    stream: TextIO = io.StringIO()
    with ProgressTracker(stream, Clock()) as progress:
        progress.update(1, 1, "training")
    assert isinstance(stream, io.StringIO)
    assert "\x1b" not in stream.getvalue()
