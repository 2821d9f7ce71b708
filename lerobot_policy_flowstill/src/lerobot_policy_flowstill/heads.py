"""Language models' heads, which no action is computed by: 0.8 of π0's and π0.5's 4.1 billion parameters."""

from typing import Any

from torch import nn

HEAD = "lm_head"


class NoHead(nn.Module):  # type: ignore[misc]
    """In a head's place. It holds nothing, and takes no notice of what a file has for it."""

    def _load_from_state_dict(self, *_: Any, **__: Any) -> None:
        """See :class:`NoHead`."""


def drop_heads(network: nn.Module) -> None:
    """Put :class:`NoHead` in the place of every head; one whose weights are the embedding's costs nothing and stays."""
    shared = {id(p) for name, p in network.named_parameters(remove_duplicate=False) if f".{HEAD}." not in f".{name}"}
    for part in list(network.modules()):
        head = getattr(part, HEAD, None)
        if isinstance(head, nn.Linear) and id(head.weight) not in shared:
            setattr(part, HEAD, NoHead())


def without_heads[Stored](network: nn.Module, stored: dict[str, Stored]) -> dict[str, Stored]:
    """A file's tensors by name, without those of heads that were dropped."""
    gone = tuple(f"{name}." for name, part in network.named_modules() if isinstance(part, NoHead))
    return {name: value for name, value in stored.items() if not name.startswith(gone)}
