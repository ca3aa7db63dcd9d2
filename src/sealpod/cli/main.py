# SPDX-License-Identifier: Apache-2.0
"""The ``sealpod`` command: find the subcommand's module, import only that, run it, map errors to exit codes.

Each subcommand is a module of this package with ``HELP``, ``add_arguments(parser)`` and ``run(args) -> int``.
Only the chosen one is imported, so ``sealpod --help`` and ``sealpod measure`` start as fast as the
interpreter does.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

from sealpod.errors import InterruptError, OperationError, SealpodError

# Name, module, one line of help. The help stands here too so that listing it imports nothing.
COMMANDS: Final[tuple[tuple[str, str, str], ...]] = (
    ("run", "sealpod.cli.run", "Run a container image in a measured, attested guest"),
    ("image", "sealpod.cli.image", "Encrypt images"),
    ("kbs", "sealpod.cli.kbs", "Run the key broker; manage secrets, keysets and policies"),
    ("measure", "sealpod.cli.measure", "Calculate the launch digest of a guest"),
    ("guest", "sealpod.cli.guest", "Build the guest kernel and initrd"),
    ("sev", "sealpod.cli.sev", "Manage an SEV platform; sessions, measurements, secrets"),
    ("sandbox", "sealpod.cli.sandbox", "Show the pods of this machine"),
    ("snapshotter", "sealpod.cli.snapshotter", "Serve containerd a snapshotter for guests' images"),
    ("config", "sealpod.cli.config", "Check a Kata configuration file"),
    ("demo", "sealpod.cli.demo", "Show the whole flow on this machine in five scenarios"),
)

EPILOG: Final = """\
Exit status: 0 done; 1 failed; 2 wrong usage; 3 refused by policy or verification; 4 not found;
5 conflict; 6 a peer is unavailable; 7 no permission; 124 deadline passed; 130 interrupted; 143 terminated.
`sealpod run` exits with the container's own status.
"""

# Verbs of a command that have a module and options of their own.
VERBS: Final[dict[tuple[str, str], str]] = {
    ("measure", "explain"): "sealpod.cli.measure_explain",
    ("measure", "id-block"): "sealpod.cli.measure_idblock",
}

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a file system says that takes no more of the output."""

_COLUMNS: Final = 80
_NARROWEST: Final = 40
"""Columns of help where the terminal does not say, and at least."""


if TYPE_CHECKING:

    class Formatter(Protocol):
        """How argparse lays help out."""

        def __call__(self, *, prog: str) -> argparse.HelpFormatter: ...

    class Command(Protocol):
        """What a subcommand's module offers."""

        HELP: str

        def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

        def run(self, args: argparse.Namespace) -> int: ...


def _overview() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:<9} {text}" for name, _, text in COMMANDS)
    return argparse.ArgumentParser(
        prog="sealpod",
        usage="sealpod COMMAND [OPTIONS]",
        description="Run containers the machine's owner cannot read (AMD SEV, or a software model of it).",
        epilog=f"commands:\n{listing}\n\n{EPILOG}",
        formatter_class=_formatter(),
    )


def _load(name: str) -> Command | None:
    modules = {command: module for command, module, _ in COMMANDS}
    modules |= {" ".join(words): module for words, module in VERBS.items()}
    return cast("Command", importlib.import_module(modules[name])) if name in modules else None


def dispatch(argv: list[str]) -> int:
    """Run the command named by ``argv``; errors of :mod:`sealpod.errors` pass through."""
    if not argv or argv[0] in ("-h", "--help"):
        _overview().print_help()
        return 0 if argv else 2
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"sealpod {version('sealpod')}")
        return 0
    name, arguments = _split(argv)
    command = _load(name)
    if command is None:
        _overview().error(f"unknown command {name!r} (see `sealpod --help`)")
    parser = argparse.ArgumentParser(
        prog=f"sealpod {name}", description=command.HELP, formatter_class=_formatter()
    )
    command.add_arguments(parser)
    adapt = getattr(command, "adapt", None)
    return command.run(parser.parse_args(arguments if adapt is None else adapt(parser, arguments)))


def _split(argv: list[str]) -> tuple[str, list[str]]:
    """The command, its verb included where that has a module of its own, and the arguments."""
    if tuple(argv[:2]) in VERBS:
        return " ".join(argv[:2]), argv[2:]
    return argv[0], argv[1:]


def _formatter() -> Formatter:
    """As wide as the terminal. argparse would ask by a module that takes long to import."""
    try:
        columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(1).columns or _COLUMNS
    except (ValueError, OSError):
        columns = _COLUMNS

    def formatter(prog: str) -> argparse.HelpFormatter:
        return argparse.RawDescriptionHelpFormatter(prog, width=max(columns - 2, _NARROWEST))

    return formatter


def _report(error: SealpodError) -> int:
    # The exit status tells, even where nothing takes the text.
    with suppress(OSError):
        print(f"sealpod: error: {error.one_line()}", file=sys.stderr)
    return error.exit_status


def _prepare_streams() -> None:
    """See that whatever is printed finds its place, and never a file that a command opens."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the caller closed it: the next file opened would take its number
            os.open(os.devnull, os.O_WRONLY)
    if sys.stderr is None:
        # print() takes None for standard output.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process runs
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name need not be text, and not every terminal has every character.
        utf8 = sys.stdout.encoding.lower() in ("utf-8", "utf8")
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def _drop(stream: int) -> None:
    """Let nothing more be written where it cannot be: the interpreter would try again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)


def _run(argv: list[str]) -> int:
    """The command's exit status, or that of its error, which is printed."""
    try:
        status = dispatch(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except SealpodError as error:
        return _report(error)
    except KeyboardInterrupt:
        return _report(InterruptError("interrupted"))
    except BrokenPipeError:
        # The reader of our output went away (`sealpod ... | head`); nothing is left to say.
        _drop(1)
        return 1
    except OSError as error:
        # One that names a file is about that file.
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        _drop(1)
        text = f"cannot write the output: {error.strerror}"
        return _report(OperationError(text, code="output.failed", remedy="make room where it goes"))


def main() -> int:
    """Console entry point."""
    _prepare_streams()
    status = _run(sys.argv[1:])
    try:
        sys.stderr.flush()
    except OSError:
        _drop(2)
    return status


if __name__ == "__main__":
    sys.exit(main())
