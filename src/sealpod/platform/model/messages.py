# SPDX-License-Identifier: Apache-2.0
"""Messages between the model's process and its client, one per packet of a private SOCK_SEQPACKET pair.

Layout: header length (u32, little-endian), header (JSON object), then the named binary parts in the order in
which the header lists them. File descriptors travel beside a request as SCM_RIGHTS.

The process speaks first, with serial 0: any number of ``progress`` texts, then either a success ("ready") or
the reason why it cannot start. Afterwards each request gets one response with its serial.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sealpod.errors import DecodeError

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of one message: the largest, a 16 KiB launch secret or an 11.5 KiB chain, fits several times."""

ACCESS: Final = "access"
"""Fault of a response whose error is an ``AccessError``."""

_TEXTS: Final = ("message", "code", "remedy", "fault", "progress")
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Request:
    """One command: its mailbox id, numbers and byte strings by name."""

    serial: int
    command: int
    values: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The packet."""
        head = {"serial": self.serial, "command": self.command, "values": dict(self.values)}
        return _encode(head, self.parts)

    @classmethod
    def decode(cls, packet: bytes) -> Request:
        """:raise DecodeError: anything but what :meth:`encode` writes."""
        head, parts = _decode(packet)
        return cls(_integer(head, "serial"), _integer(head, "command"), _integers(head), parts)


@dataclass(frozen=True, slots=True)
class Response:
    """The answer. ``status`` is the firmware's; a refusal carries its sentence and remedy, never secrets."""

    serial: int
    status: int = 0
    values: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, bytes] = field(default_factory=dict)
    message: str = ""
    code: str = ""
    remedy: str = ""
    fault: str = ""
    """ACCESS when the operating system forbids it; otherwise the fault is the firmware's."""
    progress: str = ""

    def encode(self) -> bytes:
        """The packet."""
        head: dict[str, object] = {"serial": self.serial, "status": self.status, "values": dict(self.values)}
        texts = {name: getattr(self, name) for name in _TEXTS}
        return _encode(head | texts, self.parts)

    @classmethod
    def decode(cls, packet: bytes) -> Response:
        """:raise DecodeError: anything but what :meth:`encode` writes."""
        head, parts = _decode(packet)
        texts = {name: _text(head, name) for name in _TEXTS}
        return cls(_integer(head, "serial"), _integer(head, "status"), _integers(head), parts, **texts)


def _encode(head: Mapping[str, object], parts: Mapping[str, bytes]) -> bytes:
    sizes = [[name, len(data)] for name, data in parts.items()]
    encoded = json.dumps({**head, "parts": sizes}, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(encoded)), encoded, *parts.values()))


def _decode(packet: bytes) -> tuple[dict[str, object], dict[str, bytes]]:
    if not _LENGTH.size <= len(packet) <= MAX_MESSAGE:
        raise DecodeError(f"a message of {len(packet)} bytes")
    (length,) = _LENGTH.unpack_from(packet)
    start = _LENGTH.size + length
    if start > len(packet):
        raise DecodeError("the message ends within its header")
    try:
        head = json.loads(packet[_LENGTH.size : start])
    except (ValueError, RecursionError) as error:
        raise DecodeError("the message's header is not JSON") from error
    if not isinstance(head, dict):
        raise DecodeError("the message's header is not an object")
    return head, _cut(head.get("parts"), packet[start:])


def _cut(sizes: object, payload: bytes) -> dict[str, bytes]:
    parts: dict[str, bytes] = {}
    offset = 0
    for entry in sizes if isinstance(sizes, list) else [None]:
        match entry:
            case [str(name), int(size)] if 0 <= size <= len(payload) - offset and name not in parts:
                parts[name] = payload[offset : offset + size]
                offset += size
            case _:
                raise DecodeError("the message's list of parts does not fit it")
    if offset != len(payload):
        raise DecodeError(f"{len(payload) - offset} bytes of the message belong to no part")
    return parts


def _integer(head: Mapping[str, object], name: str) -> int:
    value = head.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DecodeError(f"the message's {name} is not a number")
    return value


def _integers(head: Mapping[str, object]) -> dict[str, int]:
    values = head.get("values")
    if not isinstance(values, dict):
        raise DecodeError("the message's values are not an object")
    return {name: _integer(values, name) for name in values}


def _text(head: Mapping[str, object], name: str) -> str:
    value = head.get(name)
    if not isinstance(value, str):
        raise DecodeError(f"the message's {name} is not a text")
    return value
