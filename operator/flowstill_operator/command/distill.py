"""``flowstill distill``: a DistillJob from flags.

Types, bounds and defaults of the flags are those of the API's models; nothing of them is repeated here.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from flowstill.api import API_VERSION
from flowstill.api.distilljob import DistillJobSpec
from flowstill.api.schema import MAX_NAME
from flowstill.artifacts.atomic import write_atomic
from flowstill.artifacts.uris import ArtifactUri
from flowstill.errors import ArtifactError, UserError
from flowstill_operator.children import Document
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.command.files import NAME, Manifest
from flowstill_operator.observation import platform_problem, uri_fields
from flowstill_operator.platform import Platform, kubernetes_platform, local_platform

HEADER = "# Written by `flowstill distill`, which writes it anew; copy it to another name before you change it.\n"
DEFAULT_OUTPUT = Path("student-export")
NAMELESS = re.compile(r"^(pretrained_model|checkpoints|last|[0-9]+)$")
"""Folders that LeRobot makes in every run; the name of the policy is the one above them."""


@dataclass(frozen=True)
class Flag:
    """A flag that sets one field of the spec; the default is the field's."""

    name: str
    field: str
    help: str

    @property
    def dest(self) -> str:
        """The attribute of the parsed options."""
        return self.name.removeprefix("--").replace("-", "_")


