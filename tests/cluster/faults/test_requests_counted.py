"""How many requests a DistillJob costs from its creation to its end: a number that no later change may raise unseen.

Times depend on the machine and are measured by bench/scale.py; these counts do not.
"""

from collections import Counter

from tests.cluster.faults.proxy import FaultProxy
from tests.cluster.resources import distill_job
from tests.cluster.scene import RESULTS, Scene
from tests.cluster.stand_in_kubelet import is_waiting
from tests.cluster.waiting import until

SIZE = 60
READS, WRITES, EVENTS = 5.5, 6, 8
"""At most for each, on average; promised are 6 reads and 6 writes."""


def test_reads_and_writes_of_each_resource(scene: Scene, proxy: FaultProxy) -> None:
    before = len(proxy.calls)
    scene.plane.apply(*(distill_job(f"job-{number:02}", scene.namespace) for number in range(SIZE)))

    def play() -> bool:
        for pod in scene.objects.list("pods"):
            if is_waiting(pod):
                scene.kubelet.run(pod)
        return len(phases(scene)["Running"]) == SIZE

    until(play, "all run", lambda: {k: len(v) for k, v in phases(scene).items()}, limit=180)
    for pod in scene.objects.list("pods"):
        scene.kubelet.end(pod, RESULTS["train"])
    until(lambda: len(phases(scene)["Succeeded"]) == SIZE, "all have ended", lambda: phases(scene), limit=180)
    counts = Counter(kind(call.plural, call.method, call.watch) for call in proxy.calls[before:])
    print(dict(counts))
    assert SIZE * 4 <= counts["writes"] <= SIZE * WRITES
    assert SIZE * 3 <= counts["reads"] <= SIZE * READS
    assert counts["events"] <= SIZE * EVENTS


def kind(plural: str, method: str, watch: bool) -> str:
    """What is counted apart."""
    if watch:
        return "watches"
    if plural == "events":
        return "events"
    return "reads" if method == "GET" else "writes"


class Phases(dict[str, list[str]]):
    """Names by phase; none of a phase that nothing is in."""

    def __missing__(self, phase: str) -> list[str]:
        return []


def phases(scene: Scene) -> Phases:
    """The DistillJobs by phase."""
    found = Phases()
    for thing in scene.objects.list("distilljobs"):
        found.setdefault(thing.get("status", {}).get("phase", ""), []).append(thing["metadata"]["name"])
    return found
