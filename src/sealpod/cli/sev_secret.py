# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev secret build``: a secret packet for one launch, in sevctl's two files."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Final

from sealpod.cli.sev_common import (
    add_verb,
    add_verbs,
    base64_or_path,
    from_base64,
    key_argument,
    print_result,
    read_file,
)
from sealpod.errors import DecodeError, UsageError

if TYPE_CHECKING:
    from uuid import UUID

    from sealpod.sev.packet import Packet
    from sealpod.sev.session import TransportKeys

EPILOG: Final = """\
The packet opens only in the launch whose measurement it was made for. This command cannot know whether that
launch is the guest you mean. So give it what YOU calculated (`sealpod sev measurement build`), or compare the
two first: a packet made for whatever the platform answered gives the secret to whatever it started.

HEADER and PAYLOAD (raw; QMP's sev-inject-launch-secret takes them as base64) hold nothing that has to be
kept from others.
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb and its options."""
    verbs = add_verbs(parser)
    build = add_verb(verbs, "build", "encrypt secrets for a launch", _run, EPILOG)
    build.add_argument(
        "--tik",
        metavar="FILE|BASE64",
        required=True,
        help="the session's TIK, or sev-tool's tmp_tk.bin; give a file",
    )
    build.add_argument(
        "--tek",
        metavar="FILE|BASE64",
        required=True,
        help="the session's TEK, or sev-tool's tmp_tk.bin; give a file",
    )
    build.add_argument(
        "--launch-measure-blob",
        metavar="FILE|BASE64",
        required=True,
        help="the launch's measurement and nonce, 48 bytes",
    )
    build.add_argument(
        "--secret",
        metavar="GUID:FILE",
        action="append",
        default=[],
        help="a secret under the GUID the guest looks for; may be repeated",
    )
    # A fixed IV is for comparing with known answers only: one IV twice under one TEK gives both secrets away.
    build.add_argument("--iv", help=argparse.SUPPRESS)
    build.add_argument("header", metavar="HEADER", help="file to write the packet's header to")
    build.add_argument("payload", metavar="PAYLOAD", help="file to write the encrypted table to")


def _run(args: argparse.Namespace) -> int:
    from sealpod.cli.outputs import OutputFile, write_outputs
    from sealpod.sev.measurement import Measurement
    from sealpod.sev.session import TransportKeys

    keys = TransportKeys(tek=key_argument("--tek", args.tek), tik=key_argument("--tik", args.tik))
    secrets = [_secret(text) for text in args.secret]
    measurement = Measurement.decode(base64_or_path("--launch-measure-blob", args.launch_measure_blob))
    packet = _packet(keys, secrets, measurement.measure, _iv(args.iv))
    write_outputs([OutputFile(args.header, packet.header), OutputFile(args.payload, packet.data)])
    text = f"Wrote header to: {args.header}\nWrote payload to: {args.payload}"
    record = {
        "header": args.header,
        "payload": args.payload,
        "bytes": len(packet.data),
        "secrets": [str(guid) for guid, _ in secrets],
    }
    print_result(args, text, record)
    return 0


def _packet(keys: TransportKeys, secrets: list[tuple[UUID, bytes]], measure: bytes, iv: bytes) -> Packet:
    from sealpod.sev.measurement import take_owners_word
    from sealpod.sev.packet import MAX_DATA_SIZE
    from sealpod.wire import secrettable

    table = secrettable.encode(secrets)
    if len(table) > MAX_DATA_SIZE:
        raise UsageError(
            f"the secrets need {len(table)} bytes, a packet carries {MAX_DATA_SIZE}",
            code="packet.size",
            remedy="a single secret may have 16344 bytes, each further one takes 20 more than its own",
        )
    return take_owners_word(keys, measure).pack(table, iv=iv)


def _secret(text: str) -> tuple[UUID, bytes]:
    from sealpod.sev.packet import MAX_DATA_SIZE
    from sealpod.wire.guid import parse_guid

    guid, colon, path = text.partition(":")
    if not colon:
        raise UsageError("Unexpected --secret format", remedy="write it as GUID:FILE")
    try:
        parsed = parse_guid(guid)
    except DecodeError:
        raise UsageError(f"failed to parse string as UUID: {guid[:48]}") from None
    return parsed, read_file(path, MAX_DATA_SIZE, what="secret path")


def _iv(text: str | None) -> bytes:
    from sealpod.sev.packet import IV_SIZE

    return os.urandom(IV_SIZE) if text is None else from_base64("--iv", text)
