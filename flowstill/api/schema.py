"""The CustomResourceDefinitions, generated from the pydantic models.

``python -m flowstill.api.schema`` rewrites ``crds/`` and the chart's copy. The rules that pydantic validators
check are written here once more in CEL, so that the API server refuses what the types refuse; a test holds
the two together.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from flowstill.api import GROUP, VERSION
from flowstill.api.affinity import VALUES_REFUSED
from flowstill.api.distilljob import MIX_REFUSED, DistillJobSpec, DistillJobStatus
from flowstill.api.fields import ALWAYS_MUTABLE
from flowstill.api.gates import LIMITS, Gates
from flowstill.api.monitoring import (
    INTERVAL_REFUSED,
    LONGEST_INTERVAL,
    LONGEST_WINDOW,
    RESERVED,
    RESTARTS,
    SHORTEST_INTERVAL,
    TOO_FEW_CHECKS,
    WINDOW_REFUSED,
)
from flowstill.api.structural import Schema, structural
from flowstill.api.studentrollout import (
    MONITORING_REFUSED,
    SAFETY_REFUSED,
    UNTIL_PROMOTION,
    WITH_EVIDENCE,
    StudentRolloutSpec,
    StudentRolloutStatus,
)
from flowstill.api.uris import NOT_PINNED, PINNED

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("crds", "helm/flowstill/files/crds")
MAX_NAME = 40
ENDED = "has(self.status.promotionTime) || has(self.status.completionTime)"
HEADER = "# Generated from flowstill/api by `python -m flowstill.api.schema`; change the models, not this file.\n"


def _rule(rule: str, message: str, field: str | None = None) -> Schema:
    return {"rule": rule, "message": message} | ({"fieldPath": f".{field}"} if field else {})


def _defaults_of_limits() -> list[str]:
    gates = Gates()
    return [
        f"self.{gate.upper()}.{to_camel(name)} == {float(getattr(getattr(gates, gate), name))!r}"
        for gate, names in LIMITS.items()
        for name in names
    ]


def _pin(before: str = "") -> Schema:
    return _rule(f"{before}!self.uri.startsWith('hf://') || self.uri.matches('{PINNED}')", NOT_PINNED, "uri")


RULES: dict[str, list[Schema]] = {
    **{model: [_pin()] for model in ("Source", "Teacher", "Dataset", "ArtifactRef")},
    "DistillJobSpec": [
        _rule(
            "!has(self.method.bankSize) || self.method.bankSize == 0 || self.method.targetSteps > 2 || "
            "self.student.stateOut",
            "spec.method.bankSize needs spec.method.targetSteps > 2 or spec.student.stateOut: with 2 the target is "
            "the student's own, unless the student is state-out",
            "method.bankSize",
        ),
        _rule(
            "!has(self.method.mixRatio) || self.method.mixRatio == 0.0 || self.method.mixRatio == 1.0 || "
            "(self.method.mixRatio * double(self.training.batchSize) > 0.5 && "
            "(1.0 - self.method.mixRatio) * double(self.training.batchSize) > 0.5)",
            MIX_REFUSED,
            "method.mixRatio",
        ),
    ],
    "Student": [
        _rule("self.draws == 1 || self.draws >= 8", "spec.student.draws must be 1 or 8 to 64", "draws"),
        _rule(
            "self.draws == 1 || self.drawNeighbours * 2 <= self.draws",
            "spec.student.drawNeighbours must be at most half of spec.student.draws",
            "drawNeighbours",
        ),
    ],
    "Method": [
        _rule(
            "self.targetSteps >= 2 && self.targetSteps <= 100",
            "spec.method.targetSteps must be between 2 and 100",
            "targetSteps",
        ),
        _rule(
            "!has(self.bankSize) || self.bankSize == 0 || !has(self.mixRatio) || self.mixRatio > 0.0",
            "spec.method.bankSize needs spec.method.mixRatio > 0: no sample would use the bank",
            "bankSize",
        ),
    ],
    "Training": [
        _rule(
            "self.gradientAccumulation <= self.batchSize",
            "spec.training.gradientAccumulation must be at most spec.training.batchSize",
            "gradientAccumulation",
        ),
    ],
    "StudentSource": [
        _rule(
            "has(self.distillJob) != has(self.uri)",
            "spec.student needs exactly one of distillJob, or uri with digest",
        ),
        _rule(
            "has(self.uri) == has(self.digest)",
            "spec.student.uri and spec.student.digest belong together",
        ),
        _pin("!has(self.uri) || "),
    ],
    "Evaluation": [
        _rule(
            "has(self.evidence) || (self.suite == 'custom') == has(self.custom)",
            "spec.evaluation.custom and the suite custom belong together",
            "custom",
        ),
        _rule(
            "!has(self.maxEpisodesPerTask) || self.maxEpisodesPerTask >= self.episodesPerTask",
            "spec.evaluation.maxEpisodesPerTask must be at least spec.evaluation.episodesPerTask",
            "maxEpisodesPerTask",
        ),
        _rule(
            "!has(self.evidence) || "
            "!(has(self.custom) || has(self.arms) || has(self.maxEpisodesPerTask) || self.shards > 1)",
            WITH_EVIDENCE,
            "evidence",
        ),
    ],
    "Override": [_rule("!self.gate.startsWith('S')", SAFETY_REFUSED, "gate")],
    "Gates": [
        _rule(
            f"self.profile != 'literal' || ({' && '.join(_defaults_of_limits())})",
            "spec.gates.profile literal has limits of its own: leave those of the gates out",
            "profile",
        ),
    ],
    "NodeRequirement": [
        _rule(
            "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : "
            "self.operator in ['Gt', 'Lt'] ? has(self.values) && self.values.size() == 1 : "
            "!has(self.values) || self.values.size() == 0",
            VALUES_REFUSED,
            "values",
        ),
    ],
    "MonitoringQuery": [_rule(f"self.name != '{RESTARTS}'", RESERVED, "name")],
    "Monitoring": [
        _rule(
            f"duration(self.interval) >= duration('{SHORTEST_INTERVAL}') && "
            f"duration(self.interval) <= duration('{LONGEST_INTERVAL}')",
            INTERVAL_REFUSED,
            "interval",
        ),
        _rule(
            "duration(self.window) >= duration(self.interval) && "
            f"duration(self.window) <= duration('{LONGEST_WINDOW}')",
            WINDOW_REFUSED,
            "window",
        ),
        _rule(
            "!has(self.queries) || self.queries.all(each, each.minSamples <= "
            "duration(self.window).getSeconds() / duration(self.interval).getSeconds())",
            TOO_FEW_CHECKS,
            "queries",
        ),
    ],
    "StudentRolloutSpec": [
        _rule("!has(self.monitoring) || has(self.target)", MONITORING_REFUSED, "monitoring"),
        _rule(
            "self.runtime.nodes == 1",
            "spec.runtime.nodes must be 1 on a StudentRollout: only training uses several nodes",
            "runtime.nodes",
        ),
    ],
}


@dataclass(frozen=True)
class Column:
    """A printed column."""

    name: str
    path: str
    kind: str = "string"


@dataclass(frozen=True)
class Kind:
    """One kind of resource."""

    name: str
    short_name: str
    description: str
    spec: type[BaseModel]
    status: type[BaseModel]
    columns: tuple[Column, ...]

    @property
    def plural(self) -> str:
        """The name in URLs and on kubectl's command line."""
        return f"{self.name.lower()}s"


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_PHASE = Column("Phase", ".status.phase")

