"""Every value of the chart, another value for it, and what that changes in the documents."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from tests.cluster.chart import CHART, Documents, Values, nested

DIGEST = "sha256:" + "a" * 64
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
Look = Callable[[Documents], Any]


class Case(NamedTuple):
    """Another value of ``path``; what ``look`` sees by default, and then."""

    path: str
    value: Any
    look: Look
    before: Any
    after: Any
    base: Values | None = None


def names(kind: str) -> Look:
    return lambda found: [document["metadata"]["name"] for document in found.of(kind)]


def variable(name: str) -> Look:
    return lambda found: found.environment().get(name)


def spec(name: str) -> Look:
    return lambda found: found.pod()["spec"].get(name)


def claims(look: Callable[[dict[str, Any]], Any]) -> Look:
    return lambda found: [look(claim) for claim in found.of("PersistentVolumeClaim")]


def places(found: Documents) -> list[tuple[str, str | None]]:
    """Where the operator's rules hold."""
    kinds = ("Role", "ClusterRole")
    documents = [document for kind in kinds for document in found.of(kind)]
    operator = [d for d in documents if d["metadata"]["name"].endswith("-operator")]
    return [(document["kind"], document["metadata"].get("namespace")) for document in operator]


def kept(found: Documents) -> list[str | None]:
    annotations = [crd["metadata"].get("annotations", {}) for crd in found.of("CustomResourceDefinition")]
    return [entry.get("helm.sh/resource-policy") for entry in annotations]


def image_cases(part: str, look: Look) -> list[Case]:
    before = f"flowstill-{part}:{VERSION}"
    return [
        Case(f"{part}.image.repository", "registry.example/x", look, before, f"registry.example/x:{VERSION}"),
        Case(f"{part}.image.tag", "1.2", look, before, f"flowstill-{part}:1.2"),
        Case(f"{part}.image.digest", DIGEST, look, before, f"flowstill-{part}@{DIGEST}"),
    ]


def to_stores(found: Documents) -> dict[str, Any]:
    """The rule by which children may call stores."""
    _, children = found.of("NetworkPolicy")
    _, _, *stores = children["spec"]["egress"]
    return stores[0] if stores else {}


def egress(found: Documents) -> list[int] | None:
    ports = to_stores(found).get("ports")
    return ports and [port["port"] for port in ports]


def peers(found: Documents) -> Any:
    return to_stores(found).get("to")


