"""Why this place does not carry out a rollout, though its spec is valid. Pure."""

from flowstill.api.studentrollout import StudentRolloutSpec, StudentRolloutStatus
from flowstill_operator.children import Document
from flowstill_operator.observation import platform_problem, uri_fields
from flowstill_operator.platform import Platform
from flowstill_operator.steps import Problem
from flowstill_operator.told import size_problem

NO_PROMETHEUS = (
    "spec.monitoring.queries: the operator has no Prometheus to ask; set the chart value monitoring.prometheusUrl, or "
    "create a rollout without queries and with a new name"
)
NOTHING_TO_APPROVE = "spec.approval: nothing is promoted in local mode, so there is nothing to approve; remove it"


def place_problem(
    spec: StudentRolloutSpec, document: Document, status: StudentRolloutStatus, platform: Platform
) -> Problem | None:
    """What cannot be done here; ``document`` is the spec as it was written.

    From the promotion on there is no way back but the rollout's own: the platform of an operator that was upgraded
    meanwhile changes nothing.
    """
    if status.promotion_time is not None:
        return None
    loosened = list(platform.safety_limits.loosened(spec.gates))
    if loosened:
        return Problem("SafetyLimit", "; ".join(loosened))
    if not platform.targets:
        if spec.approval == "Manual":
            return Problem("ApprovalRefused", NOTHING_TO_APPROVE)
        if spec.target is not None:
            fix = "remove spec.target" if spec.monitoring is None else "remove spec.target and spec.monitoring"
            return Problem("TargetRefused", f"spec.target: there is no Deployment in local mode; {fix}")
    elif spec.monitoring is not None and spec.monitoring.queries and not platform.prometheus:
        return Problem("NoPrometheus", NO_PROMETHEUS)
    problem = platform_problem(uri_fields(document), spec.runtime, platform)
    return problem or size_problem(spec, spec.runtime, platform, tells_runtime=False)
