"""Argo CD's health checks and actions, run by a real Lua over statuses that the operator's plans make."""

from typing import get_args

import lupa.lua51 as lua
import pytest
import yaml

from flowstill.api.actions import find_request, read_requests
from flowstill.api.distilljob import Phase as DistillJobPhase
from flowstill.api.schema import KINDS
from flowstill.api.studentrollout import Phase as RolloutPhase
from scripts.argocd import FOLDER, config_map
from tests.unit.operator.builders import EVIDENCE, distill_spec, resource, rollout_spec
from tests.unit.operator.phases import DISTILLJOBS, ROLLOUTS

HEALTHY = {"Completed", "Succeeded"}
DEGRADED = {"Failed", "Rejected", "Inconclusive", "Superseded", "RolledBack"}
PAUSED = {"AwaitingApproval", "Suspended"}
RETRIED = {"Failed", "RolledBack"}
CASES = [("DistillJob", phase) for phase in DISTILLJOBS] + [("StudentRollout", phase) for phase in ROLLOUTS]


def lua_with_what_argo_cd_gives() -> lua.LuaRuntime:
    """Base, package, table, and two functions of os: neither string nor io nor math."""
    runtime = lua.LuaRuntime()
    runtime.execute(
        "getmetatable('').__index = nil; string, io, math, debug = nil, nil, nil, nil\n"
        "os = {date = os.date, time = os.time}"
    )
    return runtime


def into_lua(runtime, value):
    if isinstance(value, dict):
        return runtime.table_from({key: into_lua(runtime, item) for key, item in value.items()})
    return runtime.table_from([into_lua(runtime, item) for item in value]) if isinstance(value, list) else value


def from_lua(value):
    if lua.lua_type(value) != "table":
        return value
    found = {key: from_lua(item) for key, item in value.items()}
    return list(found.values()) if found and all(isinstance(key, int) for key in found) else found


def call(path, document):
    runtime = lua_with_what_argo_cd_gives()
    runtime.globals().obj = into_lua(runtime, document)
    return from_lua(runtime.execute((FOLDER / path).read_text()))


def document(kind, phase):
    status = (DISTILLJOBS if kind == "DistillJob" else ROLLOUTS)[phase]()
    return resource(kind, distill_spec() if kind == "DistillJob" else rollout_spec(), status)


def test_every_phase_is_there():
    assert set(DISTILLJOBS) | {"Suspended"} == set(get_args(DistillJobPhase)) | {"Suspended"}
    assert set(ROLLOUTS) | {"Suspended"} == set(get_args(RolloutPhase)) | {"Suspended"}
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == {kind.name for kind in KINDS}


@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_health_is_what_the_status_says(kind, phase):
    found = document(kind, phase)
    assert found["status"]["phase"] == phase
    health = call(f"{kind}/health.lua", found)
    expected = next(
        (
            name
            for name, phases in (("Healthy", HEALTHY), ("Degraded", DEGRADED), ("Suspended", PAUSED))
            if phase in phases
        ),
        "Progressing",
    )
    assert health["status"] == expected
    assert health["message"].startswith(phase)
    assert found["status"].get("message", "") in health["message"]


@pytest.mark.parametrize("kind", ["DistillJob", "StudentRollout"])
@pytest.mark.parametrize("phase", ["Succeeded", "Completed", "Failed"])
def test_what_the_operator_has_not_seen_is_progressing(kind, phase):
    new = resource(kind, {})
    assert call(f"{kind}/health.lua", new)["status"] == "Progressing"
    stale = {**new, "status": {"phase": phase, "observedGeneration": 1}}
    stale["metadata"]["generation"] = 2
    assert call(f"{kind}/health.lua", stale)["status"] == "Progressing"
    assert call(f"{kind}/health.lua", {**new, "status": {"phase": phase}})["status"] == "Progressing"


@pytest.mark.parametrize("kind", ["DistillJob", "StudentRollout"])
def test_what_is_held_back_is_suspended_and_can_be_aborted(kind):
    held = resource(kind, {}, {"phase": "Suspended", "observedGeneration": 1})
    assert call(f"{kind}/health.lua", held) == {"status": "Suspended", "message": "Suspended"}
    offered = call(f"{kind}/actions/discovery.lua", held)
    assert [offered[action]["disabled"] for action in ("abort", "retry")] == [False, True]


def test_a_target_that_drifted_is_degraded_and_says_by_whom():
    found = document("StudentRollout", "Completed")
    drifted = {"type": "Drifted", "status": "True", "message": "the target serves x, set by field manager kubectl"}
    for truth, health in (("True", "Degraded"), ("False", "Healthy")):
        conditions = [*found["status"]["conditions"], {**drifted, "status": truth}]
        said = call("StudentRollout/health.lua", {**found, "status": {**found["status"], "conditions": conditions}})
        assert said["status"] == health
        assert ("set by field manager kubectl" in said["message"]) == (health == "Degraded")


@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_actions_are_offered_when_the_operator_would_take_them(kind, phase):
    offered = call(f"{kind}/actions/discovery.lua", document(kind, phase))
    ended = phase in HEALTHY | DEGRADED
    expected = {"abort": ended, "retry": phase not in RETRIED}
    if kind == "StudentRollout":
        expected["approve"] = phase != "AwaitingApproval"
    assert {name: action["disabled"] for name, action in offered.items()} == expected
    assert set(offered) == {path.parent.name for path in (FOLDER / kind / "actions").glob("*/action.lua")}


@pytest.mark.parametrize("kind", ["DistillJob", "StudentRollout"])
@pytest.mark.parametrize("action", ["abort", "retry"])
def test_an_action_only_annotates(kind, action):
    found = document(kind, "Failed")
    changed = call(f"{kind}/actions/{action}/action.lua", found)
    annotations = changed["metadata"].pop("annotations")
    assert changed == from_lua(into_lua(lua.LuaRuntime(), found))
    request = find_request(read_requests(annotations), action)
    assert len(annotations) == 1
    assert (request.by, request.token[:2], request.token[-1]) == ("argocd", "20", "Z")


def test_an_approval_is_of_the_evidence_that_is_there():
    changed = call("StudentRollout/actions/approve/action.lua", document("StudentRollout", "AwaitingApproval"))
    request = find_request(read_requests(changed["metadata"]["annotations"]), "approve")
    assert (request.token, request.by) == (EVIDENCE.digest, "argocd")
    with pytest.raises(lua.LuaError, match="AwaitingApproval"):
        call("StudentRollout/actions/approve/action.lua", document("StudentRollout", "Judging"))


def test_the_patch_of_argo_cds_configuration_holds_the_files():
    text = (FOLDER / "argocd-cm.yaml").read_text()
    assert text == config_map(), "run `python scripts/argocd.py`"
    data = yaml.safe_load(text)["data"]
    for kind in ("DistillJob", "StudentRollout"):
        assert (
            data[f"resource.customizations.health.flowstill.dev_{kind}"] == (FOLDER / kind / "health.lua").read_text()
        )
        actions = yaml.safe_load(data[f"resource.customizations.actions.flowstill.dev_{kind}"])
        for definition in actions["definitions"]:
            path = FOLDER / kind / "actions" / definition["name"] / "action.lua"
            assert definition["action.lua"] == path.read_text()
