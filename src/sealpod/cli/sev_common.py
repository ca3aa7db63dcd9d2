# SPDX-License-Identifier: Apache-2.0
"""What the ``sealpod sev`` commands share: options, input by path or base64, numbers, printing."""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from sealpod.errors import (
    AccessError,
    FirmwareError,
    NotFoundError,
    OperationError,
    SealpodError,
    UsageError,
)

if TYPE_CHECKING:
    from sealpod.platform.port import Platform
    from sealpod.secret import SecretBytes

Action = Callable[[argparse.Namespace], int]
Verbs: TypeAlias = "argparse._SubParsersAction[Any]"
Result = TypeVar("Result")
Error = TypeVar("Error", bound=SealpodError)

SCHEMA_VERSION: Final = 1
TEK: Final = "--tek"
SMALL_FILE: Final = 1 << 16
"""Bytes read of a file that holds certificates, keys or a packet; the longest chain has 11536."""
LARGE_FILE: Final = 1 << 30
"""Bytes read of a firmware, kernel or initrd."""
# What sevctl says of a platform that fails at it.
EXPORTING: Final = "unable to export SEV certificates"
ASKING_STATUS: Final = "unable to fetch platform status"
ASKING_IDENTIFIER: Final = "error fetching identifier"
MODEL_NOTE: Final = (
    "this is the software model: it protects nothing from the owner of this machine; "
    "let a key broker trust its ARK for trials only"
)


def add_output(parser: argparse.ArgumentParser, execute: Action) -> None:
    """What every command has: ``-o``, and the function it runs."""
    parser.set_defaults(execute=execute)
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="what to print (default: text)"
    )


def add_platform(parser: argparse.ArgumentParser) -> None:
    """Which SEV firmware a command asks."""
    parser.add_argument(
        "--platform",
        choices=("auto", "model", "device"),
        default="auto",
        help="SEV firmware to ask: /dev/sev, the software model, or whichever is there (default: auto)",
    )
    parser.add_argument("--platform-state", metavar="DIR", help="where the software model keeps its keys")


def add_verbs(parser: argparse.ArgumentParser) -> Verbs:
    """A place for a command's verbs."""
    return parser.add_subparsers(dest="verb", metavar="VERB", required=True)


def add_verb(
    verbs: Verbs, name: str, text: str, execute: Action, epilog: str = ""
) -> argparse.ArgumentParser:
    """A verb, described by a sentence without its stop."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_output(parser, execute)
    return parser


def on_platform(
    args: argparse.Namespace, work: Callable[[Platform], Coroutine[Any, Any, Result]]
) -> tuple[str, Result]:
    """Open the platform the options name, do ``work`` with it, close it: its kind and the result."""
    from sealpod.cli.aio import run_async

    async def opened() -> tuple[str, Result]:
        platform = await _open(args)
        try:
            return platform.kind, await work(platform)
        finally:
            await platform.close()

    kind, result = run_async(opened())
    if kind == "model":
        note(MODEL_NOTE)
    return kind, result


async def _open(args: argparse.Namespace) -> Platform:
    from sealpod.platform.open import open_platform

    try:
        return await open_platform(args.platform, args.platform_state, progress=note)
    except (NotFoundError, AccessError) as error:
        if args.platform != "device":
            raise
        remedy = "`sealpod sev ok` says what to do"
        raise type(error)(error.message, code=error.code, remedy=remedy) from error


async def step(context: str, work: Awaitable[Result], *, remedies: Mapping[str, str] = {}) -> Result:
    """Let a platform's failure be told under the sentence sevctl has for the step.

    ``remedies`` has better advice than the error's own, by its code.
    """
    try:
        return await work
    except SealpodError as error:
        raise failure(context, error, remedies.get(error.code)) from error


def failure(context: str, error: Error, remedy: str | None = None) -> Error:
    """The same error under the sentence sevctl has for it."""
    text, more = f"{context}: {error.message}", error.remedy if remedy is None else remedy
    if isinstance(error, FirmwareError):
        return type(error)(text, status=error.status, code=error.code, remedy=more)
    return type(error)(text, code=error.code, remedy=more)


def note(text: str) -> None:
    """A sentence for whoever watches; nothing depends on its being taken."""
    with suppress(OSError):
        print(f"sealpod: {text}", file=sys.stderr)


def print_result(args: argparse.Namespace, text: str, record: dict[str, Any]) -> None:
    """The result as text (nothing when empty) or as JSON with its ``schemaVersion``."""
    if args.output == "json":
        print(json.dumps({"schemaVersion": SCHEMA_VERSION, **record}, indent=2))
    elif text:
        print(text)


def read_file(path: str, limit: int = SMALL_FILE, *, what: str = "") -> bytes:
    """A file of at most ``limit`` bytes. ``what`` is told when it cannot be read: ``couldn't open PDH``.

    :raise NotFoundError: AccessError: or OperationError: it cannot be read, or is larger.
    """
    name = f"{what} {path}" if what else path
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {name}", code="file.missing") from None
    except PermissionError:
        raise AccessError(f"no permission to read {name}", code="file.permission") from None
    except OSError as error:
        raise OperationError(f"cannot read {name}: {error.strerror}", code="file.unreadable") from None
    if len(data) > limit:
        raise OperationError(f"{name} is larger than {limit} bytes", code="file.large")
    return data


def base64_or_path(option: str, value: str) -> bytes:
    """What an option gives: the content of a file when there is one of that name, else base64.

    The value is not part of any message: it may be a key.

    :raise UsageError: neither. Also as :func:`read_file`.
    """
    if os.path.exists(value):
        return read_file(value)
    return from_base64(option, value)


def from_base64(option: str, value: str) -> bytes:
    """:raise UsageError: not base64."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(
            f"failed to base64 decode {option}",
            code="sev.base64",
            remedy="give the name of a file, or base64",
        ) from None


def key_argument(option: str, value: str) -> SecretBytes:
    """A transport key, 16 bytes, from a file or base64; or its half of sev-tool's ``tmp_tk.bin``: TEK, TIK.

    :raise UsageError: another length. Also as :func:`base64_or_path`.
    """
    from sealpod.secret import SecretBytes
    from sealpod.sev.session import KEY_SIZE

    found = base64_or_path(option, value)
    if not os.path.exists(value):
        note(f"{option} is on the command line, where others on this machine can read it; a file is safer")
    if len(found) == 2 * KEY_SIZE:
        found = found[:KEY_SIZE] if option == TEK else found[KEY_SIZE:]
    if len(found) != KEY_SIZE:
        raise UsageError(f"{option} has {len(found)} bytes, not {KEY_SIZE}", code="session.keys")
    return SecretBytes(found)


def number_argument(option: str, value: str) -> int:
    """A 32-bit number, decimal or ``0x``.

    :raise UsageError: anything else.
    """
    text = value.lower()
    digits, base = (text[2:], 16) if text.startswith("0x") else (text, 10)
    try:
        number = int(digits, base) if digits.isascii() and digits.isalnum() and len(digits) <= 10 else -1
    except ValueError:
        number = -1
    if not 0 <= number <= 0xFFFF_FFFF:
        raise UsageError(f"{option}={value[:40]} value must be int or hex", code="sev.number")
    return number
