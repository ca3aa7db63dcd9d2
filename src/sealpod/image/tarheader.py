# SPDX-License-Identifier: Apache-2.0
"""One header of a tar archive (POSIX.1-2017 pax, "ustar Interchange Format"; GNU long names).

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

Sparse files are refused: image builders do not write them. Only :class:`DecodeError` is raised.
"""

from __future__ import annotations

import re
from typing import Final

from sealpod.errors import DecodeError
from sealpod.record import Record, field

BLOCK: Final = 512  # bytes
MAX_PATH: Final = 4096  # bytes; PATH_MAX, which no path inside a root can pass

REGULAR: Final = b"0"
HARD_LINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
PAX: Final = b"x"
PAX_GLOBAL: Final = b"g"
GNU_LONG_NAME: Final = b"L"
GNU_LONG_LINK: Final = b"K"
_OLD_REGULAR: Final = b"\0"
_CONTIGUOUS: Final = b"7"
_PLAIN_TYPES: Final = (REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO)

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


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records ``<length> <key>=<value>\\n`` of a pax header; a later record of the same key wins."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 8)
        digits = data[position:space]
        if space < 0 or not digits.isdigit():
            raise bad_archive("a pax record without a length")
        end = position + int(digits)
        record = data[space + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or end <= space or record[-1:] != b"\n" or not equals or not key:
            raise bad_archive("a malformed pax record")
        records[key] = value
        position = end
    return records


def decode_entry(block: bytes, pax: dict[bytes, bytes], long: dict[bytes, bytes]) -> Entry:
    """A member from its header of 512 bytes, and the pax records and GNU names that came before it."""
    if any(key.startswith(b"GNU.sparse.") for key in pax):
        raise bad_archive("a sparse file, which is not supported")
    path = pax.get(b"path") or long.get(GNU_LONG_NAME) or _header_path(block)
    link = pax.get(b"linkpath") or long.get(GNU_LONG_LINK) or _text(block[157:257])
    kind = _type(block, path)
    return Entry(
        path=_path(path),
        type=kind,
        mode=number(block[100:108], "mode") & 0o7777,
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
        raise bad_archive(f"an entry of the unknown type {kind!r}")
    return kind


def _header_path(block: bytes) -> bytes:
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _path(path: bytes) -> bytes:
    if not path or len(path) > MAX_PATH or b"\0" in path:
        raise bad_archive("a path that is empty, too long or holds a NUL byte")
    return path


def _id(pax: dict[bytes, bytes], key: bytes, header: bytes) -> int:
    value = _decimal(pax[key]) if pax.get(key) else number(header, key.decode())
    if not 0 <= value <= _MAX_ID:
        raise bad_archive(f"a {key.decode()} out of range")
    return value


def _size(pax: dict[bytes, bytes], block: bytes) -> int:
    value = _decimal(pax[b"size"]) if pax.get(b"size") else number(block[124:136], "size")
    if not 0 <= value <= _MAX_SIZE:
        raise bad_archive("a size out of range")
    return value


def _mtime(pax: dict[bytes, bytes], block: bytes) -> int:
    """Nanoseconds, exactly: a float has too few digits for them."""
    if not pax.get(b"mtime"):
        seconds = number(block[136:148], "mtime")
        if abs(seconds) >= 1 << 33:  # year 2242; utimensat takes 63 bits of nanoseconds
            raise bad_archive("a modification time out of range")
        return seconds * 1_000_000_000
    match = _SECONDS.fullmatch(pax[b"mtime"])
    if match is None or int(match[2]) >= 1 << 33:
        raise bad_archive("a modification time that is no number or out of range")
    value = int(match[2]) * 1_000_000_000 + int((match[3] or b"").ljust(9, b"0")[:9])
    return -value if match[1] else value


def _device(block: bytes) -> tuple[int, int]:
    major, minor = number(block[329:337], "devmajor"), number(block[337:345], "devminor")
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):  # Linux's dev_t
        raise bad_archive("a device number out of range")
    return major, minor


def number(data: bytes, what: str) -> int:
    """A field of the header, which ``what`` names: octal text or base-256."""
    if data[0] & 0x80:  # base-256: two's complement without the marker bit
        value = int.from_bytes(data, "big") & ((1 << (8 * len(data) - 1)) - 1)
        return value - (1 << (8 * len(data) - 1)) if data[0] & 0x40 else value
    text = data.lstrip(b" \0").split(b"\0", 1)[0].rstrip(b" ")
    try:
        return int(text, 8) if text.isdigit() else _empty(text)
    except ValueError as error:
        raise bad_archive(f"a header whose {what} is not a number") from error


def _empty(text: bytes) -> int:
    if text:
        raise ValueError("not octal")
    return 0


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise bad_archive("a pax value that is not a number")
    return int(text)


def _text(data: bytes) -> bytes:
    return data.split(b"\0", 1)[0]


def check_sum(block: bytes) -> None:
    """:raise DecodeError: the header is damaged."""
    stored = number(block[148:156], "checksum")
    if stored == sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
        return
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 8 * 0x20
    if stored != signed:  # some old tars summed signed characters
        raise bad_archive("a header whose checksum does not match")


def bad_archive(what: str) -> DecodeError:
    """The one error of a layer that is no tar archive."""
    return DecodeError(f"the layer is not a valid tar archive: {what}", code="image.tar")
