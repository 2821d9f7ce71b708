"""What people ask of a running resource: annotations, which are no desired state, so that GitOps leaves them alone.

``flowstill.dev/approve: "EVIDENCE-DIGEST who: why"``, ``flowstill.dev/abort: "TOKEN who: why"`` and
``flowstill.dev/retry: "TOKEN who: why"``. The token is any word: the same text acts once. ``who`` may contain colons,
as the names of service accounts do; it ends at the first colon with a space behind it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from flowstill.api import GROUP
from flowstill.api.fields import Digest, StatusModel, Timestamp

ActionName = Literal["approve", "abort", "retry"]
ACTIONS: tuple[ActionName, ...] = ("approve", "abort", "retry")
MAX_ACTIONS = 20
MAX_TOKEN, MAX_NAME, MAX_REASON = 128, 256, 512


class Action(StatusModel):
    """One that was asked for, and what became of it."""

    action: ActionName
    by: Annotated[str, Field(max_length=MAX_NAME)] = ""
    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""
    token: Annotated[str, Field(max_length=MAX_TOKEN)] | None = None
    digest: Digest | None = None
    time: Timestamp
    refused: Annotated[str, Field(max_length=512, description="Why it was not carried out.")] | None = None


@dataclass(frozen=True)
class Request:
    """An annotation as it was read. ``token``: of approve, the digest of the evidence."""

    action: ActionName
    token: str = ""
    by: str = ""
    reason: str = ""

    @property
    def text(self) -> str:
        """The annotation's value."""
        words = f"{self.by}: {self.reason}" if self.by or self.reason else ""
        return f"{self.token} {words}".strip()

    @property
    def whose(self) -> str:
        """Who asked, and why, as far as the annotation says so."""
        return f"{self.by or 'somebody'}{f': {self.reason}' if self.reason else ''}"

    def recorded_in(self, actions: Sequence[Action]) -> bool:
        """Whether it was acted on before."""
        mine = (self.action, self.token, self.by, self.reason)
        return any((a.action, a.token or "", a.by, a.reason) == mine for a in actions)


def annotation(action: ActionName) -> str:
    """The key of that action's annotation."""
    return f"{GROUP}/{action}"


def read_request(action: ActionName, text: str) -> Request:
    """The value of that action's annotation; what is too long for a status is cut."""
    token, _, rest = text.strip().partition(" ")
    if token.endswith(":"):
        # "alice: it stutters": a person who wrote it by hand and gave no token.
        token, rest = "", text.strip()
    by, colon, reason = rest.strip().partition(": ")
    if not colon:
        by, reason = "", rest.strip()
    return Request(action, token[:MAX_TOKEN], by.strip()[:MAX_NAME], reason.strip()[:MAX_REASON])


def read_requests(annotations: Mapping[str, str] | None) -> tuple[Request, ...]:
    """All that these annotations ask for; an empty one asks for nothing, as the chart's admission policy has it."""
    texts = {action: (annotations or {}).get(annotation(action), "") for action in ACTIONS}
    return tuple(read_request(action, text) for action, text in texts.items() if text.strip())


def find_request(requests: Sequence[Request], action: ActionName) -> Request | None:
    """The one of that action, or None."""
    return next((request for request in requests if request.action == action), None)


def with_action(actions: Sequence[Action], action: Action) -> list[Action]:
    """The record with one more. The oldest are dropped, but never the last of a kind: it must not act again."""
    record = [*actions, action]
    while len(record) > MAX_ACTIONS:
        last = {a.action: index for index, a in enumerate(record)}
        del record[next(index for index, a in enumerate(record) if last[a.action] != index)]
    return record
