"""Flowstill: one-step students of flow-matching robot policies, distilled, proven and rolled out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowstill.policies.interface import Runner

__version__ = "0.1.0"

__all__ = ["__version__", "load"]


def load(reference: str, **options: Any) -> "Runner":
    """Load the policy that a deployment names, verified.

    Args:
        reference: ``<uri>@sha256:<digest>``, the value of ``FLOWSTILL_POLICY``.
        options: passed to :func:`flowstill.policies.loading.load_policy`.

    Returns:
        A :class:`~flowstill.policies.interface.Runner`.

    Raises:
        flowstill.errors.ArtifactError: the artifact is missing, or differs from its digest.
    """
    from flowstill.policies.loading import load_policy

    return load_policy(reference, **options)
