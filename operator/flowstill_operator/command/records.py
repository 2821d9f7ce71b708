"""``flowstill records push``: trials on a robot become an artifact that a rollout takes instead of a simulator."""

import argparse
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from flowstill.api.fields import Source, StatusRef
from flowstill.artifacts.digests import files_of, is_ours, tree_digest
from flowstill.artifacts.manifest import RecordsProperties, StudentProperties, read_manifest
from flowstill.artifacts.records import push_records
from flowstill.artifacts.stores import fetch
from flowstill.artifacts.trials import ARMS, Trials, read_trials
from flowstill.artifacts.uris import ArtifactUri
from flowstill.errors import ArtifactError, UserError
from flowstill_operator.command.exits import COMPLETED
from flowstill_operator.command.shared import Subparsers, add_store, say, store_uri, subcommand
from flowstill_operator.rollout.promote import parse_reference

_POLICY = "URI@sha256:DIGEST, as FLOWSTILL_POLICY named it on the robot, or the URI of one in the store"


def add_parser(commands: Subparsers) -> None:
    """Its flags."""
    actions = commands.add_parser("records", help="publish trials that were run on a robot")
    verbs = actions.add_subparsers(dest="verb", required=True)
    pushing = subcommand(
        verbs, "push", run, help="check a folder of trials and publish it, for spec.evaluation.evidence"
    )
    add_store(pushing, buckets=True)
    pushing.add_argument("folder", type=Path, help="with trials.jsonl or trials.csv (docs/real_robot.md)")
    pushing.add_argument("uri", help="where it goes, such as store://evidence/pick-march")
    pushing.add_argument("--student", required=True, metavar="REF", help=f"the student that ran: {_POLICY}")
    pushing.add_argument("--baseline", required=True, metavar="REF", help="the policy it ran against, named likewise")
    pushing.add_argument("--dry-run", action="store_true", help="check everything and write nothing")
    pushing.add_argument("--force", action="store_true", help="replace other bytes that lie there")


def run(options: argparse.Namespace, console: Console) -> int:
    """Check, publish, and print the pinned reference."""
    # The store's functions take the default store from the environment, as every child does.
    os.environ["FLOWSTILL_STORE"] = store_uri(options.store, buckets=True)
    ArtifactUri.parse(options.uri)
    trials = read_trials(options.folder)
    student = _policy(options.student, "--student")
    baseline = _policy(options.baseline, "--baseline")
    if student.digest == baseline.digest:
        raise UserError("it is the student itself; a trial compares two policies", field="--baseline")
    about = RecordsProperties(
        pairs={task: len(pairs) for task, pairs in trials.tasks.items()},
        student=student,
        baseline=baseline,
        joints=list(trials.joints),
        flowstill=version("flowstill"),
    )
    for line in summary(trials):
        say(console, line)
    if options.dry_run:
        say(console, "valid; nothing was written (--dry-run)")
        return COMPLETED
    ref = push_records(trials, about, options.uri, force=options.force)
    say(console, f"{ref.uri}@{ref.digest}")
    return COMPLETED


def summary(trials: Trials) -> Iterator[str]:
    """What was read, and what it will not be enough for."""
    for task, pairs in trials.tasks.items():
        ran = [trial for trial in trials.trials if trial.task == task]
        student, baseline = (sum(t.success for t in ran if t.arm == arm) for arm in ARMS)
        yield f"{task}: {len(pairs)} pairs; the student succeeded in {student}, the baseline in {baseline}"
    for gates, why in trials.lacking.items():
        yield f"{gates} will be Inconclusive: {why}"
    others = sorted({name for name, _ in files_of(trials.folder)} - set(trials.files))
    if others:
        yield f"left out, as no trial names them: {', '.join(others[:10])}{' …' if len(others) > 10 else ''}"


def _policy(text: str, flag: str) -> StatusRef:
    """The policy with its digest, which is the given one or that of the bytes in the store."""
    pinned = parse_reference(text)
    if pinned is not None:
        return pinned
    if "@sha256:" in text:
        raise UserError(f"{text} is not URI@sha256:DIGEST, with 64 hexadecimal digits", field=flag)
    try:
        ArtifactUri.parse(text)
        folder = fetch(Source(uri=text), flag)
    except ArtifactError as error:
        what = str(error).removeprefix(f"{flag}.uri: ")
        raise UserError(f"{what}; or pin it as URI@sha256:DIGEST, which need not be read here", field=flag) from error
    if flag == "--student" and not _is_student(folder):
        raise UserError(f"{text} is no student of Flowstill's; name the one that ran", field=flag)
    return StatusRef(uri=text, digest=tree_digest(folder))


def _is_student(folder: Path) -> bool:
    return is_ours(folder) and isinstance(read_manifest(folder).properties, StudentProperties)
