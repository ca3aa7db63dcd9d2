# SPDX-License-Identifier: Apache-2.0
"""Tar archives as a stream of entries (POSIX.1-2017 pax, "ustar Interchange Format"; GNU long names).

====== ==== =========  ============================================================
offset size field      form
====== ==== =========  ============================================================
0      100  name       NUL-padded
100    8    mode       octal text, or base-256 when the first bit is set (GNU)
108    8    uid
116    8    gid
124    12   size
136    12   mtime      seconds
148    8    checksum   sum of the header's bytes, this field counted as spaces
156    1    type
157    100  linkname
257    6    magic      ``ustar\\0`` (POSIX: ``prefix`` counts) or ``ustar `` (GNU)
329    8    devmajor
337    8    devminor
345    155  prefix     of ``name``, joined with ``/``
====== ==== =========  ============================================================

Why not :mod:`tarfile`: in stream mode it takes a damaged header for the end of the archive, and in a guest
its import and its per-entry cost are felt. Blocks of zeros are skipped wherever they stand (archives
may be concatenated); the archive ends where the stream ends. Global pax headers are ignored as Go's reader
does. Sparse files are refused: image builders do not write them. Only :class:`DecodeError` is raised.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sealpod.errors import DecodeError
from sealpod.image.ports import CHUNK, ByteStream
from sealpod.record import Record, field

BLOCK: Final = 512  # bytes
MAX_EXTENDED: Final = 1024 * 1024  # bytes of one pax header or long name; xattrs are at most 64 KiB each
MAX_PATH: Final = 4096  # bytes; PATH_MAX, which no path inside a root can pass

REGULAR: Final = b"0"
HARD_LINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
_OLD_REGULAR: Final = b"\0"
_CONTIGUOUS: Final = b"7"
_PAX: Final = b"x"
_PAX_GLOBAL: Final = b"g"
_GNU_LONG_NAME: Final = b"L"
_GNU_LONG_LINK: Final = b"K"
_PLAIN_TYPES: Final = (REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO)

_ZEROS: Final = bytes(BLOCK)
_XATTR: Final = b"SCHILY.xattr."
_SECONDS = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_MAX_ID: Final = (1 << 32) - 2  # -1 means "leave it" to chown(2)
_MAX_SIZE: Final = 1 << 62  # bytes; whatever is really there, the stream's own cap stops first


class Entry(Record):
    """One member of the archive. Paths are bytes as they stand; nothing about them is safe yet."""

    path: bytes
    type: bytes
    mode: int  # permission bits and setuid, setgid, sticky
    uid: int
    gid: int
    size: int  # bytes of content; 0 for everything but regular files
    mtime_ns: int
    link: bytes = b""
    device: tuple[int, int] = (0, 0)  # major, minor
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


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
            if kind == _PAX:
                pax = parse_pax(self._extended(block))
            elif kind in (_GNU_LONG_NAME, _GNU_LONG_LINK):
                long[kind] = self._extended(block).split(b"\0", 1)[0]
            elif kind == _PAX_GLOBAL:
                self._extended(block)
            else:
                entry = _entry(block, pax, long)
                pax, long = {}, {}
                self._content = entry.size
                self._padding = -entry.size % BLOCK
                yield entry
        if pax or long:
            raise _bad("it ends after an extended header")

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes of the current entry's content; empty at its end."""
        wanted = min(size, self._content)
        if wanted == 0:
            return b""
        data = self._some(wanted)
        if not data:
            raise _bad("it ends in the middle of a file")
        self._content -= len(data)
        return data

    def _next_header(self) -> bytes | None:
        self._skip_content()
        while True:
            block = self._exactly(BLOCK)
            if not block:
                return None
            if block != _ZEROS:
                _check_sum(block)
                return block

    def _skip_content(self) -> None:
        while self._content:
            self.read(CHUNK)
        if len(self._exactly(self._padding)) != self._padding:
            raise _bad("it ends in the middle of a file")
        self._padding = 0

    def _extended(self, block: bytes) -> bytes:
        size = _number(block[124:136], "size")
        if size > MAX_EXTENDED:
            raise _bad(f"an extended header of {size} bytes, more than the limit of {MAX_EXTENDED}")
        data = self._exactly(size)
        if len(data) != size or len(self._exactly(-size % BLOCK)) != -size % BLOCK:
            raise _bad("it ends in the middle of an extended header")
        return data

    def _exactly(self, size: int) -> bytes:
        """``size`` bytes, or none at all if the stream is at its end."""
        data = self._some(size)
        while data and len(data) < size:
            more = self._some(size - len(data))
            if not more:
                raise _bad("it ends in the middle of a block")
            data += more
        return data

    def _some(self, size: int) -> bytes:
        if self._position == len(self._buffer):
            self._buffer, self._position = self._stream.read(CHUNK), 0
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        return data


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records ``<length> <key>=<value>\\n`` of a pax header; a later record of the same key wins."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 8)
        digits = data[position:space]
        if space < 0 or not digits.isdigit():
            raise _bad("a pax record without a length")
        end = position + int(digits)
        record = data[space + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or end <= space or record[-1:] != b"\n" or not equals or not key:
            raise _bad("a malformed pax record")
        records[key] = value
        position = end
    return records


def _entry(block: bytes, pax: dict[bytes, bytes], long: dict[bytes, bytes]) -> Entry:
    if any(key.startswith(b"GNU.sparse.") for key in pax):
        raise _bad("a sparse file, which is not supported")
    path = pax.get(b"path") or long.get(_GNU_LONG_NAME) or _header_path(block)
    link = pax.get(b"linkpath") or long.get(_GNU_LONG_LINK) or _text(block[157:257])
    kind = _type(block, path)
    return Entry(
        path=_path(path),
        type=kind,
        mode=_number(block[100:108], "mode") & 0o7777,
        uid=_id(pax, b"uid", block[108:116]),
        gid=_id(pax, b"gid", block[116:124]),
        size=_size(pax, block) if kind == REGULAR else 0,
        mtime_ns=_mtime(pax, block),
        link=_path(link) if kind in (HARD_LINK, SYMLINK) else b"",
        device=_device(block) if kind in (CHARACTER, BLOCK_DEVICE) else (0, 0),
        xattrs={key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)},
    )


