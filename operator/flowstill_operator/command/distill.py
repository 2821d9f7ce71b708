"""``flowstill distill``: a DistillJob from flags, run here or handed to a cluster."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flowstill.api import API_VERSION
from flowstill.api.distilljob import DistillJobSpec
from flowstill.api.fields import StatusRef
from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.command.delivery import check_output, deliver
from flowstill_operator.command.exits import COMPLETED
from flowstill_operator.command.files import manifest_of
from flowstill_operator.command.flags import (
    Flag,
    Flags,
    as_text,
    check_name,
    folder_uri,
    header,
    renamed,
    resource_name,
    write_manifest,
    written_out,
)
from flowstill_operator.command.handover import hand_over
from flowstill_operator.command.outcome import conclude
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
from flowstill_operator.platform import Platform, kubernetes_platform, local_platform

HEADER = header("distill")
DEFAULT_OUTPUT = Path("student-export")
FLAGS = Flags(
    DistillJobSpec,
    (
        Flag("--steps", "training.steps", "training steps"),
        Flag(
            "--mix-ratio",
            "method.mixRatio",
            "fraction of a batch that is teacher-rollout samples (default: 1.0, with two target steps 0.5)",
        ),
        Flag("--lr", "training.learningRate", "AdamW learning rate"),
        Flag("--batch-size", "training.batchSize", "samples of an update, over all processes"),
        Flag("--gradient-accumulation", "training.gradientAccumulation", "parts in which a process computes its share"),
        Flag(
            "--warmup-steps", "training.warmupSteps", "steps of linear warm-up, unless given at most a tenth of --steps"
        ),
        Flag("--ema", "training.ema", "decay of the published average of the weights; 0: none"),
        Flag("--fidelity-every", "training.fidelityEvery", "steps between looks that choose what is published; 0: one"),
        Flag("--precision", "training.precision", "bf16 or fp32"),
        Flag("--export-precision", "export.precision", "of the ONNX graph: auto, fp32, fp16 or bf16 (docs/onnx.md)"),
        Flag("--seed", "training.seed", "of everything random"),
        Flag("--target-steps", "method.targetSteps", "Euler steps of the rollout that makes the target"),
        Flag(
            "--bank-size",
            "method.bankSize",
            "teacher rollouts computed once and reused; 0: fresh ones every step (default: 12000, with two target "
            "steps or without rollouts 0)",
        ),
        Flag("--refine-steps", "method.refine.steps", "steps of distribution matching after the training; 0: none"),
        Flag("--draws", "student.draws", "noises that the student takes at once: 1, or 8 to 64"),
        Flag("--teacher-steps", "teacher.steps", "denoising steps of the teacher as it is used today"),
        Flag(
            "--threshold",
            "validation.threshold",
            f"of --validate-after: largest difference of normalised actions (default: {THRESHOLDS})",
        ),
        Flag("--gpus", "runtime.gpusPerNode", "GPUs of the child's pod; on this machine it uses one, if there is one"),
        Flag("--nodes", "runtime.nodes", "pods that train together, on a cluster, each with --gpus"),
    ),
    {
        "teacher.uri": "TEACHER",
        "dataset.uri": "--dataset",
        "dataset.renameMap": "--rename-map",
        "student.stateOut": "--state-out",
        "validation.after": "--validate-after",
    },
)


@dataclass(frozen=True)
class Order:
    """What was asked for: the manifest, and where things go.

    Attributes:
        name: of the DistillJob.
        document: the DistillJob; every option that decides the student is written out.
        spec: the same, typed.
        output: where the student's folder goes; None on a cluster, whose store keeps it.
        manifest: where the manifest is kept.
    """

    name: str
    document: Document
    spec: DistillJobSpec
    output: Path | None
    manifest: Path

    @property
    def text(self) -> str:
        """The manifest as YAML."""
        return as_text(self.document, "distill")


def add_parser(commands: Subparsers) -> None:
    """Its flags."""
    command = subcommand(commands, "distill", run, help="distill a one-step student of a policy")
    add_store(command)
    add_state(command)
    add_json(command)
    add_arguments(command)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of ``flowstill distill`` itself."""
    command.add_argument("teacher", metavar="TEACHER", help="a LeRobot checkpoint: a folder, or its URI")
    command.add_argument("--dataset", required=True, help="a LeRobotDataset v3: a folder, or its URI")
    command.add_argument(
        "--output", type=Path, help=f"folder that gets the student, on this machine (default: {DEFAULT_OUTPUT})"
    )
    add_runtime(command)
    FLAGS.add_to(command)
    command.add_argument(
        "--validate-after", action="store_true", help="compare the exported graph with the trained student afterwards"
    )
    command.add_argument(
        "--state-out", action="store_true", help="π0.5: the state as an input of its own, not part of the prompt"
    )
    command.add_argument(
        "--rename-map", action="append", metavar="OLD=NEW", help="the dataset's name of a camera, and the policy's"
    )
    command.add_argument("--name", help="of the DistillJob (default: made from the teacher's folder)")
    command.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="where the DistillJob is kept as YAML (default: beside --output, on a cluster NAME.yaml)",
    )
    command.add_argument("--namespace", help="with --runtime kubernetes (default: the kubeconfig's)")
    command.add_argument("--dry-run", action="store_true", help="print the DistillJob, and do nothing")
    command.add_argument("--fresh", action="store_true", help="forget an earlier run of the same name, on this machine")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the DistillJob, run it, or hand it to the cluster."""
    store = store_uri(options.store)
    asked = order(options, store)
    if options.dry_run:
        say(console, asked.text.rstrip())
        return conclude(options, COMPLETED, document=asked.document)
    if asked.output is None:
        return hand_over(asked.document, asked.manifest, options, console)
    return _here(asked, asked.output, options, store, console)


def order(options: argparse.Namespace, store: str) -> Order:
    """The DistillJob that the flags ask for.

    Args:
        options: as :func:`add_arguments` parses them.
        store: URI of the default store of this machine.

    Raises:
        UserError: a flag cannot work; it is named with the fix.
    """
    on_cluster = options.runtime == "kubernetes"
    _check_combination(options, on_cluster)
    # The cluster's own operator knows its default store; what matters here is which URIs a pod can read.
    platform = kubernetes_platform("", "", "pvc://theirs") if on_cluster else local_platform(store)
    spec = _spec(options, platform)
    name = resource_name(options.name, options.teacher)
    metadata = {"name": name, **({"namespace": options.namespace} if options.namespace else {})}
    document: Document = {
        "apiVersion": API_VERSION,
        "kind": "DistillJob",
        "metadata": metadata,
        "spec": written_out(spec, spec.runtime),
    }
    if on_cluster:
        return Order(name, document, spec, None, options.manifest or Path(f"{name}.yaml"))
    output = (options.output or DEFAULT_OUTPUT).resolve()
    return Order(name, document, spec, output, options.manifest or output.with_name(f"{output.name}.yaml"))


def _check_combination(options: argparse.Namespace, on_cluster: bool) -> None:
    check_place(options, "student", on_cluster=on_cluster)
    if options.threshold is not None and not options.validate_after:
        raise UserError("it is the limit of --validate-after; give that too", field="--threshold")


def _spec(options: argparse.Namespace, platform: Platform) -> DistillJobSpec:
    values: Document = {
        "teacher": {"uri": folder_uri(options.teacher, "TEACHER", platform)},
        "dataset": {"uri": folder_uri(options.dataset, "--dataset", platform), "renameMap": dict(renamed(options))},
        "student": {"stateOut": options.state_out},
        "validation": {"after": options.validate_after},
    }
    spec = FLAGS.read(options, values)
    if options.warmup_steps is None:
        warmup = min(spec.training.warmup_steps, spec.training.steps // 10)
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"warmup_steps": warmup})})
    FLAGS.check_platform(written_out(spec, spec.runtime), spec.runtime, platform)
    return spec


def _here(asked: Order, output: Path, options: argparse.Namespace, store: str, console: Console) -> int:
    os.environ["FLOWSTILL_STORE"] = store
    platform = local_platform(store)
    manifest = manifest_of(asked.document, platform)
    check_output(output, asked.spec)
    check_name(manifest, options.state, fresh=options.fresh)
    write_manifest(asked.manifest, asked.text)
    ended = to_the_end([manifest], options, platform, console)
    done = ended.exit_code == COMPLETED
    if done:
        deliver(StatusRef.model_validate(ended.resources[0]["status"]["student"]), output)
        say(console, f"  output: {output}")
    say(console, f"  manifest: {asked.manifest}")
    return conclude(
        options,
        ended.exit_code,
        resources=ended.endings,
        output=str(output) if done else None,
        manifest=str(asked.manifest),
    )
