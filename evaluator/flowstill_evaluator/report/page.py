"""``report.html``: one self-contained page that a reader can trust, drawn from the document and the films."""

from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from flowstill_evaluator.gates.base import points
from flowstill_evaluator.report import drawings, words
from flowstill_evaluator.report.document import Report

MAX_PAGE_BYTES = 12 * 2**20
"""The most that a page takes: its films, which :mod:`~flowstill_evaluator.report.media` bounds, and its text."""

_FILTERS = {
    "points": points,
    "percent": words.percent,
    "short": words.short,
    "measure": words.measure,
    "duration": words.duration,
    "thousands": words.thousands,
    "fact": words.fact,
    "settings": words.settings,
    "distance": words.distance,
    "size": words.size,
    "ending": words.ending,
    "chance": words.chance,
    "scientific": words.scientific,
}


def render_page(report: Report, films: Mapping[str, str], curve_picture: str | None = None) -> str:
    """The page as one string: no script, no address that a browser would have to fetch.

    Args:
        report: every number.
        films: the files of ``report.films`` by path, as data URIs.
        curve_picture: the trainer's own picture of the training curve, as a data URI.
    """
    environment = Environment(
        loader=PackageLoader("flowstill_evaluator", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    environment.globals.update(alternative=drawings.alternative)
    return environment.get_template("page.html.j2").render(
        style=files("flowstill_evaluator.report").joinpath("style.css").read_text("utf-8"),
        report=report,
        subject=report.subject,
        headline=words.headline(report),
        symbols=words.SYMBOLS,
        reasons=words.reasons(report),
        method=words.METHODS.get(report.subject.method, report.subject.method),
        policy=words.POLICIES.get(report.subject.policy_type, report.subject.policy_type),
        baseline_name=words.baseline_name(report),
        arms_figure=drawings.arms_figure(report),
        difference_figure=drawings.difference_figure(report),
        shift_figure=drawings.shift_figure(report),
        latency_figure=drawings.latency_figure(report),
        fidelity_figure=drawings.fidelity_figure(report),
        panels=[] if report.training is None else drawings.training_panels(report.training),
        films=films,
        curve_picture=curve_picture,
        confidence=words.confidence(report.look.level),
        max_page_bytes=MAX_PAGE_BYTES,
    )
