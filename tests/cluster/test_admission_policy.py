"""Who may approve, abort, retry and override: the chart's admission policy, asked by real users."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.chart import Release, remove_crds
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.processes import CommandError, wait_until
from tests.cluster.operator_process import await_crds
from tests.cluster.resources import distill_job, student_rollout

DIGEST = "sha256:" + "e" * 64
PREFIX = "flowstill.dev"
ABORT = "1 alice: the arm shakes"
Annotate = Callable[..., None]


def refused(call: Callable[[], None], text: str) -> bool:
    """Whether the call is refused with this text."""
    try:
        call()
    except CommandError as error:
        return text in error.stderr
    return False


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The release, and `alice` who may edit and approve, `bob` who may edit, `argo` who may override and vouch."""
    remove_crds(control_plane)
    release = Release(control_plane, control_plane.create_namespace("policy"))
    release.install()
    await_crds(control_plane)
    rules = json.dumps(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "vouch"},
            "rules": [
                {"apiGroups": [PREFIX], "resources": ["studentrollouts"], "verbs": ["vouch", "override"]},
            ],
        }
    )
    control_plane.kubectl("apply", "-f", "-", stdin=rules)
    yield control_plane
    release.uninstall()
    remove_crds(control_plane)
    control_plane.kubectl("delete", "clusterrole", "vouch")
    control_plane.kubectl("delete", "namespace", release.namespace, "--wait=false")


@pytest.fixture
def annotate(plane: ControlPlane, namespace: str) -> Annotate:
    """Sets one annotation of the rollout `mine` as a user."""
    grants = (("edit", ("alice", "bob", "argo")), ("fs-flowstill-approve", ("alice",)), ("vouch", ("argo",)))
    for role, users in grants:
        plane.kubectl(
            "create", "rolebinding", role, f"--clusterrole={role}", *(f"--user={u}" for u in users), "-n", namespace
        )
    plane.apply(student_rollout("mine", namespace))
    plane.apply(distill_job("mine", namespace=namespace))

    def call(user: str, action: str, value: str | None, kind: str = "studentrollout") -> None:
        change = f"{PREFIX}/{action}-" if value is None else f"{PREFIX}/{action}={value}"
        plane.kubectl("annotate", kind, "mine", change, "--overwrite", "-n", namespace, f"--as={user}")

    # Bindings, aggregated roles and the policy itself reach the server's caches a moment later.
    def settled() -> bool:
        try:
            call("alice", "retry", "0 alice: settled")
        except CommandError:
            return False
        return refused(lambda: call("bob", "retry", "0 bob: settled"), "retry")

    wait_until("the policy", settled, 60.0)
    return call


def test_an_action_needs_its_verb_and_the_askers_own_name(annotate: Annotate) -> None:
    approval = f"{DIGEST} alice: seen on the bench"
    for action, value in (("approve", approval), ("abort", ABORT), ("retry", "2 alice: the node is mended")):
        for user in ("bob", "argo"):
            with pytest.raises(CommandError, match=f"{PREFIX}/{action}: {user} needs the verb {action}"):
                annotate(user, action, value)
    for action, head in (("approve", "EVIDENCE-DIGEST"), ("abort", "TOKEN"), ("retry", "TOKEN")):
        for wrong in (f"{DIGEST} bob: seen on the bench", "yes", "alice: yes", f"{DIGEST} alice"):
            with pytest.raises(CommandError, match=f"{action}: must read {head} alice: WHY"):
                annotate("alice", action, wrong)
    annotate("alice", "approve", approval)
    annotate("alice", "abort", ABORT)
    annotate("alice", "retry", "2 alice: the node is mended")
    # Whoever may edit may still edit: other annotations, and taking one of ours away, which does nothing.
    annotate("bob", "note", "hello")
    annotate("bob", "retry", None)
    with pytest.raises(CommandError, match="on distilljobs"):
        annotate("bob", "retry", "3 bob: again", kind="distilljob")
    annotate("alice", "retry", "3 alice: again", kind="distilljob")


