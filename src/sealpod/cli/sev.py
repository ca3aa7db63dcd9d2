# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev``: sevctl's commands, and its files. Each command is a function in a module ``sev_*``.

Only the module of the command that was typed is imported: ``sealpod sev --help`` needs none of them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
from collections.abc import Callable, Sequence
from typing import Final

from sealpod.errors import SealpodError

HELP: Final = "Manage an SEV platform; make sessions, measurements and secret packets"

EPILOG: Final = """\
Arguments, files and texts are sevctl's; docs/sev.md lists what differs. Without /dev/sev the commands that
need a platform take the software model, and say so.

An owner's launch by hand:
  sealpod sev export --full chain.cert                        (host)
  sealpod sev session --name vm --verify chain.cert 3         (owner: vm_tik.bin, vm_tek.bin stay here)
  sealpod sev measurement build ... --tik vm_tik.bin          (owner: what the host must answer)
  sealpod sev secret build ... --tik vm_tik.bin --tek vm_tek.bin header payload
"""

# Name, module:function that declares the arguments, one line of help.
COMMANDS: Final[tuple[tuple[str, str, str], ...]] = (
    ("export", "sev_export:declare", "write the platform's certificate chain to a file"),
    ("show", "sev_show:declare", "show the platform's version, flags, identifier or guests"),
    ("ok", "sev_ok:declare", "probe this machine for SEV, and say what to do about what fails"),
    ("verify", "sev_verify:declare", "verify a certificate chain, link by link"),
    ("generate", "sev_owner:declare_generate", "make an owner's OCA certificate and key"),
    ("provision", "sev_owner:declare_provision", "take ownership of the platform with such a certificate"),
    ("reset", "sev_owner:declare_reset", "give the platform a new identity; loses the old one"),
    ("rotate", "sev_owner:declare_rotate", "give the platform a new PDH; loses the old one"),
    ("session", "sev_session:declare", "make a launch session for a platform"),
    ("measurement", "sev_measurement:declare", "calculate the measurement a launch must have"),
    ("secret", "sev_secret:declare", "make a secret packet for a launch"),
    ("vmsa", "sev_vmsa:declare", "build, show and update the pages of vCPUs (SEV-ES)"),
    ("validate", "sev_validate:declare", "verify a guest's attestation report"),
    ("cert", "sev_cert:declare", "show and split certificate files"),
)


class _LazyParser(argparse.ArgumentParser):
    """A parser that declares its arguments when it is used."""

    source = ""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self.source:
            module, function = self.source.split(":")
            self.source = ""
            declare: Callable[[argparse.ArgumentParser], None] = getattr(
                importlib.import_module(f"sealpod.cli.{module}"), function
            )
            declare(self)
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands; each declares its arguments when it is chosen."""
    parser.epilog = EPILOG
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing; the exit status tells")
    commands = parser.add_subparsers(
        dest="action", metavar="COMMAND", required=True, parser_class=_LazyParser
    )
    for name, source, text in COMMANDS:
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.source = source


def run(args: argparse.Namespace) -> int:
    """Run the chosen command."""
    execute: Callable[[argparse.Namespace], int] = args.execute
    if not args.quiet:
        return execute(args)
    with contextlib.ExitStack() as silence:
        nowhere = silence.enter_context(open(os.devnull, "w"))
        silence.enter_context(contextlib.redirect_stdout(nowhere))
        silence.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            return execute(args)
        except SealpodError as error:
            return error.exit_status
