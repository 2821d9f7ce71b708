"""An operator that is killed at random moments, over and over, while DistillJobs and StudentRollouts go through.

Every request that it made, in all its lives, was seen by a proxy: no Job was created twice, no end and no decision was
taken back, and nothing is stuck.
"""

import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.cluster.faults import history
from tests.cluster.faults.proxy import FaultProxy, running_proxy
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.resources import distill_job
from tests.cluster.scene import RESULTS, Scene, text
from tests.cluster.stand_in_kubelet import is_waiting
from tests.cluster.waiting import POLL_SECONDS
from tests.unit.operator.builders import judged

ROLES = ("train", "parity", "rollouts", "judge")
ENDS = {"Pass": "Completed", "Fail": "Rejected", "Inconclusive": "Inconclusive"}


class Killer(threading.Thread):
    """Kills the operator so often, each time at a random moment of its life, and starts it again."""

    def __init__(self, operator: OperatorProcess, times: int, seed: int, alive: float) -> None:
        super().__init__()
        self.left, self.ended_alone = times, 0
        self.over = threading.Event()
        self._operator, self._random, self._alive = operator, random.Random(seed), alive

    def run(self) -> None:
        """What a thread started dies with it, so it stays until it is told to go."""
        while self.left and not self.over.is_set():
            if not self._operator.is_running():
                # As the kubelet does.
                self.ended_alone += 1
                self._operator.start()
            if self._operator.read("/readyz")[0] != 200 or self.over.wait(self._random.uniform(0.0, self._alive)):
                self.over.wait(0.1)
                continue
            self._operator.kill()
            self.left -= 1
            self._operator.start()
        self.over.wait()


class Crowd:
    """Pairs of a DistillJob and a StudentRollout of its student; the first rollout has the target."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene, self._random = scene, random.Random(seed)
        self.verdicts: dict[str, str] = {}

    def add(self) -> None:
        """One more pair."""
        name = f"pair-{len(self.verdicts):02}"
        first = not self.verdicts
        self.verdicts[name] = "Pass" if first else self._random.choice(sorted(ENDS))
        self.scene.plane.apply(distill_job(name, self.scene.namespace))
        self.scene.start(name, {"distillJob": name}, target=first)

    def play(self) -> None:
        """Some of the children that wait run, and some of those that run end."""
        kubelet = self.scene.kubelet
        for pod in self.scene.objects.list("pods", "flowstill.dev/owner-name"):
            if self._random.random() < 0.5:
                continue
            if is_waiting(pod):
                kubelet.run(pod)
            elif pod["status"]["phase"] == "Running":
                labels = pod["metadata"]["labels"]
                role, name = labels["flowstill.dev/role"], labels["flowstill.dev/owner-name"]
                kubelet.end(pod, judged(self.verdicts[name]) if role == "judge" else RESULTS[role])
        if self.scene.entry() is not None:
            self.scene.await_available()

    def ended(self) -> int:
        """How many pairs have come to their end."""
        phases = {r["metadata"]["name"]: r.get("status", {}).get("phase") for r in self._all("studentrollouts")}
        done = {r["metadata"]["name"]: r.get("status", {}).get("phase") for r in self._all("distilljobs")}
        return sum(
            phases.get(name) == ENDS[verdict] and done.get(name) == "Succeeded"
            for name, verdict in self.verdicts.items()
        )

    def says(self) -> list[tuple[str, str, str]]:
        """Name, phase and message of all."""
        return [
            (r["metadata"]["name"], r.get("status", {}).get("phase", ""), r.get("status", {}).get("message", ""))
            for plural in ("distilljobs", "studentrollouts")
            for r in self._all(plural)
        ]

    def _all(self, plural: str) -> list[dict]:
        return self.scene.objects.list(plural)


def check(crowd: Crowd, proxy: FaultProxy) -> None:
    """What must be so of all lives together."""
    scene = crowd.scene
    history.check(proxy.calls, scene.namespace)
    expected = {f"{name}-{role}": 1 for name in crowd.verdicts for role in ROLES}
    assert history.created_jobs(proxy.calls, scene.namespace) == expected
    assert sorted(scene.jobs()) == sorted(expected)
    assert scene.entry() == text(RESULTS["train"].student)
    assert scene.revision() == 2
    for name, verdict in crowd.verdicts.items():
        assert {gate["verdict"] for gate in scene.status(name)["gates"]} == {"Pass", verdict}


@pytest.mark.parametrize(
    ("kills", "limit", "alive"), [(15, 300, 1.0), pytest.param(100, 1500, 1.5, marks=pytest.mark.long)]
)
def test_killed_over_and_over(
    plane: ControlPlane, namespace: str, tmp_path: Path, kills: int, limit: float, alive: float
) -> None:
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed)
    with running_proxy(plane, tmp_path, seed) as proxy:
        operator = OperatorProcess(plane, tmp_path, kubeconfig=proxy.kubeconfig)
        operator.start()
        crowd = Crowd(Scene(plane, namespace), seed)
        crowd.scene.deploy()
        killer = Killer(operator, kills, seed, alive)
        killer.start()
        end = time.monotonic() + limit
        try:
            while killer.left or crowd.ended() < len(crowd.verdicts):
                assert time.monotonic() < end, (killer.left, crowd.says(), operator.log())
                # There is always something under way that a kill may hit.
                if killer.left and crowd.ended() > len(crowd.verdicts) - 3:
                    crowd.add()
                crowd.play()
                time.sleep(POLL_SECONDS)
            check(crowd, proxy)
            assert not killer.ended_alone, operator.log()
        finally:
            killer.over.set()
            killer.join()
            operator.kill()
        print(f"{len(crowd.verdicts)} pairs, {len(proxy.calls)} requests")