CLAIM = {"store.claim.create": True}
WORK = {"store.work": "pvc://scratch/deep"}
HUB = {"store.hub.enabled": True}
POLICIES = {"networkPolicy.enabled": True, "networkPolicy.childNamespaces": ["a"]}
ENDPOINT = "https://minio.storage:9000"
ANYWHERE = [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}]
PEERS = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
ROLES = ["fs-flowstill-operator", "fs-flowstill-view", "fs-flowstill-edit", "fs-flowstill-approve"]
POLICY = "fs-flowstill-actions"
OPERATOR = ["fs-flowstill-operator"]
CRDS = ["distilljobs.flowstill.dev", "studentrollouts.flowstill.dev"]
IN_BOTH = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"]}
TOLERATION = [{"key": "robots", "operator": "Exists"}]
AFFINITY = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
RESOURCES = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
CASES = [
    Case(
        "nameOverride",
        "other",
        lambda d: d.operator()["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"],
        "flowstill",
        "other",
    ),
    Case("fullnameOverride", "other", names("Deployment"), ["fs-flowstill-operator"], ["other-operator"]),
    Case("crds.enabled", False, names("CustomResourceDefinition"), CRDS, []),
    Case("crds.keep", False, kept, ["keep", "keep"], [None, None]),
    Case("store.uri", "pvc://robots/deep", variable("FLOWSTILL_STORE"), "pvc://flowstill-store", "pvc://robots/deep"),
    Case("store.uri", "pvc://robots/deep", names("PersistentVolumeClaim"), ["flowstill-store"], ["robots"], CLAIM),
    Case(
        "store.uri", "s3://models/deep", variable("FLOWSTILL_STORE"), "pvc://flowstill-store", "s3://models/deep", WORK
    ),
    Case("store.uri", "s3://models/deep", egress, None, [443], POLICIES | WORK),
    Case("store.uri", "s3://models", names("PersistentVolumeClaim"), ["flowstill-store"], ["scratch"], WORK | CLAIM),
    Case("store.work", "pvc://scratch/a", variable("FLOWSTILL_STORE_WORK"), None, "pvc://scratch/a"),
    Case("store.ca", "company", variable("FLOWSTILL_STORE_CA"), None, "company"),
    Case("store.proxy", "http://proxy:3128", variable("FLOWSTILL_STORE_PROXY"), None, "http://proxy:3128"),
    Case("store.proxy", "http://proxy:3128", egress, [443], [443, 3128], POLICIES | HUB),
    Case("store.noProxy", ".svc", variable("FLOWSTILL_STORE_NO_PROXY"), None, ".svc"),
    Case("store.s3.endpoint", ENDPOINT, variable("FLOWSTILL_S3_ENDPOINT"), None, ENDPOINT),
    Case("store.s3.endpoint", ENDPOINT, egress, [443], [9000], POLICIES | {"store.s3.buckets": ["a-bucket"]}),
    Case("store.s3.endpoint", "http://minio", egress, [443], [80], POLICIES | {"store.s3.buckets": ["a-bucket"]}),
    Case("store.s3.region", "eu-central-1", variable("FLOWSTILL_S3_REGION"), "us-east-1", "eu-central-1"),
    Case(
        "store.s3.pathStyle",
        False,
        variable("FLOWSTILL_S3_PATH_STYLE"),
        "true",
        "false",
        {"store.s3.endpoint": ENDPOINT},
    ),
    Case("store.s3.secret", "keys", variable("FLOWSTILL_S3_SECRET"), None, "keys"),
    Case("store.s3.buckets", ["a-bucket", "b-bucket"], variable("FLOWSTILL_S3_BUCKETS"), None, "a-bucket,b-bucket"),
    Case("store.s3.buckets", ["a-bucket"], egress, None, [443], POLICIES),
    Case("store.hub.enabled", True, variable("FLOWSTILL_HUB"), None, "true"),
    Case("store.hub.enabled", True, egress, None, [443], POLICIES),
    Case(
        "store.hub.endpoint",
        "https://mirror:8443",
        variable("FLOWSTILL_HUB_ENDPOINT"),
        "https://huggingface.co",
        "https://mirror:8443",
        HUB,
    ),
    Case("store.hub.endpoint", "https://mirror:8443", egress, [443], [8443], POLICIES | HUB),
    Case("store.hub.secret", "token", variable("FLOWSTILL_HUB_SECRET"), None, "token", HUB),
    Case("store.claim.create", True, names("PersistentVolumeClaim"), [], ["flowstill-store"]),
    Case(
        "store.claim.namespaces",
        ["a", "b"],
        claims(lambda c: c["metadata"]["namespace"]),
        ["robots"],
        ["a", "b"],
        CLAIM,
    ),
    Case(
        "store.claim.size",
        "5Gi",
        claims(lambda c: c["spec"]["resources"]["requests"]["storage"]),
        ["100Gi"],
        ["5Gi"],
        CLAIM,
    ),
    Case(
        "store.claim.storageClassName",
        "fast",
        claims(lambda c: c["spec"].get("storageClassName")),
        [None],
        ["fast"],
        CLAIM,
    ),
    Case(
        "store.claim.storageClassName",
        "-",
        claims(lambda c: c["spec"].get("storageClassName")),
        [None],
        [""],
        CLAIM,
    ),
    Case(
        "store.claim.accessModes",
        ["ReadWriteOnce"],
        claims(lambda c: c["spec"]["accessModes"]),
        [["ReadWriteMany"]],
        [["ReadWriteOnce"]],
        CLAIM,
    ),
    *image_cases("operator", lambda d: d.container()["image"]),
    *image_cases("trainer", variable("FLOWSTILL_TRAINER_IMAGE")),
    *image_cases("evaluator", variable("FLOWSTILL_EVALUATOR_IMAGE")),
    Case("operator.watchNamespaces", ["a", "b"], variable("FLOWSTILL_NAMESPACES"), None, "a,b"),
    *(
        Case(
            f"safetyLimits.{gate}.{name}",
            value,
            lambda d, gate=gate, name=name: json.loads(d.environment()["FLOWSTILL_SAFETY_LIMITS"])[gate][name],
            before,
            value,
        )
        for gate, name, before, value in (
            ("S1", "maxPerHundred", 2, 1),
            ("S2", "maxDistance", 0.15, 0.1),
            ("S3", "margin", 0.1, 0.05),
        )
    ),
    Case("monitoring.prometheusUrl", "http://p:9090", variable("FLOWSTILL_PROMETHEUS_URL"), None, "http://p:9090"),
    Case(
        "operator.watchNamespaces",
        ["a", "b"],
        places,
        [("ClusterRole", None)],
        [("Role", "a"), ("Role", "b")],
    ),
    Case(
        "operator.watchNamespaces",
        ["a", "b"],
        lambda d: d.of("ValidatingAdmissionPolicyBinding")[0]["spec"].get("matchResources"),
        None,
        {"namespaceSelector": {"matchExpressions": [IN_BOTH]}},
    ),
    Case(
        "operator.resources.requests.cpu",
        1,
        lambda d: d.container()["resources"],
        RESOURCES,
        {**RESOURCES, "requests": {"cpu": 1, "memory": "128Mi"}},
    ),
    Case(
        "operator.resources.requests.memory",
        "1Gi",
        lambda d: d.container()["resources"],
        RESOURCES,
        {**RESOURCES, "requests": {"cpu": "50m", "memory": "1Gi"}},
    ),
    Case(
        "operator.resources.limits.memory",
        "2Gi",
        lambda d: d.container()["resources"],
        RESOURCES,
        {**RESOURCES, "limits": {"memory": "2Gi"}},
    ),
    Case(
        "operator.podAnnotations",
        {"a": "b"},
        lambda d: d.pod()["metadata"].get("annotations"),
        None,
        {"a": "b"},
    ),
    Case("operator.podLabels", {"team": "x"}, lambda d: d.pod()["metadata"]["labels"].get("team"), None, "x"),
    Case("operator.nodeSelector", {"zone": "1"}, spec("nodeSelector"), None, {"zone": "1"}),
    Case("operator.tolerations", TOLERATION, spec("tolerations"), None, TOLERATION),
    Case("operator.affinity", AFFINITY, spec("affinity"), None, AFFINITY),
    Case("operator.priorityClassName", "high", spec("priorityClassName"), None, "high"),
    Case(
        "operator.env",
        [{"name": "FLOWSTILL_LOG_LEVEL", "value": "DEBUG"}],
        variable("FLOWSTILL_LOG_LEVEL"),
        None,
        "DEBUG",
    ),
    Case("operator.logFormat", "json", variable("FLOWSTILL_LOG_FORMAT"), "text", "json"),
    Case("imagePullPolicy", "Always", lambda d: d.container()["imagePullPolicy"], "IfNotPresent", "Always"),
    Case("imagePullPolicy", "Never", variable("FLOWSTILL_IMAGE_PULL_POLICY"), "IfNotPresent", "Never"),
    Case("imagePullSecrets", ["a", "b"], spec("imagePullSecrets"), None, [{"name": "a"}, {"name": "b"}]),
    Case("imagePullSecrets", ["a", "b"], variable("FLOWSTILL_IMAGE_PULL_SECRETS"), None, "a,b"),
    Case("serviceAccount.create", False, names("ServiceAccount"), ["fs-flowstill"], []),
    Case("serviceAccount.create", False, spec("serviceAccountName"), "fs-flowstill", "default"),
    Case("serviceAccount.name", "mine", spec("serviceAccountName"), "fs-flowstill", "mine"),
    Case(
        "serviceAccount.name",
        "mine",
        lambda d: [b["subjects"][0]["name"] for b in d.of("ClusterRoleBinding")],
        ["fs-flowstill"],
        ["mine"],
    ),
    Case(
        "serviceAccount.annotations",
        {"a": "b"},
        lambda d: d.of("ServiceAccount")[0]["metadata"].get("annotations"),
        None,
        {"a": "b"},
    ),
    Case("rbac.create", False, names("ClusterRole"), ROLES, []),
    Case("rbac.create", False, names("ClusterRoleBinding"), ROLES[:1], []),
    Case("rbac.aggregate", False, names("ClusterRole"), ROLES, ROLES[:1]),
    Case("metrics.serviceMonitor.enabled", True, names("ServiceMonitor"), [], OPERATOR),
    Case(
        "metrics.serviceMonitor.interval",
        "10s",
        lambda d: d.of("ServiceMonitor")[0]["spec"]["endpoints"][0]["interval"],
        "30s",
        "10s",
        {"metrics.serviceMonitor.enabled": True},
    ),
    Case("metrics.rules.enabled", True, names("PrometheusRule"), [], OPERATOR),
    *(
        Case(
            "metrics.labels",
            {"release": "mine"},
            lambda d, kind=kind: d.of(kind)[0]["metadata"]["labels"].get("release"),
            None,
            "mine",
            {f"metrics.{part}.enabled": True},
        )
        for part, kind in (("serviceMonitor", "ServiceMonitor"), ("rules", "PrometheusRule"))
    ),
    Case("metrics.dashboard.enabled", True, names("ConfigMap"), [], ["fs-flowstill-dashboard"]),
    Case(
        "metrics.dashboard.labels.grafana_dashboard",
        "2",
        lambda d: d.of("ConfigMap")[0]["metadata"]["labels"]["grafana_dashboard"],
        "1",
        "2",
        {"metrics.dashboard.enabled": True},
    ),
    Case("networkPolicy.enabled", True, names("NetworkPolicy"), [], OPERATOR),
    Case(
        "networkPolicy.childNamespaces",
        ["a", "b"],
        lambda d: [p["metadata"].get("namespace") for p in d.of("NetworkPolicy")],
        ["robots"],
        ["robots", "a", "b"],
        {"networkPolicy.enabled": True},
    ),
    Case("networkPolicy.stores", PEERS, peers, ANYWHERE, PEERS, POLICIES | HUB),
    Case("admissionPolicy.enabled", False, names("ValidatingAdmissionPolicy"), [POLICY], []),
    Case("admissionPolicy.enabled", False, names("ValidatingAdmissionPolicyBinding"), [POLICY], []),
]


def all_changed(*namespaces: str) -> Values:
    """Every value at once, each another than its default; what is named by namespaces, in those."""
    named = ("operator.watchNamespaces", "store.claim.namespaces", "networkPolicy.childNamespaces")
    places = {path: list(namespaces) for path in named}
    return nested({case.path: case.value for case in CASES if case.value is not False} | places)
