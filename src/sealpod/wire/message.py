# SPDX-License-Identifier: Apache-2.0
"""Protocol Buffers messages from a table of fields: the part of proto3 our guest speaks.

The host uses the generated modules in :mod:`sealpod.wire.pb`. In the guest, importing the protobuf library
costs a second of emulated boot and its bytes are measured, so the guest decodes with this file instead.
A test compares every table with the generated descriptors and every encoding with the library's.

A table is text, one message per line (a line that starts with a blank goes on)::

    WaitProcessRequest container_id=1:string exec_id=2:string
    Spec Version=1:string Mounts=5:*Mount Annotations=7:map

Types: ``string bytes bool uint32 uint64 int32 int64 enum``, ``map`` (string to string), or the name of
another message of the same table; ``*`` means repeated, ``?`` means that presence counts even at zero.
Unknown fields are skipped, as proto3 wants. Left out: floats, fixed-width fields and groups as known
fields, extensions, other maps.
"""

from __future__ import annotations

from typing import Any, Final

from sealpod.errors import DecodeError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SCALARS: Final[dict[str, object]] = {
    "string": "",
    "bytes": b"",
    "bool": False,
    "uint32": 0,
    "uint64": 0,
    "int32": 0,
    "int64": 0,
    "enum": 0,
}
_LENGTH_DELIMITED = ("string", "bytes")
# A field number has 29 bits, a length 31; both are written in at most five bytes (protobuf's encoding).
_MAX_TAG: Final = (1 << 32) - 1
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
        return self.kind not in _SCALARS and self.kind != "map"