def _type(block: bytes, path: bytes) -> bytes:
    kind = block[156:157]
    if kind == _OLD_REGULAR:  # V7 tar had no type for directories, only the final slash
        return DIRECTORY if path.endswith(b"/") else REGULAR
    if kind == _CONTIGUOUS:
        return REGULAR
    if kind not in _PLAIN_TYPES:
        raise _bad(f"an entry of the unknown type {kind!r}")
    return kind


def _header_path(block: bytes) -> bytes:
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _path(path: bytes) -> bytes:
    if not path or len(path) > MAX_PATH or b"\0" in path:
        raise _bad("a path that is empty, too long or holds a NUL byte")
    return path


def _id(pax: dict[bytes, bytes], key: bytes, header: bytes) -> int:
    value = _decimal(pax[key]) if pax.get(key) else _number(header, key.decode())
    if not 0 <= value <= _MAX_ID:
        raise _bad(f"a {key.decode()} out of range")
    return value


def _size(pax: dict[bytes, bytes], block: bytes) -> int:
    value = _decimal(pax[b"size"]) if pax.get(b"size") else _number(block[124:136], "size")
    if not 0 <= value <= _MAX_SIZE:
        raise _bad("a size out of range")
    return value


def _mtime(pax: dict[bytes, bytes], block: bytes) -> int:
    """Nanoseconds, exactly: a float has too few digits for them."""
    if not pax.get(b"mtime"):
        seconds = _number(block[136:148], "mtime")
        if abs(seconds) >= 1 << 33:  # year 2242; utimensat takes 63 bits of nanoseconds
            raise _bad("a modification time out of range")
        return seconds * 1_000_000_000
    match = _SECONDS.fullmatch(pax[b"mtime"])
    if match is None or int(match[2]) >= 1 << 33:
        raise _bad("a modification time that is no number or out of range")
    value = int(match[2]) * 1_000_000_000 + int((match[3] or b"").ljust(9, b"0")[:9])
    return -value if match[1] else value


def _device(block: bytes) -> tuple[int, int]:
    major, minor = _number(block[329:337], "devmajor"), _number(block[337:345], "devminor")
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):  # Linux's dev_t
        raise _bad("a device number out of range")
    return major, minor


def _number(data: bytes, what: str) -> int:
    if data[0] & 0x80:  # base-256: two's complement without the marker bit
        value = int.from_bytes(data, "big") & ((1 << (8 * len(data) - 1)) - 1)
        return value - (1 << (8 * len(data) - 1)) if data[0] & 0x40 else value
    text = data.lstrip(b" \0").split(b"\0", 1)[0].rstrip(b" ")
    try:
        return int(text, 8) if text.isdigit() else _empty(text)
    except ValueError as error:
        raise _bad(f"a header whose {what} is not a number") from error


def _empty(text: bytes) -> int:
    if text:
        raise ValueError("not octal")
    return 0


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise _bad("a pax value that is not a number")
    return int(text)


def _text(data: bytes) -> bytes:
    return data.split(b"\0", 1)[0]


def _check_sum(block: bytes) -> None:
    stored = _number(block[148:156], "checksum")
    if stored == sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
        return
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 8 * 0x20
    if stored != signed:  # some old tars summed signed characters
        raise _bad("a header whose checksum does not match")


def _bad(what: str) -> DecodeError:
    return DecodeError(f"the layer is not a valid tar archive: {what}", code="image.tar")