FLAGS = (
    Flag("--steps", "training.steps", "training steps"),
    Flag("--mix-ratio", "method.mixRatio", "fraction of a batch that is teacher-rollout samples"),
    Flag("--lr", "training.learningRate", "AdamW learning rate"),
    Flag("--batch-size", "training.batchSize", "samples of an update, over all processes"),
    Flag("--gradient-accumulation", "training.gradientAccumulation", "parts in which a process computes its share"),
    Flag("--warmup-steps", "training.warmupSteps", "steps of linear warm-up, unless given at most a tenth of --steps"),
    Flag("--ema", "training.ema", "decay of the published average of the weights; 0: none"),
    Flag("--fidelity-every", "training.fidelityEvery", "steps between looks that choose what is published; 0: one"),
    Flag("--precision", "training.precision", "bf16 or fp32"),
    Flag("--export-precision", "export.precision", "of the ONNX graph: auto, fp32, fp16 or bf16 (docs/onnx.md)"),
    Flag("--seed", "training.seed", "of everything random"),
    Flag("--target-steps", "method.targetSteps", "Euler steps of the rollout that makes the target"),
    Flag("--bank-size", "method.bankSize", "teacher rollouts computed once and reused; 0: fresh ones every step"),
    Flag("--refine-steps", "method.refine.steps", "steps of distribution matching after the training (default: none)"),
    Flag("--draws", "student.draws", "noises that the student takes at once: 1, or 8 to 64"),
    Flag("--teacher-steps", "teacher.steps", "denoising steps of the teacher as it is used today"),
    Flag("--threshold", "validation.threshold", "of --validate-after: largest difference of normalised actions"),
    Flag("--gpus", "runtime.gpusPerNode", "GPUs of the child's pod; a child on this machine uses what it finds"),
    Flag("--nodes", "runtime.nodes", "pods that train together, on a cluster, each with --gpus"),
)
OTHERS = {
    "teacher.uri": "TEACHER",
    "dataset.uri": "--dataset",
    "dataset.renameMap": "--rename-map",
    "student.stateOut": "--state-out",
    "validation.after": "--validate-after",
}
FLAG_OF = {**{flag.field: flag.name for flag in FLAGS}, **OTHERS}


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
        return HEADER + yaml.safe_dump(self.document, sort_keys=False, allow_unicode=True)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of ``flowstill distill``; values stay texts until the models read them."""
    command.add_argument("teacher", metavar="TEACHER", help="a LeRobot checkpoint: a folder, or its URI")
    command.add_argument("--dataset", required=True, help="a LeRobotDataset v3: a folder, or its URI")
    command.add_argument(
        "--output", type=Path, help=f"folder that gets the student, on this machine (default: {DEFAULT_OUTPUT})"
    )
    command.add_argument("--runtime", choices=("local", "kubernetes"), default="local", help="default: %(default)s")
    for flag in FLAGS:
        default = _default(flag.field)
        command.add_argument(flag.name, help=flag.help + ("" if default is None else f" (default: {default})"))
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
    command.add_argument("--manifest", type=Path, metavar="FILE", help="where the DistillJob is kept as YAML")
    command.add_argument("--namespace", help="with --runtime kubernetes (default: the kubeconfig's)")
    command.add_argument("--dry-run", action="store_true", help="print the DistillJob, and do nothing")
    command.add_argument("--fresh", action="store_true", help="forget an earlier run of the same name, on this machine")


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
    name = _name(options)
    metadata = {"name": name, **({"namespace": options.namespace} if options.namespace else {})}
    document: Document = {
        "apiVersion": API_VERSION,
        "kind": "DistillJob",
        "metadata": metadata,
        "spec": _written_out(spec),
    }
    if on_cluster:
        return Order(name, document, spec, None, options.manifest or Path(f"{name}.yaml"))
    output = (options.output or DEFAULT_OUTPUT).absolute()
    return Order(name, document, spec, output, options.manifest or output.with_name(f"{output.name}.yaml"))


def check_name(manifest: Manifest, state: Path, *, fresh: bool) -> None:
    """That the name is free, or was given to the same flags before.

    Raises:
        UserError: it was given to others, and ``fresh`` is False.
    """
    for resource in LocalCluster(state).resources():
        same = (resource["kind"], resource["metadata"]["name"]) == (manifest.kind, manifest.name)
        if same and resource["spec"] != manifest.spec and not fresh:
            raise UserError(
                f"DistillJob {manifest.name} was run with other flags: give another --name, or start anew with --fresh",
                field="--name",
            )


def write_manifest(path: Path, text: str) -> None:
    """Keep the manifest; one that somebody wrote himself is not replaced.

    Raises:
        UserError: there is one, or it cannot be written.
    """
    try:
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
            raise UserError(f"{path} was not written by this command; give another file", field="--manifest")
        write_atomic(path.absolute(), text.encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another file", field="--manifest") from error


def by_flags(message: str) -> str:
    """The message with the flags' names in place of the fields' that they set."""
    for field in sorted(FLAG_OF, key=len, reverse=True):
        message = message.replace(f"spec.{field}", FLAG_OF[field])
    return message


def _check_combination(options: argparse.Namespace, on_cluster: bool) -> None:
    if on_cluster and options.output is not None:
        raise UserError("the student stays in the cluster's store; leave it out", field="--output")
    if on_cluster and options.fresh:
        raise UserError("a resource of a cluster cannot be run anew; give another --name", field="--fresh")
    if not on_cluster and options.namespace is not None:
        raise UserError("it belongs to --runtime kubernetes; leave it out", field="--namespace")
    if options.threshold is not None and not options.validate_after:
        raise UserError("it is the limit of --validate-after; give that too", field="--threshold")


def _spec(options: argparse.Namespace, platform: Platform) -> DistillJobSpec:
    values: Document = {
        "teacher": {"uri": _uri(options.teacher, "TEACHER", platform)},
        "dataset": {"uri": _uri(options.dataset, "--dataset", platform), "renameMap": dict(_renamed(options))},
        "student": {"stateOut": options.state_out},
        "validation": {"after": options.validate_after},
    }
    for flag in FLAGS:
        given = getattr(options, flag.dest)
        if given is not None:
            *sections, field = flag.field.split(".")
            section = values
            for name in sections:
                section = section.setdefault(name, {})
            section[field] = given
    try:
        spec = DistillJobSpec.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise UserError("\n".join(_explain(item) for item in found)) from error
    if options.warmup_steps is None:
        warmup = min(spec.training.warmup_steps, spec.training.steps // 10)
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"warmup_steps": warmup})})
    problem = platform_problem(uri_fields(_written_out(spec)), spec.runtime, platform)
    if problem is not None:
        raise UserError(by_flags(problem.message))
    return spec


def _written_out(spec: DistillJobSpec) -> Document:
    """Every option that decides the student, so that other defaults do not change it, and what was given."""
    document: Document = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"runtime"})
    runtime = spec.runtime.model_dump(mode="json", by_alias=True, exclude_unset=True)
    sections = {**document, "runtime": runtime}
    return {
        name: {field: value for field, value in section.items() if value != {}}
        for name, section in sections.items()
        if section
    }


def _uri(text: str, flag: str, platform: Platform) -> str:
    """A folder's URI, resolved, so that a link such as LeRobot's ``last`` stays what it is today; a URI as it is."""
    if "://" in text:
        return text
    refused = platform.refused_schemes.get("file")
    if refused is not None:
        raise UserError(f"{text} is a folder of this machine: {refused}", field=flag)
    folder = Path(text).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(
            f"{text} is no folder here, and nothing is downloaded: give a folder of this machine, or "
            "store://PATH after `flowstill store push`",
            field=flag,
        )
    try:
        return str(ArtifactUri.parse(f"file://{folder}"))
    except ArtifactError as error:
        raise UserError(f"{error}; rename the folder", field=flag) from error


def _renamed(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for text in options.rename_map or []:
        old, separator, new = text.partition("=")
        if not (separator and old and new):
            raise UserError(f"{text!r}: use OLD=NEW, once for each camera", field="--rename-map")
        yield old, new


def _name(options: argparse.Namespace) -> str:
    """The given name, or one made from the last part of the teacher's path that says something."""
    if options.name is not None:
        name: str = options.name
        if not NAME.match(name):
            raise UserError(
                f"{name!r}: use 1 to {MAX_NAME} lower-case letters, digits and '-', a letter or digit at both ends",
                field="--name",
            )
        return name
    path = options.teacher.partition("://")[2] if "://" in options.teacher else str(Path(options.teacher).absolute())
    for part in reversed(path.split("/")):
        made = re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-")[:MAX_NAME].rstrip("-")
        if made and not NAMELESS.match(part):
            return made
    raise UserError(f"{options.teacher} has no part that makes a name; give one", field="--name")


def _explain(item: ErrorDetails) -> str:
    """One finding of the models, by the flag that it is about."""
    path = ".".join(str(part) for part in item["loc"])
    field = next((name for name in FLAG_OF if f"{path}.".startswith(f"{name}.")), None)
    message = by_flags(item["msg"].removeprefix("Value error, "))
    if field is None:
        return message
    return f"{FLAG_OF[field]}: {item['input']}: {message}"


def _default(field: str) -> Any:
    """The default of a field, ``section.name``, as the models have it; None where it or its section has none."""
    model: Any = DistillJobSpec
    *sections, name = field.split(".")
    for section in sections:
        info = _fields(model)[section]
        if info.default is None:
            return None
        model = info.annotation
    default = _fields(model)[name].default
    return None if default is PydanticUndefined else default


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by their names in YAML."""
    return {info.alias or name: info for name, info in model.model_fields.items()}