class Message:
    """A message's values by field name. An unset field reads as its default, as in proto3."""

    __slots__ = ("_name", "_schema", "_values")

    def __init__(self, schema: Schema, name: str, values: dict[str, Any]) -> None:
        object.__setattr__(self, "_schema", schema)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_values", values)

    def has(self, name: str) -> bool:
        """Whether the field was set or stood on the wire."""
        return name in self._values

    def __getattr__(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        field = self._schema.fields(self._name).get(name)
        if field is None:
            raise AttributeError(f"{self._name} has no field {name}")
        if field.label == "*":
            return self._values.setdefault(name, [])
        if field.kind == "map":
            return self._values.setdefault(name, {})
        return _SCALARS[field.kind] if field.kind in _SCALARS else Message(self._schema, field.kind, {})

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self._schema.fields(self._name):
            raise AttributeError(f"{self._name} has no field {name}")
        self._values[name] = value

    def __repr__(self) -> str:
        # Values may be anything a caller sent; names are enough to find a mistake.
        return f"{self._name}({', '.join(sorted(self._values))})"

    def encode(self) -> bytes:
        """Wire bytes, fields in the order of their numbers."""
        out = bytearray()
        for field in self._schema.fields(self._name).values():
            if field.name in self._values:
                _encode_field(out, field, self._values[field.name])
        return bytes(out)


class Schema:
    """A table of messages. Lines are parsed when first needed, so that unused messages cost nothing."""

    def __init__(self, text: str) -> None:
        joined = text.replace("\n ", " ")
        lines = (line.partition(" ") for line in joined.split("\n") if line)
        self._lines = {name: fields for name, _, fields in lines}
        self._fields: dict[str, dict[str, Field]] = {}
        self._numbers: dict[str, dict[int, Field]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all messages."""
        return tuple(self._lines)

    def fields(self, name: str) -> dict[str, Field]:
        """Fields of one message by name, in the order of their numbers."""
        if name not in self._fields:
            fields = [Field(part) for part in self._lines[name].split()]
            fields.sort(key=lambda field: field.number)
            self._fields[name] = {field.name: field for field in fields}
            self._numbers[name] = {field.number: field for field in fields}
        return self._fields[name]

    def new(self, name: str, /, **values: Any) -> Message:
        """A message with the given fields set."""
        message = Message(self, name, {})
        for field, value in values.items():
            setattr(message, field, value)
        return message

    def decode(self, name: str, data: bytes) -> Message:
        """The message in ``data``. Raises :class:`DecodeError` for anything that is not its encoding."""
        values: dict[str, Any] = {}
        self._decode_into(name, values, data)
        return Message(self, name, values)

    def _decode_into(self, name: str, values: dict[str, Any], data: bytes) -> None:
        self.fields(name)
        numbers = self._numbers[name]
        position = 0
        while position < len(data):
            tag, position = _varint(data, position, length=5, limit=_MAX_TAG)
            raw, position = _raw(data, position, tag & 7)
            if not tag >> 3:
                raise DecodeError("a message field has number 0")
            field = numbers.get(tag >> 3)
            if field is not None:
                self._store(field, values, raw)

    def _store(self, field: Field, values: dict[str, Any], raw: int | bytes) -> None:
        if field.kind == "map":
            entry = _MAP_ENTRY.decode("Entry", _bytes(field, raw))
            values.setdefault(field.name, {})[entry.key] = entry.value
        elif field.is_message:
            self._store_message(field, values, _bytes(field, raw))
        elif field.label != "*":
            values[field.name] = _scalar(field, raw)
        elif isinstance(raw, bytes) and field.kind not in _LENGTH_DELIMITED:
            values.setdefault(field.name, []).extend(_packed(field, raw))
        else:
            values.setdefault(field.name, []).append(_scalar(field, raw))

    def _store_message(self, field: Field, values: dict[str, Any], raw: bytes) -> None:
        if field.label == "*":
            values.setdefault(field.name, []).append(self.decode(field.kind, raw))
            return
        # A singular message that stands twice is merged (protobuf encoding, "last one wins" for scalars).
        known = values.setdefault(field.name, Message(self, field.kind, {}))
        self._decode_into(field.kind, known._values, raw)


def _varint(data: bytes, position: int, *, length: int = 10, limit: int = 0) -> tuple[int, int]:
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


def _raw(data: bytes, position: int, wire_type: int) -> tuple[int | bytes, int]:
    """The undecoded value: an integer, or the bytes of a length-delimited or fixed-width one."""
    if wire_type == _VARINT:
        return _varint(data, position)
    if wire_type == _BYTES:
        size, position = _varint(data, position, length=5, limit=_MAX_SIZE)
    elif wire_type in (_FIXED64, _FIXED32):
        size = 8 if wire_type == _FIXED64 else 4
    else:
        raise DecodeError(f"a message field has wire type {wire_type}")
    if size > len(data) - position:
        raise DecodeError("a message field is longer than its message")
    return data[position : position + size], position + size


def _bytes(field: Field, raw: int | bytes) -> bytes:
    if not isinstance(raw, bytes):
        raise DecodeError(f"message field {field.name} has the wrong wire type")
    return raw


def _scalar(field: Field, raw: int | bytes) -> object:
    if field.kind in _LENGTH_DELIMITED:
        value = _bytes(field, raw)
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


def _packed(field: Field, raw: bytes) -> list[object]:
    values, position = [], 0
    while position < len(raw):
        number, position = _varint(raw, position)
        values.append(_scalar(field, number))
    return values


def _put_varint(out: bytearray, value: int) -> None:
    value &= 0xFFFF_FFFF_FFFF_FFFF
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put_bytes(out: bytearray, number: int, value: bytes) -> None:
    _put_varint(out, number << 3 | _BYTES)
    _put_varint(out, len(value))
    out += value


def _encode_field(out: bytearray, field: Field, value: Any) -> None:
    if field.kind == "map":
        for key, text in value.items():
            # A map entry always carries both of its fields.
            _put_bytes(out, field.number, _MAP_ENTRY.new("Entry", key=key, value=text).encode())
    elif field.label != "*":
        if field.label == "?" or field.is_message or value != _SCALARS[field.kind]:
            _encode_one(out, field, value)
    elif field.is_message or field.kind in _LENGTH_DELIMITED:
        for one in value:
            _encode_one(out, field, one)
    elif value:
        packed = bytearray()
        for one in value:
            _put_varint(packed, int(one))
        _put_bytes(out, field.number, bytes(packed))


def _encode_one(out: bytearray, field: Field, value: Any) -> None:
    if field.is_message:
        _put_bytes(out, field.number, value.encode())
    elif field.kind in _LENGTH_DELIMITED:
        _put_bytes(out, field.number, value.encode() if isinstance(value, str) else bytes(value))
    else:
        _put_varint(out, field.number << 3 | _VARINT)
        _put_varint(out, int(value))


_MAP_ENTRY: Final = Schema("Entry key=1:?string value=2:?string")
