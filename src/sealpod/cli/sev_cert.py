# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev cert``: certificate files shown, and split into the files AMD's sev-tool has."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.sev_common import add_verb, add_verbs, print_result, read_file
from sealpod.errors import DecodeError

if TYPE_CHECKING:
    from sealpod.sev.ca import CaCertificate
    from sealpod.sev.cert import Certificate

SHOW_TEXT: Final = "print each certificate of a file in one line"
SPLIT_TEXT: Final = "write each certificate of a chain to a file of its own"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs and their options."""
    verbs = add_verbs(parser)
    show = add_verb(verbs, "show", SHOW_TEXT, _show)
    show.add_argument("file", metavar="FILE", help="any certificate or chain; - for standard input")
    split = add_verb(verbs, "split", SPLIT_TEXT, _split)
    split.epilog = "Files: pdh.cert, pek.cert, oca.cert, cek.cert, ask.cert, ark.cert."
    split.add_argument("file", metavar="FILE", help="a chain, as `export` writes it")
    split.add_argument("directory", metavar="DIR", nargs="?", default=".", help="where to (default: here)")


def _show(args: argparse.Namespace) -> int:
    from sealpod.sev.certfile import decode_certificates
    from sealpod.sev.text import describe

    certificates = decode_certificates(_read(args.file))
    text = "\n".join(describe(found) for found in certificates)
    print_result(args, text, {"certificates": [_record(found) for found in certificates]})
    return 0


def _split(args: argparse.Namespace) -> int:
    from sealpod.cli.outputs import OutputFile, write_outputs
    from sealpod.sev.certfile import decode_certificates

    certificates = decode_certificates(_read(args.file))
    names = [f"{found.usage.name.lower()}.cert" for found in certificates]
    if len(set(names)) != len(names):
        raise DecodeError("two certificates of one usage are no chain", code="chain.malformed")
    paths = [os.path.normpath(os.path.join(args.directory, name)) for name in names]
    data = (found.encode() for found in certificates)
    write_outputs([OutputFile(path, content) for path, content in zip(paths, data, strict=True)])
    print_result(args, "\n".join(paths), {"files": paths})
    return 0


def _read(path: str) -> bytes:
    return read_file("/dev/stdin" if path == "-" else path)


def _record(found: Certificate | CaCertificate) -> dict[str, Any]:
    import hashlib

    from sealpod.sev.ca import CaCertificate
    from sealpod.sev.text import body_hash, describe

    record: dict[str, Any] = {
        "usage": found.usage.name,
        "algorithm": found.algorithm.name,
        "text": describe(found),
        "bodyHash": body_hash(found),
        "sha256": hashlib.sha256(found.encode()).hexdigest(),
    }
    if isinstance(found, CaCertificate):
        return {**record, "keyId": found.key_id.hex(), "certifyingId": found.certifying_id.hex()}
    api = f"{found.api[0]}.{found.api[1]}"
    return {
        **record,
        "api": api,
        "signedBy": [_signer(slot.usage) for slot in found.signatures if slot.algorithm],
    }


def _signer(usage: int) -> str:
    from sealpod.sev.signature import Usage

    try:
        return Usage(usage).name
    except ValueError:
        return f"{usage:#06x}"
