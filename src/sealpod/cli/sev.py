# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev``: the platform's certificates, as sevctl writes them, and what identifies the platform."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sealpod.errors import AccessError, NotFoundError, OperationError, SealpodError, UsageError

if TYPE_CHECKING:
    from sealpod.platform.port import Platform, PlatformStatus
    from sealpod.sev.chain import Chain

HELP: Final = "Export the platform's certificates"

EPILOG: Final = """\
The certificates are written one after the other, in sevctl's order: PDH, PEK, OCA, CEK, with --full also
ASK and ARK. The SHA-256 of the ARK's bytes, printed beside, is what a key broker is told to trust:

  sealpod sev export --full platform.cert
  sealpod kbs serve --trust-ark SHA256 ...
"""

_PUBLIC_FILE: Final = 0o644
_SCHEMA_VERSION: Final = 1
_MODEL_NOTE: Final = (
    "this chain is from the software model: it protects nothing from the owner of this machine; "
    "let a key broker trust its ARK for trials only"
)


@dataclass(frozen=True, slots=True)
class _Exported:
    kind: str
    chain: Chain
    identifier: bytes
    status: PlatformStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", required=True)
    export = commands.add_parser(
        "export",
        help="write the platform's certificate chain to a file",
        description="Write the platform's certificate chain to a file.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("destination", metavar="DEST", help="file to write")
    export.add_argument("-f", "--full", action="store_true", help="append ASK and ARK")
    export.add_argument(
        "--platform",
        choices=("auto", "model", "device"),
        default="auto",
        help="SEV firmware to ask; auto takes the software model",
    )
    export.add_argument("--platform-state", metavar="DIR", help="where the software model keeps its keys")
    export.add_argument("-o", "--output", choices=("text", "json"), default="text", help="what to print")


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand (there is one)."""
    from sealpod.cli.aio import run_async

    _check_platform(args.platform)
    exported = run_async(_ask(args.platform_state))
    data = _certificates(exported.chain, full=args.full)
    _write_atomically(args.destination, data)
    if exported.kind == "model":
        _note(_MODEL_NOTE)
    if args.output == "json":
        print(json.dumps(_report(args, exported, len(data)), indent=2))
    else:
        print(_text(args, exported, len(data)))
    return 0


def _check_platform(name: str) -> None:
    if name == "device":
        raise UsageError(
            "the driver for /dev/sev is not part of this version",
            code="platform.device",
            remedy="use --platform model",
        )


async def _ask(state_dir: str | None) -> _Exported:
    from sealpod.platform.model import open_model
    from sealpod.platform.model.paths import default_state_dir

    platform = await open_model(state_dir or default_state_dir(), progress=_note)
    try:
        return await _collect(platform)
    finally:
        await platform.close()


async def _collect(platform: Platform) -> _Exported:
    from sealpod.sev.chain import Chain, verify_chain

    chain = Chain.decode(await platform.certificate_chain())
    # Only that the links hold: whether to trust the root is for whoever reads the fingerprint.
    verify_chain(chain, {chain.ark.sha256: platform.kind})
    return _Exported(platform.kind, chain, await platform.identifier(), await platform.status())


def _certificates(chain: Chain, *, full: bool) -> bytes:
    parts = [chain.pdh.encode(), chain.pek.encode(), chain.oca.encode(), chain.cek.encode()]
    if full:
        parts += [chain.ask.encode(), chain.ark.encode()]
    return b"".join(parts)


def _names(*, full: bool) -> list[str]:
    return ["PDH", "PEK", "OCA", "CEK", *(("ASK", "ARK") if full else ())]


def _report(args: argparse.Namespace, exported: _Exported, size: int) -> dict[str, object]:
    version = exported.status.version
    return {
        "schemaVersion": _SCHEMA_VERSION,
        "platform": exported.kind,
        "identifier": exported.identifier.hex(),
        "firmware": {"api": f"{version.api_major}.{version.api_minor}", "build": version.build},
        "arkSha256": exported.chain.ark.sha256,
        "file": os.path.abspath(args.destination),
        "bytes": size,
        "certificates": _names(full=args.full),
    }


def _text(args: argparse.Namespace, exported: _Exported, size: int) -> str:
    lines = (
        ("file", f"{args.destination} ({', '.join(_names(full=args.full))}; {size} bytes)"),
        ("platform", exported.kind),
        ("firmware", str(exported.status.version)),
        ("identifier", exported.identifier.hex()),
        ("ARK SHA-256", exported.chain.ark.sha256),
    )
    return "\n".join(f"{name + ':':<13}{value}" for name, value in lines)


def _write_atomically(path: str, data: bytes) -> None:
    target = os.path.abspath(path)
    temporary = ""
    try:
        fd, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=f".{os.path.basename(target)}.")
        with open(fd, "wb") as file:
            os.fchmod(fd, _PUBLIC_FILE)
            file.write(data)
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise _unwritable(path, error) from error


def _unwritable(path: str, error: OSError) -> SealpodError:
    text = f"cannot write {path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return AccessError(text, code="output.access", remedy="choose a directory you may write to")
    if isinstance(error, FileNotFoundError):
        return NotFoundError(text, code="output.directory", remedy="create the directory first")
    return OperationError(text, code="output.failed", remedy="choose another file")


def _note(text: str) -> None:
    print(f"sealpod: {text}", file=sys.stderr)
