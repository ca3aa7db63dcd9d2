# SPDX-License-Identifier: Apache-2.0
"""Fields of Protocol Buffers messages on the wire (protobuf.dev, "Encoding").

A field is a tag (number and wire type) and a number of at most ten bytes, or a length and so many bytes, or
four or eight bytes. Only :class:`DecodeError` is raised.
"""

from __future__ import annotations

from typing import Final

from sealpod.errors import DecodeError

VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
SCALARS: Final[dict[str, object]] = {
    "string": "",
    "bytes": b"",
    "bool": False,
    "uint32": 0,
    "uint64": 0,
    "int32": 0,
    "int64": 0,
    "enum": 0,
}
LENGTH_DELIMITED = ("string", "bytes")
# A field number has 29 bits, a length 31; both are written in at most five bytes (protobuf's encoding).
MAX_TAG: Final = (1 << 32) - 1
_MAX_SIZE: Final = (1 << 31) - 1


class Field:
    """One field of a table: its number, type, and how often it may stand."""

    __slots__ = ("kind", "label", "name", "number")

    def __init__(self, text: str) -> None:
        self.name, _, rest = text.partition("=")
        number, _, kind = rest.partition(":")
        self.number = int(number)
        self.label = kind[0] if kind[0] in "*?" else ""
        self.kind = kind.lstrip("*?")

    @property
    def is_message(self) -> bool:
        return self.kind not in SCALARS and self.kind != "map"


def varint(data: bytes, position: int, *, length: int = 10, limit: int = 0) -> tuple[int, int]:
    """A number of at most ``length`` bytes and where it ends; above ``limit`` (0: none) it is malformed."""
    value = shift = 0
    while True:
        if position >= len(data):
            raise DecodeError("a message ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift >= 7 * length:
            raise DecodeError(f"a message holds a number of more than {length} bytes")
    if limit and value > limit:
        raise DecodeError(f"a message holds a number above {limit}")
    return value & 0xFFFF_FFFF_FFFF_FFFF, position  # ten bytes hold more than the 64 bits that count


def raw_value(data: bytes, position: int, wire_type: int) -> tuple[int | bytes, int]:
    """The undecoded value: an integer, or the bytes of a length-delimited or fixed-width one."""
    if wire_type == VARINT:
        return varint(data, position)
    if wire_type == _BYTES:
        size, position = varint(data, position, length=5, limit=_MAX_SIZE)
    elif wire_type in (_FIXED64, _FIXED32):
        size = 8 if wire_type == _FIXED64 else 4
    else:
        raise DecodeError(f"a message field has wire type {wire_type}")
    if size > len(data) - position:
        raise DecodeError("a message field is longer than its message")
    return data[position : position + size], position + size


def bytes_of(field: Field, raw: int | bytes) -> bytes:
    """:raise DecodeError: the field came as a number."""
    if not isinstance(raw, bytes):
        raise DecodeError(f"message field {field.name} has the wrong wire type")
    return raw


def scalar(field: Field, raw: int | bytes) -> object:
    """A value that is no message. Raises :class:`DecodeError` when it came in another form."""
    if field.kind in LENGTH_DELIMITED:
        value = bytes_of(field, raw)
        return value if field.kind == "bytes" else _text(field, value)
    if not isinstance(raw, int):
        raise DecodeError(f"message field {field.name} has the wrong wire type")
    if field.kind == "bool":
        return raw != 0
    bits = 64 if field.kind.endswith("64") else 32
    raw &= (1 << bits) - 1
    return raw - (1 << bits) if field.kind[0] != "u" and raw >> (bits - 1) else raw


def _text(field: Field, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise DecodeError(f"message field {field.name} is not UTF-8") from exc


def packed_values(field: Field, raw: bytes) -> list[object]:
    """The numbers of a repeated field that came in one piece."""
    values, position = [], 0
    while position < len(raw):
        number, position = varint(raw, position)
        values.append(scalar(field, number))
    return values


def put_varint(out: bytearray, value: int) -> None:
    """Add a number; of a negative one, its 64 bits."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_bytes(out: bytearray, number: int, value: bytes) -> None:
    """Add a length-delimited field."""
    put_varint(out, number << 3 | _BYTES)
    put_varint(out, len(value))
    out += value
