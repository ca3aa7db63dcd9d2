# SPDX-License-Identifier: Apache-2.0
"""A vCPU's save area (VMSA) field by field, as sevctl shows it (AMD64 APM 2, table B-4).

A page of 4096 bytes: 0x408 bytes of fields, then zeros, all little-endian. It is what LAUNCH_UPDATE_VMSA
measures for one vCPU of a SEV-ES guest. ``FIELDS`` has the fields in the order of the page, under the names
sevctl's JSON gives them: numbers are numbers, reserved ranges lists of bytes, segments objects.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sealpod.errors import DecodeError

PAGE_SIZE: Final = 4096
MAX_JSON_SIZE: Final = 1 << 16
"""Bytes; a page's own JSON has 6 KiB."""

Value: TypeAlias = "int | list[int] | dict[str, int]"

_SEGMENT = struct.Struct("<HHIQ")
_SEGMENT_PARTS: Final = ("selector", "attrib", "limit", "base")
_BYTES: Final = "bytes"
_SEGMENT_KIND: Final = "segment"
_NUMBERS: Final = {"u8": 1, "u32": 4, "u64": 8}

# Name, kind; "bytes" with their count. The order is the page's.
_LAYOUT: Final = """
es segment, cs segment, ss segment, ds segment, fs segment, gs segment,
gdtr segment, ldtr segment, idtr segment, tr segment,
reserved_1 43, cpl u8, reserved_2 4, efer u64, reserved_3 104, xss u64,
cr4 u64, cr3 u64, cr0 u64, dr7 u64, dr6 u64, rflags u64, rip u64, reserved_4 88, rsp u64, reserved_5 24,
rax u64, star u64, lstar u64, cstar u64, sfmask u64, kernel_gs_base u64,
sysenter_cs u64, sysenter_esp u64, sysenter_eip u64, cr2 u64, reserved_6 32,
g_pat u64, dbgctl u64, br_from u64, br_to u64, last_excp_from u64, last_excp_to u64, reserved_7 72,
spec_ctrl u32, reserved_7b 4, pkru u32, reserved_7a 20, reserved_8 u64,
rcx u64, rdx u64, rbx u64, reserved_9 u64, rbp u64, rsi u64, rdi u64,
r8 u64, r9 u64, r10 u64, r11 u64, r12 u64, r13 u64, r14 u64, r15 u64, reserved_10 16,
sw_exit_code u64, sw_exit_info_1 u64, sw_exit_info_2 u64, sw_scratch u64, reserved_11 56,
xcr0 u64, valid_bitmap 16, x87_state_gpa u64
"""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the page."""

    name: str
    kind: str
    """``u8``, ``u32``, ``u64``, ``segment`` or ``bytes``."""
    offset: int
    size: int

    def read(self, page: bytes | bytearray) -> Value:
        """The field's value in a page."""
        raw = bytes(page[self.offset : self.offset + self.size])
        if self.kind == _SEGMENT_KIND:
            return dict(zip(_SEGMENT_PARTS, _SEGMENT.unpack(raw), strict=True))
        return list(raw) if self.kind == _BYTES else int.from_bytes(raw, "little")

    def encode(self, value: object) -> bytes:
        """The field's bytes.

        :raise DecodeError: not a value this field can have.
        """
        try:
            raw = self._pack(value)
        except (struct.error, OverflowError, ValueError, TypeError, KeyError):
            raise _malformed(f"{self.name} is not a value of this field") from None
        if len(raw) != self.size:
            raise _malformed(f"{self.name} has {len(raw)} of {self.size} bytes")
        return raw

    def _pack(self, value: Any) -> bytes:
        if self.kind == _SEGMENT_KIND:
            if set(value) != set(_SEGMENT_PARTS):
                raise KeyError
            return _SEGMENT.pack(*(_number(value[part]) for part in _SEGMENT_PARTS))
        if self.kind == _BYTES:
            if not isinstance(value, list):
                raise TypeError
            return bytes(_number(byte) for byte in value)
        return _number(value).to_bytes(self.size, "little")


def _number(value: object) -> int:
    # JSON's true is a number for Python.
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _fields() -> Iterator[Field]:
    offset = 0
    for entry in _LAYOUT.replace("\n", " ").split(","):
        name, kind = entry.split()
        if kind.isdigit():
            kind, size = _BYTES, int(kind)
        else:
            size = _SEGMENT.size if kind == _SEGMENT_KIND else _NUMBERS[kind]
        yield Field(name, kind, offset, size)
        offset += size


FIELDS: Final = tuple(_fields())
_BY_NAME: Final = {field.name: field for field in FIELDS}
FIELDS_SIZE: Final = FIELDS[-1].offset + FIELDS[-1].size
"""0x408 bytes."""


def check_page(page: bytes) -> bytes:
    """The page itself.

    :raise DecodeError: not 4096 bytes.
    """
    if len(page) != PAGE_SIZE:
        raise _malformed(f"Expected VMSA length {PAGE_SIZE}, was {len(page)}")
    return page


def decode(page: bytes) -> dict[str, Value]:
    """Every field by name, in the page's order; what lies behind the fields is not shown.

    :raise DecodeError: not 4096 bytes.
    """
    check_page(page)
    return {field.name: field.read(page) for field in FIELDS}


def encode(values: Mapping[str, object]) -> bytes:
    """The page with these fields; fields that are not named are zero.

    :raise DecodeError: a name no field has, or a value its field cannot have.
    """
    return replace(bytes(PAGE_SIZE), values)


def replace(page: bytes, values: Mapping[str, object]) -> bytes:
    """The page with some fields changed; every other byte stays, those behind the fields too.

    :raise DecodeError: a name no field has, or a value its field cannot have.
    """
    changed = bytearray(check_page(page))
    for name, value in values.items():
        field = _BY_NAME.get(name)
        if field is None:
            raise _malformed(f"no field {name[:40]!r}")
        changed[field.offset : field.offset + field.size] = field.encode(value)
    return bytes(changed)


def to_json(page: bytes) -> str:
    """The fields as ``sevctl vmsa show`` prints them: two spaces of indentation, a line per byte.

    :raise DecodeError: not 4096 bytes.
    """
    return json.dumps(decode(page), indent=2)


def from_json(text: str | bytes) -> bytes:
    """The page of such a text.

    :raise DecodeError: not JSON, no object, or not values of these fields.
    """
    if len(text) > MAX_JSON_SIZE:
        raise _malformed(f"{len(text)} bytes of JSON")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed("not JSON") from None
    if not isinstance(values, dict):
        raise _malformed("not an object")
    return encode(values)


def _malformed(message: str) -> DecodeError:
    return DecodeError(message, code="vmsa.malformed")
