"""On this machine a spec may become what it may become on a cluster, and the documentation says what that is."""

import re

import pytest

from flowstill.api.fields import ALWAYS_MUTABLE
from flowstill.api.schema import REPOSITORY
from flowstill.api.studentrollout import UNTIL_PROMOTION
from flowstill.errors import UserError
from flowstill_operator.clusters.immutable import changed_spec
from tests.unit.operator.builders import resource, rollout_spec

OVERRIDE = {"gate": "P2", "by": "ann", "reason": "why", "expires": "2026-12-31T23:59:59Z"}
OVERRIDDEN = rollout_spec(overrides=[OVERRIDE])


def stored(status=None):
    return resource("StudentRollout", rollout_spec(overrides=[]), status)


@pytest.mark.parametrize("status", [None, {"phase": "Evaluating"}, {"phase": "Failed", "completionTime": "x"}])
def test_overrides_may_be_changed_on_the_way(status):
    assert changed_spec(stored(status), OVERRIDDEN) == OVERRIDDEN


@pytest.mark.parametrize(
    "status", [{"phase": "Rejected", "completionTime": "x"}, {"phase": "Promoting", "promotionTime": "x"}]
)
def test_and_not_when_it_has_ended(status):
    with pytest.raises(UserError, match=r"spec\.overrides: .* has ended \((Rejected|Promoting)\).*--fresh"):
        changed_spec(stored(status), OVERRIDDEN)


def test_nothing_else_may_be_changed():
    with pytest.raises(UserError, match=r"spec: .*immutable.*--fresh"):
        changed_spec(stored(), rollout_spec(overrides=[OVERRIDE], parity={"samples": 3}))


def test_the_documentation_names_what_may_be_changed_and_nothing_else():
    text = (REPOSITORY / "docs/lifecycle.md").read_text().split("## What may be changed\n")[1]
    table = text.split("\n\n")[0]
    rows = re.findall(r"^\| (`[^|]*) \| ([^|,;]*)", table, re.MULTILINE)
    said = {field: when.strip() for fields, when in rows for field in re.findall(r"`([\w.]+)`", fields)}
    always = dict.fromkeys((*ALWAYS_MUTABLE, "runtime.ttlSecondsAfterFinished"), "at any time")
    assert said == always | dict.fromkeys(UNTIL_PROMOTION, "until the student is promoted")
