# SPDX-License-Identifier: Apache-2.0
"""A strict reader for the part of DER that AMD's certificates use (ITU-T X.690).

One-byte tags, definite lengths in their shortest form, nothing left over. Every value is a slice of the
input, so what reading costs is bounded by what came in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

_LONG_FORM: Final = 0x80
_HIGH_TAG: Final = 0x1F
_MAX_LENGTH_BYTES: Final = 3  # 16 MiB: more than any certificate


@dataclass(frozen=True, slots=True)
class Element:
    """A tag and its content; ``whole`` has both and the length between them."""

    tag: int
    content: bytes
    whole: bytes


class Reader:
    """Takes elements off the front of ``data``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def at_end(self) -> bool:
        """Whether everything has been taken."""
        return self._offset == len(self._data)

    def peek(self) -> int | None:
        """The next tag, or nothing at the end."""
        return None if self.at_end else self._data[self._offset]

    def take(self, *tags: int) -> Element:
        """The next element, which must have one of ``tags``.

        :raise DecodeError: another tag, or a length that is not strict or goes beyond the end.
        """
        start = self._offset
        tag = self.peek()
        if tag is None or tag & _HIGH_TAG == _HIGH_TAG or tag not in tags:
            raise malformed("an element is missing or of another type")
        size, content = self._length(start + 1)
        end = content + size
        if end > len(self._data):
            raise malformed("an element ends beyond its container")
        self._offset = end
        return Element(tag, self._data[content:end], self._data[start:end])

    def finish(self) -> None:
        """:raise DecodeError: something is left."""
        if not self.at_end:
            raise malformed("bytes are left over")

    def _length(self, offset: int) -> tuple[int, int]:
        """The length that stands at ``offset``, and where the content begins."""
        if offset >= len(self._data):
            raise malformed("an element has no length")
        first = self._data[offset]
        if first < _LONG_FORM:
            return first, offset + 1
        count = first - _LONG_FORM
        digits = self._data[offset + 1 : offset + 1 + count]
        size = int.from_bytes(digits, "big")
        if not 0 < count <= _MAX_LENGTH_BYTES or len(digits) != count:
            raise malformed("an element has an impossible length")
        if size < _LONG_FORM or digits[0] == 0:
            raise malformed("a length is not in its shortest form")
        return size, offset + 1 + count


def elements(data: bytes, *tags: int) -> Iterator[Element]:
    """All elements of ``data``, each of one of ``tags``. :raise DecodeError: as :meth:`Reader.take`."""
    reader = Reader(data)
    while not reader.at_end:
        yield reader.take(*tags)


def only(data: bytes, *tags: int) -> Element:
    """The one element ``data`` consists of. :raise DecodeError: there is more, less or another."""
    reader = Reader(data)
    element = reader.take(*tags)
    reader.finish()
    return element


def oid(dotted: str) -> bytes:
    """The content of an object identifier: ``oid("2.5.4.3")`` is ``55 04 03``."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    out = bytearray()
    for number in (40 * first + second, *rest):
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        out += bytes(reversed(digits))
    return bytes(out)


def small_integer(data: bytes, limit: int) -> int:
    """The one INTEGER in ``data``, 0 to ``limit``. :raise DecodeError: anything else."""
    content = only(data, INTEGER).content
    if not content or len(content) > 9 or (len(content) > 1 and content[0] == 0 and content[1] < 0x80):
        raise malformed("an integer is empty, too long or not in its shortest form")
    value = int.from_bytes(content, "big", signed=True)
    if not 0 <= value <= limit:
        raise malformed(f"a number is not 0 to {limit}")
    return value


def malformed(message: str) -> DecodeError:
    """The error for what is not such a certificate."""
    return DecodeError(f"not an X.509 certificate of AMD's: {message}", code="snp.certificate")
