"""On this machine a spec may become what it may become on a cluster."""

import pytest

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