def test_an_action_at_creation_is_asked_for_too(plane: ControlPlane, namespace: str, annotate: Annotate) -> None:
    del annotate
    rollout: dict[str, Any] = student_rollout("born", namespace)
    rollout["metadata"]["annotations"] = {f"{PREFIX}/retry": "1 alice: from the start"}
    with pytest.raises(CommandError, match="bob needs the verb retry"):
        plane.kubectl("create", "--as=bob", "-f", "-", stdin=json.dumps(rollout))
    plane.kubectl("create", "--as=alice", "-f", "-", stdin=json.dumps(rollout))


def test_an_override_needs_its_verb_and_the_askers_own_name(
    plane: ControlPlane, namespace: str, annotate: Annotate
) -> None:
    del annotate

    def override(user: str, by: str, gate: str = "P2") -> None:
        entry = {"gate": gate, "by": by, "reason": "slower, and still in time", "expires": "2099-01-01T00:00:00Z"}
        patch = json.dumps({"spec": {"overrides": [entry]}})
        command = ("patch", "studentrollout", "mine", "--type=merge", "--patch", patch, "-n", namespace)
        plane.kubectl(*command, f"--as={user}")

    with pytest.raises(CommandError, match=r"spec\.overrides: bob needs the verb override"):
        override("bob", "bob")
    with pytest.raises(CommandError, match=r"spec\.overrides: by must be alice"):
        override("alice", "bob")
    override("alice", "alice")
    # Who may vouch writes for others, as a GitOps controller does.
    override("argo", "alice", "P3")
    # What stands there already binds nobody who changes something else.
    plane.kubectl("label", "studentrollout", "mine", "team=x", "-n", namespace, "--as=bob")
    nothing = json.dumps({"spec": {"overrides": None}})
    with pytest.raises(CommandError, match=r"spec\.overrides: bob needs the verb override"):
        plane.kubectl("patch", "studentrollout", "mine", "--type=merge", "-p", nothing, "-n", namespace, "--as=bob")


def test_whoever_takes_manual_approval_back_may_approve(
    plane: ControlPlane, namespace: str, annotate: Annotate
) -> None:
    del annotate
    here, account = ("-n", namespace), f"{namespace}:gitops"
    plane.kubectl("create", "serviceaccount", "gitops", *here)

    def set_approval(user: str, approval: str | None) -> None:
        patch = json.dumps({"spec": {"approval": approval}})
        plane.kubectl("patch", "studentrollout", "mine", "--type=merge", "--patch", patch, *here, f"--as={user}")

    def grant(role: str) -> None:
        binding = ("create", "rolebinding", f"gitops-{role}", f"--clusterrole={role}")
        plane.kubectl(*binding, f"--serviceaccount={account}", *here)

    # Whoever may edit may ask for an approval, and change something else while one is asked for.
    set_approval("bob", "Manual")
    plane.kubectl("label", "studentrollout", "mine", "team=x", *here, "--as=bob")
    for given in ("Automatic", None):
        # Who may vouch for others needs the verb as well.
        for user in ("bob", "argo"):
            with pytest.raises(CommandError, match=rf"spec\.approval: {user} needs the verb approve on studentroll"):
                set_approval(user, given)
        set_approval("alice", given)
        set_approval("bob", "Manual")

    def automatic() -> None:
        set_approval(f"system:serviceaccount:{account}", "Automatic")

    grant("edit")
    wait_until("an account that may edit", lambda: refused(automatic, "gitops needs the verb approve"), 60.0)
    grant("fs-flowstill-approve")
    wait_until("an account that may approve", lambda: not refused(automatic, "the verb approve"), 60.0)
    automatic()
    assert plane.get("studentrollout", "mine", *here)["spec"]["approval"] == "Automatic"
