"""Flags that set the fields of a spec.

Types, bounds and defaults of the flags are those of the API's models; nothing of them is repeated here.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from flowstill.api.runtime import Runtime
from flowstill.api.schema import MAX_NAME
from flowstill.artifacts.atomic import write_atomic
from flowstill.artifacts.uris import ArtifactUri
from flowstill.errors import ArtifactError, UserError
from flowstill_operator.children import Document
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.command.files import NAME, Manifest
from flowstill_operator.observation import findings, platform_problem, uri_fields
from flowstill_operator.platform import Platform

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


@dataclass(frozen=True)
class Flags[S: BaseModel]:
    """The flags of one command.

    Attributes:
        model: of the spec that they make.
        flags: each sets a field to what is given.
        others: fields that the command sets in its own way, and the flag of each, for messages.
    """

    model: type[S]
    flags: Sequence[Flag]
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def flag_of(self) -> dict[str, str]:
        """The flag of every field."""
        return {**{flag.field: flag.name for flag in self.flags}, **self.others}

    def add_to(self, command: argparse.ArgumentParser) -> None:
        """Values stay texts until the models read them."""
        for flag in self.flags:
            default = self._default(flag.field)
            command.add_argument(flag.name, help=flag.help + ("" if default is None else f" (default: {default})"))

    def read(self, options: argparse.Namespace, values: Document) -> S:
        """The spec: ``values``, and what was given.

        Raises:
            UserError: all values that cannot be, each by its flag.
        """
        for flag in self.flags:
            given = getattr(options, flag.dest)
            if given is not None:
                *sections, name = flag.field.split(".")
                section = values
                for part in sections:
                    section = section.setdefault(part, {})
                section[name] = given
        try:
            return self.model.model_validate(values, by_alias=True, by_name=False)
        except ValidationError as error:
            raise UserError("\n".join(self._explain(item) for item in findings(error))) from error

    def check_platform(self, written: Document, runtime: Runtime, platform: Platform) -> None:
        """Refuse what cannot be read, or cannot run, there.

        Raises:
            UserError: by the flag.
        """
        problem = platform_problem(uri_fields(written), runtime, platform)
        if problem is not None:
            raise UserError(self.by_flags(problem.message))

    def by_flags(self, message: str) -> str:
        """The message with the flags' names in place of the fields' that they set."""
        flag_of = self.flag_of
        for path in sorted(flag_of, key=len, reverse=True):
            message = message.replace(f"spec.{path}", flag_of[path])
        return message

    def _explain(self, item: ErrorDetails) -> str:
        """One finding of the models, by the flag that it is about."""
        path = ".".join(str(part) for part in item["loc"])
        found = next((name for name in self.flag_of if f"{path}.".startswith(f"{name}.")), None)
        message = self.by_flags(item["msg"].removeprefix("Value error, "))
        if found is None:
            return message
        return f"{self.flag_of[found]}: {item['input']}: {message}"

    def _default(self, path: str) -> Any:
        """The default of a field, ``section.name``, as the models have it; None where it or its section has none."""
        model: Any = self.model
        *sections, name = path.split(".")
        for section in sections:
            info = _fields(model)[section]
            if info.default is None:
                return None
            model = info.annotation
        default = _fields(model)[name].default
        return None if default is PydanticUndefined else default


def header(command: str) -> str:
    """The first line of a manifest that was made from flags; it says whose the file is."""
    return f"# Written by `flowstill {command}`, which writes it anew; copy it to another name before you change it.\n"


def as_text(document: Document, command: str) -> str:
    """The manifest as YAML."""
    return header(command) + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def write_manifest(path: Path, text: str) -> None:
    """Keep the manifest; one that somebody wrote himself is not replaced.

    Raises:
        UserError: there is one, or it cannot be written.
    """
    first = text.partition("\n")[0]
    try:
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(f"{first}\n"):
            raise UserError(f"{path} was not written by this command; give another file", field="--manifest")
        write_atomic(path.absolute(), text.encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another file", field="--manifest") from error


def written_out(spec: BaseModel, runtime: Runtime) -> Document:
    """Every option that decides the result, so that other defaults do not change it; of ``runtime`` what was given."""
    document: Document = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"runtime"})
    given = runtime.model_dump(mode="json", by_alias=True, exclude_unset=True)
    sections = {**document, "runtime": given}
    return {name: _without_empty(section) for name, section in sections.items() if section}


def _without_empty(section: Any) -> Any:
    """Fields that are empty mappings say nothing."""
    if not isinstance(section, dict):
        return section
    return {field: value for field, value in section.items() if value != {}}


def folder_uri(text: str, flag: str, platform: Platform) -> str:
    """A folder's URI, resolved, so that a link such as LeRobot's ``last`` stays what it is today; a URI as it is.

    Raises:
        UserError: there is no such folder, or it means nothing there.
    """
    if "://" in text:
        return text
    refused = platform.refused_schemes.get("file")
    if refused is not None:
        raise UserError(f"{text} is a folder of this machine: {refused}", field=flag)
    folder = Path(text).expanduser().resolve()
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no folder here"
        kind = "datasets/" if flag == "--dataset" else ""
        raise UserError(
            f"{text} is {what}: give a folder of this machine, store://PATH after `flowstill store push`, or "
            f"hf://{kind}ORG/NAME@COMMIT for a commit of the Hugging Face Hub",
            field=flag,
        )
    try:
        return str(ArtifactUri.parse(f"file://{folder}"))
    except ArtifactError as error:
        raise UserError(f"{error}; rename the folder", field=flag) from error


def renamed(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The pairs of ``--rename-map``.

    Raises:
        UserError: one is no pair.
    """
    for text in options.rename_map or []:
        old, separator, new = text.partition("=")
        if not (separator and old and new):
            raise UserError(f"{text!r}: use OLD=NEW, once for each camera", field="--rename-map")
        yield old, new


def resource_name(given: str | None, source: str) -> str:
    """The given name, or one made from the last part of the source's path that says something.

    Raises:
        UserError: it cannot be one, or there is no such part.
    """
    if given is not None:
        if not NAME.match(given):
            raise UserError(
                f"{given!r}: use 1 to {MAX_NAME} lower-case letters, digits and '-', a letter or digit at both ends",
                field="--name",
            )
        return given
    path = source.partition("://")[2] if "://" in source else str(Path(source).absolute())
    for part in reversed(path.split("/")):
        made = re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-")[:MAX_NAME].rstrip("-")
        if made and not NAMELESS.match(part):
            return made
    raise UserError(f"{source} has no part that makes a name; give one", field="--name")


def check_name(manifest: Manifest, state: Path, *, fresh: bool) -> None:
    """That the name is free, or was given to the same flags before.

    Raises:
        UserError: it was given to others, and ``fresh`` is False.
    """
    for resource in LocalCluster(state).resources():
        same = (resource["kind"], resource["metadata"]["name"]) == (manifest.kind, manifest.name)
        if same and resource["spec"] != manifest.spec and not fresh:
            raise UserError(
                f"{manifest.kind} {manifest.name} was run with other flags: give another --name, or start anew with "
                "--fresh",
                field="--name",
            )


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by their names in YAML."""
    return {info.alias or name: info for name, info in model.model_fields.items()}
