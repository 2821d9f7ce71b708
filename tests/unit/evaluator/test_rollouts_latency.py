"""Latency: the arms take turns, the warm-up is not counted."""

import numpy as np
import pytest

from flowstill.errors import Interrupted
from flowstill_evaluator import latency
from flowstill_evaluator.observations import Batch
from tests.unit.evaluator.analytic import LineController

SEEN = Batch({"observation.state": np.array([[0.5], [-0.5]], np.float32)}, ("go", "come"))


class Listening(LineController):
    def __init__(self, name, calls):
        super().__init__()
        self.name, self.calls = name, calls

    def act(self, observations, noise_BKHD):
        self.calls.append((self.name, observations["task"][0], len(noise_BKHD)))
        return super().act(observations, noise_BKHD)


def test_turns_and_counts():
    calls = []
    runners = {"teacher@10": Listening("t", calls), "student": Listening("s", calls)}
    times = latency.measure(runners, SEEN, calls=30, seed=0, heard=lambda _: None)
    assert {arm: len(values) for arm, values in times.items()} == {"teacher@10": 30, "student": 30}
    assert len(calls) == 2 * (30 + latency.WARM_UP)
    assert all(rows == 1 for _, _, rows in calls)
    assert all({a[0], b[0]} == {"t", "s"} and a[1] == b[1] for a, b in zip(calls[::2], calls[1::2], strict=True))
    assert {a[0] for a in calls[::2]} == {"t", "s"}, "each goes first in turn"
    assert all(value > 0 for values in times.values() for value in values)


def test_it_can_be_stopped():
    def heard(done):
        if done == 3:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        latency.measure({"student": LineController()}, SEEN, calls=30, seed=0, heard=heard)
