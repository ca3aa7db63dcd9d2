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
from sealpod.wire.field import (
    LENGTH_DELIMITED,
    MAX_TAG,
    SCALARS,
    VARINT,
    Field,
    bytes_of,
    packed_values,
    put_bytes,
    put_varint,
    raw_value,
    scalar,
    varint,
)


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
        return SCALARS[field.kind] if field.kind in SCALARS else Message(self._schema, field.kind, {})

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
            tag, position = varint(data, position, length=5, limit=MAX_TAG)
            raw, position = raw_value(data, position, tag & 7)
            if not tag >> 3:
                raise DecodeError("a message field has number 0")
            field = numbers.get(tag >> 3)
            if field is not None:
                self._store(field, values, raw)

    def _store(self, field: Field, values: dict[str, Any], raw: int | bytes) -> None:
        if field.kind == "map":
            entry = _MAP_ENTRY.decode("Entry", bytes_of(field, raw))
            values.setdefault(field.name, {})[entry.key] = entry.value
        elif field.is_message:
            self._store_message(field, values, bytes_of(field, raw))
        elif field.label != "*":
            values[field.name] = scalar(field, raw)
        elif isinstance(raw, bytes) and field.kind not in LENGTH_DELIMITED:
            values.setdefault(field.name, []).extend(packed_values(field, raw))
        else:
            values.setdefault(field.name, []).append(scalar(field, raw))

    def _store_message(self, field: Field, values: dict[str, Any], raw: bytes) -> None:
        if field.label == "*":
            values.setdefault(field.name, []).append(self.decode(field.kind, raw))
            return
        # A singular message that stands twice is merged (protobuf encoding, "last one wins" for scalars).
        known = values.setdefault(field.name, Message(self, field.kind, {}))
        self._decode_into(field.kind, known._values, raw)


def _encode_field(out: bytearray, field: Field, value: Any) -> None:
    if field.kind == "map":
        for key, text in value.items():
            # A map entry always carries both of its fields.
            put_bytes(out, field.number, _MAP_ENTRY.new("Entry", key=key, value=text).encode())
    elif field.label != "*":
        if field.label == "?" or field.is_message or value != SCALARS[field.kind]:
            _encode_one(out, field, value)
    elif field.is_message or field.kind in LENGTH_DELIMITED:
        for one in value:
            _encode_one(out, field, one)
    elif value:
        packed = bytearray()
        for one in value:
            put_varint(packed, int(one))
        put_bytes(out, field.number, bytes(packed))


def _encode_one(out: bytearray, field: Field, value: Any) -> None:
    if field.is_message:
        put_bytes(out, field.number, value.encode())
    elif field.kind in LENGTH_DELIMITED:
        put_bytes(out, field.number, value.encode() if isinstance(value, str) else bytes(value))
    else:
        put_varint(out, field.number << 3 | VARINT)
        put_varint(out, int(value))


_MAP_ENTRY: Final = Schema("Entry key=1:?string value=2:?string")
