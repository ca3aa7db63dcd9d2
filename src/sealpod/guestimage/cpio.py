# SPDX-License-Identifier: Apache-2.0
"""Write an initramfs, and find a file in one: a cpio archive in the "newc" format the kernel unpacks.

Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. The bytes depend only on the
entries: they are sorted, owned by root, dated at the epoch and numbered from 1. Compression is left to the
caller.

Header, 110 bytes of ASCII, then name with NUL, padding to 4, data, padding to 4::

    offset  size  field                    offset  size  field
    0       6     magic "070701"           62      8     device major (0)
    6       8     inode                    70      8     device minor (0)
    14      8     mode                     78      8     node major
    22      8     uid (0)                  86      8     node minor
    30      8     gid (0)                  94      8     name size with NUL
    38      8     links (1)                102     8     check (0 in newc)
    46      8     mtime (0)
    54      8     file size
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Final

from sealpod.errors import DecodeError, UsageError

MAGIC: Final = "070701"
HEADER_SIZE: Final = 110
TRAILER: Final = "TRAILER!!!"
ALIGNMENT: Final = 4  # bytes
BLOCK: Final = 512  # bytes; other tools expect whole blocks, the kernel ignores the rest
MAX_FILE_SIZE: Final = 0xFFFFFFFF  # eight hexadecimal digits
COPY_SIZE: Final = 1 << 20  # bytes
MAX_NAME_SIZE: Final = 4096  # bytes, PATH_MAX of Linux


@dataclass(frozen=True, slots=True)
class Entry:
    """One archive member. ``data`` is content, a symlink's target, or the path of a file to copy
    (``source``)."""

    path: str
    mode: int
    data: bytes = b""
    source: str | None = None
    device: tuple[int, int] = (0, 0)

    def size(self) -> int:
        """Length of the content in bytes."""
        return len(self.data) if self.source is None else os.path.getsize(self.source)


def directory(path: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(path, stat.S_IFDIR | mode)


def file(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """A file with this content."""
    return Entry(path, stat.S_IFREG | mode, data)


def copy(path: str, source: str, mode: int = 0o644) -> Entry:
    """A file with the content of the file ``source``, read while writing."""
    return Entry(path, stat.S_IFREG | mode, source=source)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(path, stat.S_IFCHR | mode, device=(major, minor))


def write(entries: Iterable[Entry], out: BinaryIO) -> int:
    """Write the archive to ``out`` and return its size in bytes.

    Raises :class:`UsageError` for a path that is absolute, repeated or leaves the root, or has no parent
    entry.
    """
    ordered = sorted(entries, key=lambda entry: entry.path.split("/"))
    _check_paths(ordered)
    position = 0
    for inode, entry in enumerate(ordered, start=1):
        position += _write_entry(out, entry, inode)
    position += _write_entry(out, Entry(TRAILER, 0), 0)
    return position + _pad(out, position, BLOCK)


def _check_paths(entries: list[Entry]) -> None:
    directories = {""}
    seen: set[str] = set()
    for entry in entries:
        parts = entry.path.split("/")
        parent = "/".join(parts[:-1])
        if any(part in ("", ".", "..") for part in parts) or "\0" in entry.path or entry.path == TRAILER:
            raise UsageError(f"{entry.path!r} cannot be a path in an archive", code="cpio.path")
        if entry.path in seen or parent not in directories:
            raise UsageError(f"{entry.path!r} is repeated or has no parent directory", code="cpio.path")
        seen.add(entry.path)
        if stat.S_ISDIR(entry.mode):
            directories.add(entry.path)


def _write_entry(out: BinaryIO, entry: Entry, inode: int) -> int:
    name = entry.path.encode() + b"\0"
    size = entry.size()
    if size > MAX_FILE_SIZE:
        raise UsageError(f"{entry.path!r} is too large for an archive", code="cpio.size")
    fields = (inode, entry.mode, 0, 0, 1, 0, size, 0, 0, *entry.device, len(name), 0)
    out.write((MAGIC + "".join(f"{value:08X}" for value in fields)).encode() + name)
    written = HEADER_SIZE + len(name)
    written += _pad(out, written, ALIGNMENT)
    _write_content(out, entry, size)
    return written + size + _pad(out, size, ALIGNMENT)


def _write_content(out: BinaryIO, entry: Entry, size: int) -> None:
    if entry.source is None:
        out.write(entry.data)
        return
    left = size
    with open(entry.source, "rb") as stream:
        while left and (chunk := stream.read(min(COPY_SIZE, left))):
            out.write(chunk)
            left -= len(chunk)
    if left:
        raise UsageError(f"{entry.source} became shorter while it was read", code="cpio.size")


def _pad(out: BinaryIO, position: int, alignment: int) -> int:
    count = -position % alignment
    out.write(bytes(count))
    return count


def find(stream: BinaryIO, path: str) -> bytes | None:
    """Content of the file ``path`` in an uncompressed archive, or None; :class:`DecodeError` for anything
    else."""
    while (header := _read_header(stream)) is not None:
        name, size = header
        if name == path:
            return _read_exactly(stream, size)
        if name == TRAILER:
            return None
        stream.seek(size + -size % ALIGNMENT, os.SEEK_CUR)
    return None


def _read_header(stream: BinaryIO) -> tuple[str, int] | None:
    header = stream.read(HEADER_SIZE)
    if not header:
        return None
    try:
        if len(header) < HEADER_SIZE or header[:6].decode("ascii") != MAGIC:
            raise ValueError
        size, name_size = int(header[54:62], 16), int(header[94:102], 16)
    except ValueError as error:
        raise DecodeError("not a cpio archive in the newc format") from error
    if not 0 < name_size <= MAX_NAME_SIZE:
        raise DecodeError(f"a name of {name_size} bytes in a cpio archive")
    name = _read_exactly(stream, name_size + -(HEADER_SIZE + name_size) % ALIGNMENT)
    return name[: name_size - 1].decode("utf-8", "replace"), size


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise DecodeError("a cpio archive ends early")
    return data
