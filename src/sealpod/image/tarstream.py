# SPDX-License-Identifier: Apache-2.0
"""Tar archives as a stream of entries; the headers' form is :mod:`sealpod.image.tarheader`.

Why not :mod:`tarfile`: in stream mode it takes a damaged header for the end of the archive, and in a guest
its import and its per-entry cost are felt. Blocks of zeros are skipped wherever they stand (archives
may be concatenated); the archive ends where the stream ends. Global pax headers are ignored as Go's reader
does. Only :class:`DecodeError` is raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sealpod.image.ports import CHUNK, ByteStream
from sealpod.image.tarheader import (
    BLOCK,
    GNU_LONG_LINK,
    GNU_LONG_NAME,
    PAX,
    PAX_GLOBAL,
    Entry,
    bad_archive,
    check_sum,
    decode_entry,
    number,
    parse_pax,
)

MAX_EXTENDED: Final = 1024 * 1024  # bytes of one pax header or long name; xattrs are at most 64 KiB each
_ZEROS: Final = bytes(BLOCK)


class TarReader:
    """Iterate for the entries; ``read`` gives the content of the current one."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = b""
        self._position = 0
        self._content = 0  # bytes of the current entry not read yet
        self._padding = 0  # bytes after the current entry's content

    def __iter__(self) -> Iterator[Entry]:
        pax: dict[bytes, bytes] = {}
        long: dict[bytes, bytes] = {}
        while (block := self._next_header()) is not None:
            kind = block[156:157]
            if kind == PAX:
                pax = parse_pax(self._extended(block))
            elif kind in (GNU_LONG_NAME, GNU_LONG_LINK):
                long[kind] = self._extended(block).split(b"\0", 1)[0]
            elif kind == PAX_GLOBAL:
                self._extended(block)
            else:
                entry = decode_entry(block, pax, long)
                pax, long = {}, {}
                self._content = entry.size
                self._padding = -entry.size % BLOCK
                yield entry
        if pax or long:
            raise bad_archive("it ends after an extended header")

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes of the current entry's content; empty at its end."""
        wanted = min(size, self._content)
        if wanted == 0:
            return b""
        data = self._some(wanted)
        if not data:
            raise bad_archive("it ends in the middle of a file")
        self._content -= len(data)
        return data

    def _next_header(self) -> bytes | None:
        self._skip_content()
        while True:
            block = self._exactly(BLOCK)
            if not block:
                return None
            if block != _ZEROS:
                check_sum(block)
                return block

    def _skip_content(self) -> None:
        while self._content:
            self.read(CHUNK)
        if len(self._exactly(self._padding)) != self._padding:
            raise bad_archive("it ends in the middle of a file")
        self._padding = 0

    def _extended(self, block: bytes) -> bytes:
        size = number(block[124:136], "size")
        if size > MAX_EXTENDED:
            raise bad_archive(f"an extended header of {size} bytes, more than the limit of {MAX_EXTENDED}")
        data = self._exactly(size)
        if len(data) != size or len(self._exactly(-size % BLOCK)) != -size % BLOCK:
            raise bad_archive("it ends in the middle of an extended header")
        return data

    def _exactly(self, size: int) -> bytes:
        """``size`` bytes, or none at all if the stream is at its end."""
        data = self._some(size)
        while data and len(data) < size:
            more = self._some(size - len(data))
            if not more:
                raise bad_archive("it ends in the middle of a block")
            data += more
        return data

    def _some(self, size: int) -> bytes:
        if self._position == len(self._buffer):
            self._buffer, self._position = self._stream.read(CHUNK), 0
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        return data
