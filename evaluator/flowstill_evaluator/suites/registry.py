"""Suites by name."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from flowstill.api.studentrollout import CustomSuite
from flowstill.errors import UserError
from flowstill_evaluator.suites.custom import CustomEnvironments
from flowstill_evaluator.suites.interface import Observation, Suite
from flowstill_evaluator.suites.libero import Libero
from flowstill_evaluator.suites.metaworld import MetaWorld

METAWORLD, LIBERO = MetaWorld(), Libero()


def suite_of(name: str, custom: CustomSuite | None = None) -> Suite:
    """The suite that an evaluation asks for.

    Args:
        name: ``spec.evaluation.suite``.
        custom: ``spec.evaluation.custom``.

    Raises:
        UserError: there is no such suite.
    """
    if name == METAWORLD.name:
        return METAWORLD
    if name == LIBERO.name:
        return LIBERO
    if custom is not None:
        return CustomEnvironments(custom.entry_point, tuple(sorted(custom.config.items())))
    raise UserError(
        f"there is no suite {name!r}; use {METAWORLD.name}, {LIBERO.name}, or custom with an entry point",
        field="spec.evaluation.suite",
    )


def plain(suite: Suite) -> dict[str, Any]:
    """What :func:`suite_from` makes that suite from again, as JSON."""
    custom = (
        {"entryPoint": suite.entry_point, "config": dict(suite.config)}
        if isinstance(suite, CustomEnvironments)
        else None
    )
    return {"name": suite.name, "custom": custom}


def suite_from(value: Mapping[str, Any]) -> Suite:
    """The suite that :func:`plain` was given."""
    custom = value["custom"]
    return suite_of(value["name"], CustomSuite.model_validate(custom) if custom is not None else None)


def rename(observation: Mapping[str, npt.NDArray[Any]], rename_map: Mapping[str, str]) -> Observation:
    """Give the environment's features the names that the policy knows them by."""
    return {rename_map.get(name, name): value for name, value in observation.items()}
