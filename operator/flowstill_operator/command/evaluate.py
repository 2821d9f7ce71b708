"""``flowstill eval``: a StudentRollout from flags, run here or handed to a cluster."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from flowstill.api import API_VERSION
from flowstill.api.fields import StatusRef
from flowstill.api.gates import Gates
from flowstill.api.studentrollout import StudentRolloutSpec
from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.command.delivery import check_evidence_folder, deliver_evidence
from flowstill_operator.command.exits import COMPLETED
from flowstill_operator.command.files import manifest_of, read_documents
from flowstill_operator.command.flags import (
    Flag,
    Flags,
    as_text,
    check_name,
    renamed,
    resource_name,
    write_manifest,
    written_out,
)
from flowstill_operator.command.handover import hand_over
from flowstill_operator.command.outcome import conclude
from flowstill_operator.command.policies import pinned, pinned_student
from flowstill_operator.command.run import to_the_end
from flowstill_operator.command.shared import (
    THRESHOLDS,
    Subparsers,
    add_json,
    add_runtime,
    add_state,
    add_store,
    check_place,
    say,
    store_uri,
    subcommand,
)
from flowstill_operator.observation import explain
from flowstill_operator.platform import Platform, kubernetes_platform, local_platform

FLAGS = Flags(
    StudentRolloutSpec,
    (
        Flag("--episodes-per-task", "evaluation.episodesPerTask", "instead of --num-episodes: of every arm and task"),
        Flag(
            "--max-episodes-per-task",
            "evaluation.maxEpisodesPerTask",
            "where gates stay undecided, up to so many are run (default: no more than --num-episodes asks for, else "
            "the API's)",
        ),
        Flag("--seed", "evaluation.seed", "of the episodes and the noise"),
        Flag("--shards", "evaluation.shards", "pods that share the episodes, on a cluster"),
        Flag("--action-steps", "evaluation.actionSteps", "steps of a chunk that are executed (default: the student's)"),
        Flag("--runner", "evaluation.runner", "what computes students: onnx, torch or auto"),
        Flag("--videos", "evaluation.videos", "which episodes are filmed: failures, none or all"),
        Flag("--entry-point", "evaluation.custom.entryPoint", "of --suite custom: PACKAGE.MODULE:FUNCTION"),
        Flag(
            "--threshold",
            "parity.threshold",
            f"largest difference of normalised actions, ONNX against PyTorch (default: {THRESHOLDS})",
        ),
        Flag("--samples", "parity.samples", "observations on which the two are compared"),
        Flag("--gpus", "runtime.gpusPerNode", "GPUs of a child's pod; on this machine it uses one, if there is one"),
    ),
    {
        "student.uri": "STUDENT",
        "student.digest": "STUDENT",
        "teacher.uri": "--reference",
        "teacher.digest": "--reference",
        "baseline.uri": "--baseline",
        "baseline.digest": "--baseline",
        "evaluation.suite": "--suite",
        "evaluation.tasks": "--tasks",
        "evaluation.arms": "--arms",
        "evaluation.renameMap": "--rename-map",
        "evaluation.custom": "--entry-point",
    },
)


BENCHMARKS = {"libero": tuple(f"libero_object/{number}" for number in range(10))}
"""The tasks that ``--suite`` alone stands for."""


@dataclass(frozen=True)
class Order:
    """What was asked for.

    Attributes:
        name: of the StudentRollout.
        document: the StudentRollout; every option that decides the verdict is written out.
        output: folder that gets the evidence with its report; None: it stays in the store.
        manifest: where the manifest is kept.
    """

    name: str
    document: Document
    output: Path | None
    manifest: Path


def add_parser(commands: Subparsers) -> None:
    """Its flags."""
    command = subcommand(
        commands, "eval", run, help="prove that a student is as good as its teacher, by paired episodes"
    )
    add_store(command)
    add_state(command)
    add_json(command)
    add_runtime(command)
    command.add_argument("student", metavar="STUDENT", help="a student's folder, or its URI, with @DIGEST on a cluster")
    command.add_argument("--suite", required=True, help="metaworld, libero or custom")
    command.add_argument(
        "--tasks",
        action="append",
        metavar="TASK,…",
        help="of the suite; may be given several times (default with libero: the ten of libero_object)",
    )
    command.add_argument(
        "--num-episodes",
        type=int,
        metavar="N",
        help="of every arm, over all tasks together, the same number of each; no more are run "
        "(default: --episodes-per-task)",
    )
    FLAGS.add_to(command)
    command.add_argument("--reference", metavar="TEACHER", help="its teacher (default: the one in its manifest)")
    command.add_argument("--baseline", metavar="POLICY", help="what is served today (default: the teacher)")
    command.add_argument(
        "--gates", type=Path, metavar="FILE", help="YAML of spec.gates, for other limits (default: the API's)"
    )
    command.add_argument("--arms", action="append", metavar="ARM,…", help="of docs/evaluation.md (default: all)")
    command.add_argument(
        "--rename-map", action="append", metavar="OLD=NEW", help="the suite's name of a camera, and the policy's"
    )
    command.add_argument(
        "--output", type=Path, metavar="FOLDER", help="gets the evidence with report.html, on this machine"
    )
    command.add_argument("--name", help="of the StudentRollout (default: made from the student's folder)")
    command.add_argument(
        "--manifest", type=Path, metavar="FILE", help="where the StudentRollout is kept (default: NAME-eval.yaml)"
    )
    command.add_argument("--namespace", help="with --runtime kubernetes (default: the kubeconfig's)")
    command.add_argument("--dry-run", action="store_true", help="print the StudentRollout, and do nothing")
    command.add_argument("--fresh", action="store_true", help="forget an earlier run of the same name, on this machine")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the StudentRollout, run it, or hand it to the cluster."""
    store = store_uri(options.store)
    os.environ["FLOWSTILL_STORE"] = store
    asked = order(options, store)
    if options.dry_run:
        say(console, as_text(asked.document, "eval").rstrip())
        return conclude(options, COMPLETED, document=asked.document)
    if options.runtime == "kubernetes":
        return hand_over(asked.document, asked.manifest, options, console)
    return _here(asked, options, store, console)


