"""Where the resources are that a command is about: in a cluster, or in the state folder of this machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from flowstill.api.actions import Request
from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.engine.loop import ResourceKind

KINDS: tuple[ResourceKind, ...] = ("DistillJob", "StudentRollout")
SHORT: dict[ResourceKind, str] = {"DistillJob": "dj", "StudentRollout": "sr"}
ALIASES: dict[str, ResourceKind] = {
    alias: kind
    for kind in KINDS
    for alias in (SHORT[kind], kind.lower(), f"{kind.lower()}s", f"{kind.lower()}s.flowstill.dev")
}


@dataclass(frozen=True)
class Named:
    """A resource as it was typed: ``NAME``, or ``KIND/NAME`` where two kinds have one name. No kind: either."""

    name: str
    kind: ResourceKind | None = None

    @property
    def text(self) -> str:
        """As it is typed."""
        return f"{SHORT[self.kind]}/{self.name}" if self.kind else self.name


@dataclass(frozen=True)
class ChildView:
    """A child of a resource: a Job, or a process of this machine.

    Attributes:
        state: in a word.
        pods: newest first, each with its phase and what keeps it; a log file of this machine instead.
    """

    name: str
    role: str
    state: str
    pods: tuple[str, ...] = ()


@dataclass(frozen=True)
class EventView:
    """An event about a resource."""

    time: str
    type: str
    reason: str
    message: str


@dataclass(frozen=True)
class Surroundings:
    """What a description shows beside the resource itself.

    Attributes:
        served: what its target serves today.
        stopped: see :meth:`Place.stopped`.
    """

    children: tuple[ChildView, ...] = ()
    events: tuple[EventView, ...] = ()
    served: str | None = None
    stopped: bool = False


class NoLogYet(UserError):
    """No child that is meant has begun; the message says what keeps it."""


class Place(Protocol):
    """A cluster, or this machine."""

    @property
    def kind(self) -> Literal["cluster", "local"]:
        """Which of the two."""

    @property
    def title(self) -> str:
        """Where it is, for messages."""

    @property
    def all_namespaces(self) -> bool:
        """Whether lists are of every namespace."""

    def resources(self) -> list[Document]:
        """All resources of both kinds, DistillJobs first."""

    def get(self, kind: ResourceKind, name: str) -> Document | None:
        """One resource, or None."""

    def surroundings(self, resource: Document) -> Surroundings:
        """Its children and events, and its target."""

    def logs(self, resource: Document, role: str | None, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        """The log of the child that runs, else of the newest one; ``role``: of that child instead.

        Raises:
            NoLogYet: there is none; before the first bytes.
        """

    def last_job(self, resource: Document) -> Document | None:
        """The Job of the child that was made last, or None when none is left."""

    def stopped(self, resource: Document) -> bool:
        """Whether it is not at its end, and nobody works on it: the command that did was stopped."""

    def who(self) -> str:
        """The name of the one who asks."""

    def ask(self, resource: Document, request: Request) -> None:
        """Annotate the resource with what somebody asks for."""


def parse_name(text: str) -> Named:
    """A resource as it was typed.

    Raises:
        UserError: the kind before the slash is none of ours.
    """
    kind, slash, name = text.rpartition("/")
    if not slash:
        return Named(name)
    if kind.lower() not in ALIASES or not name:
        raise UserError(f"{text!r}: give NAME, dj/NAME or sr/NAME", field="NAME")
    return Named(name, ALIASES[kind.lower()])


def find(place: Place, named: Named) -> Document:
    """The resource of that name.

    Raises:
        UserError: there is none, or one of each kind.
    """
    kinds = KINDS if named.kind is None else (named.kind,)
    found = [resource for kind in kinds if (resource := place.get(kind, named.name)) is not None]
    if len(found) > 1:
        either = " or ".join(f"{SHORT[kind]}/{named.name}" for kind in kinds)
        raise UserError(f"a DistillJob and a StudentRollout have the name {named.name}: say {either}", field="NAME")
    if not found:
        what = " and no ".join(kinds)
        raise UserError(
            f"there is no {what} {named.name} in {place.title}; `flowstill get` shows what is", field="NAME"
        )
    return found[0]
