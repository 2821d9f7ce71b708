"""What ``flowstill run`` prints where there is no terminal."""

import io

import pytest
from rich.console import Console

from flowstill.api.children import ProgressReport
from flowstill_operator.command.display import Display
from flowstill_operator.steps import Note

RESOURCE = {"kind": "DistillJob", "metadata": {"name": "a"}}
JOB = {"metadata": {"name": "a-train", "labels": {"flowstill.dev/owner-name": "a", "flowstill.dev/role": "train"}}}


@pytest.fixture
def shown():
    console = Console(file=io.StringIO(), width=200)
    return Display(console), lambda: console.file.getvalue().splitlines()


def test_an_end_does_not_repeat_the_condition_that_decided_it(shown):
    display, lines = shown
    for text in ("Trained: no such teacher", "Failed: no such teacher"):
        display.event(RESOURCE, Note("Warning", "TeacherRejected", text))
    display.event(RESOURCE, Note("Normal", "Running", "Trained"))
    display.event(RESOURCE, Note("Normal", "Running", "ParityVerified"))
    assert lines() == [
        "DistillJob a: TeacherRejected: Trained: no such teacher",
        "DistillJob a: Running: Trained",
        "DistillJob a: Running: ParityVerified",
    ]


def test_there_is_no_count_before_there_is_a_total(shown):
    display, lines = shown
    display._line(JOB, ProgressReport(activity="starting", step=0, total_steps=0))
    display._last.clear()
    display._line(JOB, ProgressReport(activity="training", step=7, total_steps=40, loss=0.5))
    assert lines() == ["a train: starting", "a train: training 7/40 loss 0.5"]
