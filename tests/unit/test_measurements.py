"""Tables of docs/measurements.md are what the benches print from their kept results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from quality import PURPOSES
from quality import RESULTS as QUALITY
from quality_results import Results, table
from quality_tasks import EPISODES
from quality_tasks import RESULTS as TASKS

MEASUREMENTS = (Path(__file__).parents[2] / "docs" / "measurements.md").read_text()
SECTIONS = {
    "The claim:": (QUALITY, PURPOSES["claim"].purpose),
    "**Through a camera**": (TASKS / "reach-around-wide.json", EPISODES.purpose),
    "The choice:": (QUALITY, PURPOSES["choice"].purpose),
}
"""What stands before the table, and whose it is."""


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_table_is_what_its_results_say(heading):
    file, purpose = SECTIONS[heading]
    assert MEASUREMENTS.count(f"\n{heading}") == 1
    _, after = MEASUREMENTS.split(f"\n{heading}")
    lines = after[after.index("\n|") + 1 :].splitlines()
    shown = lines[: next(number for number, line in enumerate(lines) if not line.startswith("|"))]
    assert shown == table(Results.load(file), purpose).splitlines()
