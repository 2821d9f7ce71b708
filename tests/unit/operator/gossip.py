"""What an operator hears of a cluster in memory: of any object, when it pleases; never, twice or late."""

import copy

from flowstill_operator.clusters.heard import JOB_UID_LABEL, Heard


class Gossip:
    def __init__(self, cluster):
        self.cluster, self.heard = cluster, Heard()

    def tell(self, index):
        """News of one object, or of one that is gone."""
        kinds = ("DistillJob", "StudentRollout", "Job")
        there = [key for key in self.cluster.objects if key[0] in kinds]
        gone = [("Job", *name) for name in self.heard._known["Job"] if ("Job", *name) not in self.cluster.objects]
        keys = sorted([*there, *gone])
        if keys:
            self._tell(keys[index % len(keys)])

    def tell_all(self):
        for index in range(len(self.cluster.objects) + len(self.heard._known["Job"])):
            self.tell(index)

    def _tell(self, key):
        kind, namespace, name = key
        document = self.cluster.objects.get(key)
        if document is None:
            version = str(next(self.cluster._versions))
            self.heard.note(
                kind, {"metadata": {"namespace": namespace, "name": name, "resourceVersion": version}}, deleted=True
            )
            return
        self.heard.note(kind, document)
        for pod in self.cluster.pods_by_job.get(name, []) if kind == "Job" else []:
            told = copy.deepcopy(pod)
            told["metadata"] |= {"namespace": namespace, "resourceVersion": str(next(self.cluster._versions))}
            told["metadata"].setdefault("labels", {})[JOB_UID_LABEL] = document["metadata"]["uid"]
            self.heard.note("Pod", told)