KINDS = (
    Kind(
        "DistillJob",
        "dj",
        "From a teacher and a dataset to a published one-step student.",
        DistillJobSpec,
        DistillJobStatus,
        (
            _PHASE,
            Column("Step", ".status.progress.step", "integer"),
            Column("Progress", ".status.progress.progressPercentage", "integer"),
            Column("ETA", ".status.progress.estimatedRemainingSeconds", "integer"),
            Column("Loss", ".status.progress.loss", "number"),
            Column("Student", ".status.student.digest"),
            _AGE,
        ),
    ),
    Kind(
        "StudentRollout",
        "sr",
        "Proves that a student is as good as its teacher, and only then rolls it out.",
        StudentRolloutSpec,
        StudentRolloutStatus,
        (
            _PHASE,
            Column("Student", ".status.student.digest"),
            Column("Success", ".status.success"),
            Column("Baseline", ".status.baselineSuccess"),
            Column("Gates", ".status.gatesSummary"),
            _AGE,
        ),
    ),
)


def custom_resource_definition(kind: Kind) -> Schema:
    """The kind's CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
                "categories": ["flowstill"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": column.name, "type": column.kind, "jsonPath": column.path} for column in kind.columns
                    ],
                    "schema": {"openAPIV3Schema": _resource_schema(kind)},
                }
            ],
        },
    }


def _resource_schema(kind: Kind) -> Schema:
    spec = structural(kind.spec, RULES)
    spec["x-kubernetes-validations"] = [*spec.get("x-kubernetes-validations", []), *_immutable(spec)]
    return {
        "description": kind.description,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": structural(kind.status, {}, defaults=False),
        },
        "x-kubernetes-validations": [
            _rule(
                f"self.metadata.name.size() <= {MAX_NAME}",
                f"metadata.name must be at most {MAX_NAME} characters: names of child Jobs are made from it",
            ),
            *_settled(spec),
        ],
    }


def _immutable(spec: Schema) -> list[Schema]:
    """One rule a section, on the parent: on the section itself it would miss its removal and its addition."""
    rules = []
    for name in spec["properties"]:
        if name in (*ALWAYS_MUTABLE, *UNTIL_PROMOTION):
            continue
        if name == "runtime":
            fields = spec["properties"][name]["properties"]
            same = " && ".join(
                _same(f"runtime.{field}", optional=True) for field in fields if field != "ttlSecondsAfterFinished"
            )
            message = "spec.runtime is immutable except ttlSecondsAfterFinished; create a resource with a new name"
        else:
            same = _same(name, optional=name not in spec["required"])
            message = f"spec.{name} is immutable; create a resource with a new name"
        rules.append(_rule(same, message, name))
    return rules


def _settled(spec: Schema) -> list[Schema]:
    """One rule for each field that may be changed until the student is promoted; the resource has both parts."""
    return [
        _rule(
            f"!has(self.status) || !({ENDED}) || ({_same(f'spec.{name}', optional=True)})",
            f"spec.{name} may be changed only until the student is promoted; create a resource with a new name",
            f"spec.{name}",
        )
        for name in UNTIL_PROMOTION
        if name in spec["properties"]
    ]


def _same(field: str, *, optional: bool) -> str:
    now, before = f"self.{field}", f"oldSelf.{field}"
    if not optional:
        return f"{now} == {before}"
    return f"has({now}) == has({before}) && (!has({now}) || {now} == {before})"


class _Dumper(yaml.SafeDumper):
    """Writes every value out, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(kind: Kind) -> str:
    """The text of the kind's YAML file; fields in the order of the models, so that it is always the same."""
    body = yaml.dump(custom_resource_definition(kind), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return HEADER + body


def write(repository: Path = REPOSITORY) -> list[Path]:
    """Rewrite every copy of every kind's YAML file below the repository's root."""
    written = []
    for folder in FOLDERS:
        for kind in KINDS:
            path = repository / folder / f"{kind.plural}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(to_yaml(kind), encoding="utf-8")
            written.append(path)
    return written


def main() -> int:
    """Rewrite the files and name them."""
    for path in write():
        print(path.relative_to(REPOSITORY))
    return 0


if __name__ == "__main__":
    sys.exit(main())