def order(options: argparse.Namespace, store: str) -> Order:
    """The StudentRollout that the flags ask for.

    Args:
        options: as :func:`add_parser` parses them.
        store: URI of the default store of this machine, which is also in the environment.

    Raises:
        UserError: a flag cannot work, or a policy cannot be read; it is named with the fix.
    """
    on_cluster = options.runtime == "kubernetes"
    _check_combination(options, on_cluster)
    platform = kubernetes_platform("", "", "pvc://theirs") if on_cluster else local_platform(store)
    spec = _spec(options, platform)
    name = resource_name(options.name, options.student.partition("@sha256:")[0])
    document: Document = {
        "apiVersion": API_VERSION,
        "kind": "StudentRollout",
        "metadata": {"name": name, **({"namespace": options.namespace} if options.namespace else {})},
        "spec": written_out(spec, spec.runtime),
    }
    output = options.output.resolve() if options.output is not None else None
    return Order(name, document, output, options.manifest or Path(f"{name}-eval.yaml"))


def _check_combination(options: argparse.Namespace, on_cluster: bool) -> None:
    check_place(options, "evidence", on_cluster=on_cluster)
    if options.num_episodes is not None and options.episodes_per_task is not None:
        raise UserError("it says the same as --episodes-per-task in another way; give one", field="--num-episodes")


def _spec(options: argparse.Namespace, platform: Platform) -> StudentRolloutSpec:
    tasks = _tasks(options)
    evaluation: Document = {"suite": options.suite, "tasks": tasks, "renameMap": dict(renamed(options))}
    if options.arms is not None:
        evaluation["arms"] = _listed(options.arms, "--arms")
    if options.num_episodes is not None:
        each = per_task(options.num_episodes, len(tasks))
        evaluation |= {"episodesPerTask": each, "maxEpisodesPerTask": each}
    values: Document = {"student": pinned_student(options.student, "STUDENT", platform), "evaluation": evaluation}
    if options.reference is not None:
        values["teacher"] = pinned(options.reference, "--reference", platform)
    if options.baseline is not None:
        values["baseline"] = pinned(options.baseline, "--baseline", platform)
    if options.gates is not None:
        values["gates"] = _gates(options.gates)
    spec = FLAGS.read(options, values)
    FLAGS.check_platform(written_out(spec, spec.runtime), spec.runtime, platform)
    return spec


def _tasks(options: argparse.Namespace) -> list[str]:
    """The tasks that are asked for, or all of the benchmark that stands for the suite.

    Raises:
        UserError: none are named, and the suite is no benchmark.
    """
    if options.tasks is not None:
        return _listed(options.tasks, "--tasks")
    if options.suite in BENCHMARKS:
        return list(BENCHMARKS[options.suite])
    raise UserError(f"name the tasks of suite {options.suite} that the policy was trained on", field="--tasks")


def _gates(path: Path) -> Document:
    """The limits in a file.

    Raises:
        UserError: it cannot be read, or its limits cannot be.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file; give the YAML of spec.gates", field="--gates")
    documents = read_documents(path)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise UserError(f"{path} is no mapping of gates to their limits, such as P1: {{margin: 0.05}}", field="--gates")
    try:
        Gates.model_validate(documents[0], by_alias=True, by_name=False)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, root='gates')}", field="--gates") from error
    found: Document = documents[0]
    return found


def per_task(episodes: int, tasks: int) -> int:
    """Episodes of each task, so that all tasks count alike.

    Raises:
        UserError: they cannot be shared out evenly.
    """
    if episodes >= 1 and episodes % tasks == 0:
        return episodes // tasks
    less = episodes - episodes % tasks
    fix = f"give {less} or {less + tasks}" if less >= tasks else f"give at least {tasks}"
    raise UserError(
        f"{episodes} episodes are not the same number for each of {tasks} tasks: {fix}", field="--num-episodes"
    )


def _listed(given: list[str], flag: str) -> list[str]:
    """The names of a flag that takes some by commas, and may be given several times."""
    names = [name.strip() for text in given for name in text.split(",")]
    if not all(names):
        raise UserError(f"{','.join(given)!r} has an empty name; separate names by one comma", field=flag)
    return names


def _here(asked: Order, options: argparse.Namespace, store: str, console: Console) -> int:
    manifest = manifest_of(asked.document, local_platform(store))
    if asked.output is not None:
        check_evidence_folder(asked.output)
    check_name(manifest, options.state, fresh=options.fresh)
    write_manifest(asked.manifest, as_text(asked.document, "eval"))
    ended = to_the_end([manifest], options, local_platform(store), console)
    evidence = ended.resources[0].get("status", {}).get("evidence")
    delivered = asked.output is not None and evidence is not None
    if asked.output is not None and evidence is not None:
        deliver_evidence(StatusRef.model_validate(evidence), asked.output)
        say(console, f"  output: {asked.output}")
    say(console, f"  manifest: {asked.manifest}")
    return conclude(
        options,
        ended.exit_code,
        resources=ended.endings,
        output=str(asked.output) if delivered else None,
        manifest=str(asked.manifest),
    )
