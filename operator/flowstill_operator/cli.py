"""``flowstill``: distill a policy, prove its student, run manifests on this machine, and look at what came of it."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn, Protocol

from rich.console import Console

from flowstill.errors import UserError
from flowstill_operator.command import act, describe, distill, evaluate, get, records, report, run, store, validate
from flowstill_operator.command.exits import INTERRUPTED, USAGE, table
from flowstill_operator.command.moving import transfers_shown
from flowstill_operator.command.outcome import print_outcome, refuse
from flowstill_operator.command.shared import Action, Subparsers

PROG, KUBECTL_PROG = "flowstill", "kubectl flowstill"


class Command(Protocol):
    """A module of ``command/`` that adds one subcommand, or several that belong together."""

    def add_parser(self, commands: Subparsers) -> None:
        """Add them by :func:`flowstill_operator.command.shared.subcommand`."""


COMMANDS: tuple[Command, ...] = (run, distill, validate, evaluate, get, describe, report, act, store, records)
"""In the order of ``--help``."""


class Misused(UserError):
    """A command line that cannot be parsed; ``usage`` says how it is written."""

    reason = "InvalidUsage"

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """One whose errors end as every other: by the same exit code, and as JSON where that is asked for."""

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise Misused(message, self.format_usage())


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line, as it is typed by that name."""
    top = Parser(prog=prog, description=__doc__, epilog=table(), formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"flowstill {version('flowstill')}")
    top.set_defaults(prog=prog, cluster=prog != PROG)
    commands = top.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return top


def kubectl_main() -> int:
    """``kubectl flowstill``: the same, and what it is about is always in a cluster unless ``--state`` is given."""
    return main(prog=KUBECTL_PROG)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The exit code, as :mod:`flowstill_operator.command.exits` defines it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Known before the parse, so that its errors are JSON too.
    as_json = "--json" in arguments
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    try:
        options = parser(prog).parse_args(arguments)
        action: Action = options.action
        with transfers_shown(Console(stderr=True)):
            return action(options, Console(stderr=as_json))
    except (UserError, OSError) as error:
        refused = error if isinstance(error, UserError) else unusable(error)
        usage = refused.usage if isinstance(refused, Misused) else ""
        Console(stderr=True).print(f"{usage}error: {refused}", markup=False, highlight=False, soft_wrap=True)
        if as_json:
            refuse(name, refused)
        return USAGE
    except KeyboardInterrupt:
        if as_json:
            print_outcome(name, INTERRUPTED)
        return INTERRUPTED


def unusable(error: OSError) -> UserError:
    """A file that cannot be read or written.

    Raises:
        OSError: the same, when it is about something else.
    """
    if error.filename is None:
        raise error
    return UserError(f"{error.filename}: {error.strerror}; change its permissions, or give another place")


if __name__ == "__main__":
    sys.exit(main())
