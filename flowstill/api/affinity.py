"""``spec.runtime.affinity``: on which nodes a child may run, and beside which pods not; a subset of a pod's own."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from flowstill.api.fields import Label, Model

VALUES_REFUSED = (
    "spec.runtime.affinity: In and NotIn need values, Gt and Lt one number, Exists and DoesNotExist have none"
)
LabelKey = Annotated[str, Field(min_length=1, max_length=316)]


class NodeRequirement(Model):
    """What a label of a node has to be."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: Annotated[list[Label], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _as_many_as_it_takes(self) -> "NodeRequirement":
        count = len(self.values or ())
        match self.operator:
            case "In" | "NotIn":
                fits = count > 0
            case "Gt" | "Lt":
                fits = count == 1
            case _:
                fits = count == 0
        if not fits:
            raise ValueError(VALUES_REFUSED)
        return self


class NodeTerm(Model):
    """A node of which all of these are true."""

    match_expressions: Annotated[list[NodeRequirement], Field(min_length=1, max_length=8)]


class RequiredNodes(Model):
    """A node of which one of these terms is true."""

    node_selector_terms: Annotated[list[NodeTerm], Field(min_length=1, max_length=4)]


class PreferredNodes(Model):
    """A node that is taken rather than others."""

    weight: Annotated[int, Field(ge=1, le=100)]
    preference: NodeTerm


class NodeAffinity(Model):
    """On which nodes."""

    required_during_scheduling_ignored_during_execution: RequiredNodes | None = None
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[list[PreferredNodes], Field(min_length=1, max_length=4)] | None
    ) = None


class PodLabels(Model):
    """Pods with all of these labels."""

    match_labels: Annotated[dict[str, Label], Field(min_length=1, max_length=8)]


class PodTerm(Model):
    """No node in one group, by the value of that label of nodes, with such a pod."""

    label_selector: PodLabels
    topology_key: LabelKey


class PreferredPods(Model):
    """The same, where there is a choice."""

    weight: Annotated[int, Field(ge=1, le=100)]
    pod_affinity_term: PodTerm


class PodAntiAffinity(Model):
    """Beside which pods not."""

    required_during_scheduling_ignored_during_execution: (
        Annotated[list[PodTerm], Field(min_length=1, max_length=4)] | None
    ) = None
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[list[PreferredPods], Field(min_length=1, max_length=4)] | None
    ) = None


class Affinity(Model):
    """Where a child runs; written as in a pod."""

    node_affinity: NodeAffinity | None = None
    pod_anti_affinity: PodAntiAffinity | None = None
