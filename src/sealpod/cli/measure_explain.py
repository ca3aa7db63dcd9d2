# SPDX-License-Identifier: Apache-2.0
"""``sealpod measure explain A B``: which part makes two guests' launch digests differ."""

from __future__ import annotations

import argparse
import json
import os
import re
from typing import TYPE_CHECKING, Final, NoReturn

from sealpod.errors import NotFoundError, SealpodError, UsageError

if TYPE_CHECKING:
    from sealpod.measure.components import Components

HELP: Final = "Name each part in which guest B differs from guest A"

EPILOG: Final = """\
A and B are each one of

  FILE.json           what `sealpod measure -o json` or `sealpod run --dry-run -o json` wrote; - is stdin
  sandbox:ID          a pod that runs on this machine (`sealpod sandbox ls`), or the beginning of its id
  files:OPTIONS       files, by the options of `sealpod measure`; without --mode it is mode sev
  DIGEST              hex or base64: of a pod on this machine, or of a record among --records

  sealpod measure explain reference.json sandbox:4f0c
  sealpod measure explain reference.json "files:--ovmf OVMF.fd --kernel K --initrd I --append 'quiet'"
  sealpod measure explain a.json "files:--kata-config configuration-qemu-sev.toml --pod pod.yaml"

Of a record of several sizes the one that comes closest to the other is taken.

Exit status: 0 nothing differs; 3 something does; 1, 2, 4 as of `sealpod measure`.
"""

_SANDBOX: Final = "sandbox:"
_FILES: Final = "files:"
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{96}", re.ASCII)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{64}", re.ASCII)
_MAX_RECORDS: Final = 10_000
"""Files of --records that are read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("a", metavar="A", help="the reference")
    parser.add_argument("b", metavar="B", help="what is to be explained")
    parser.add_argument(
        "--records", metavar="DIR", help="directory of records (*.json) in which a bare digest is looked for"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="what to print")


def run(args: argparse.Namespace) -> int:
    """Compare and print. Returns the exit status."""
    from sealpod.cli.measure_output import compare
    from sealpod.measure.explain import closest

    if args.a == args.b == "-":
        raise UsageError("standard input can be one file only", code="measure.stdin")
    references, found = _guests(args.a, args.records), _guests(args.b, args.records)
    actual = found[0] if len(found) == 1 else closest(found, references[0])
    return compare(references, actual, args.output)


def _guests(name: str, records: str | None) -> tuple[Components, ...]:
    if name.startswith(_SANDBOX):
        return _of_sandbox(name.removeprefix(_SANDBOX))
    if name.startswith(_FILES):
        return _of_files(name.removeprefix(_FILES))
    digest = _digest(name)
    if digest is not None and not os.path.exists(name):
        return _of_digest(digest, records)
    return _of_record(name)


def _of_record(path: str) -> tuple[Components, ...]:
    from sealpod.cli.measure_input import read_text
    from sealpod.measure.reading import read_guests

    return read_guests(read_text(path))


def _of_sandbox(beginning: str) -> tuple[Components, ...]:
    from sealpod.measure.reading import read_guests
    from sealpod.sandbox.state import SandboxState, sandbox_ids

    ids = [one for one in sandbox_ids() if beginning and one.startswith(beginning)]
    if len(ids) != 1:
        raise NotFoundError(
            f"{len(ids) or 'no'} sandboxes of this machine begin with {beginning!r}",
            code="sandbox.unknown",
            remedy="`sealpod sandbox ls` lists them",
        )
    measured = SandboxState(ids[0]).read().get("measured")
    if measured is None:
        raise NotFoundError(
            f"nothing of sandbox {ids[0]} was measured",
            code="measure.not-confidential",
            remedy="it is a plain virtual machine, or has not been launched yet",
        )
    return read_guests(json.dumps(measured))


def _of_files(text: str) -> tuple[Components, ...]:
    import shlex

    from sealpod.cli import measure
    from sealpod.cli.measure_options import add_arguments
    from sealpod.cli.measure_tool import adapt

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"files: {error}", code="measure.files") from error
    if not any(word.startswith(("--mode", "--kata-config")) for word in words):
        words = ["--mode", "sev", *words]
    parser = _Parser(prog="files:", add_help=False)
    add_arguments(parser)
    return measure.measured(parser.parse_args(adapt(parser, words)))


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are errors of this command's argument."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(
            f"files: {message}", code="measure.files", remedy="give the options of `sealpod measure`"
        )

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        self.error("an option that prints something names no guest")


def _digest(text: str) -> str | None:
    """The hex digits of a digest in either form."""
    if _HEX.fullmatch(text):
        return text.lower()
    if _BASE64.fullmatch(text):
        from base64 import b64decode

        return b64decode(text).hex()
    return None


def _of_digest(digest: str, records: str | None) -> tuple[Components, ...]:
    from sealpod.measure.reading import read_guests
    from sealpod.sandbox.state import SandboxState, sandbox_ids

    for one in sandbox_ids():
        try:
            record = SandboxState(one).read()
            if record.get("launchDigest") == digest:
                return read_guests(json.dumps(record.get("measured")))
        except SealpodError:  # it went meanwhile, or is of another release
            continue
    for found in _records(records):
        alike = tuple(one for one in found if one.digest == digest)
        if alike:
            return alike
    raise NotFoundError(
        f"nothing is known of the digest {digest}",
        code="measure.unknown-digest",
        remedy="name the record itself, or the directory it is in with --records",
    )


def _records(directory: str | None) -> list[tuple[Components, ...]]:
    """The records of a directory; other files in it are passed over."""
    if directory is None:
        return []
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".json"))
    except OSError as error:
        raise NotFoundError(f"cannot read {directory}: {error.strerror}", code="file.missing") from error
    found = []
    for name in names[:_MAX_RECORDS]:
        try:
            found.append(_of_record(os.path.join(directory, name)))
        except SealpodError:
            continue
    return found
