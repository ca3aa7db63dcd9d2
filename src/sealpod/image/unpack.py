# SPDX-License-Identifier: Apache-2.0
"""Unpack a layer's tar stream into a directory that an overlay mount can use as a lower one.

======================= ====================================================================================
paths                   confined to the directory (:mod:`sealpod.image.rootdir`); ``..`` is refused
``.wh.NAME``            a character device 0:0 at NAME, overlay's whiteout
``.wh..wh..opq``        the xattr ``trusted.overlay.opaque=y`` on the directory
other ``.wh..wh.*``     aufs metadata: ignored
same path twice         the later entry wins; two directories are merged
owner, mode, xattrs     in this order: chown clears setuid bits and ``security.capability``
times                   to the nanosecond; a directory's last of all
implicit parents        take their owner and mode from the layers below, else root and 0755
``*.overlay.*`` xattrs  refused: they would steer the overlay mount, not describe the image
======================= ====================================================================================

A whiteout hides what lower layers have, never what its own layer brings (OCI image spec, layer.md): next to
a directory of the same name it makes that directory opaque, next to a file it is already true.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from sealpod.errors import DecodeError
from sealpod.image import tarheader
from sealpod.image.lower import LowerLayers
from sealpod.image.metadata import (
    Metadata,
    UnpackReport,
    explained,
    finish,
    finish_unopened,
    metadata_of,
)
from sealpod.image.ports import CHUNK, ByteStream
from sealpod.image.rootdir import Parts, RootDirectory, show, split
from sealpod.image.tarheader import Entry
from sealpod.image.tarstream import TarReader
from sealpod.record import Record

WHITEOUT: Final = b".wh."
AUFS: Final = b".wh..wh."
OPAQUE: Final = b".wh..wh..opq"
OPAQUE_XATTR: Final = b"trusted.overlay.opaque"
MAX_NAME: Final = 255  # bytes, NAME_MAX


class Limits(Record):
    """What one layer may cost."""

    entries: int = 1_000_000
    """Members of the archive; the largest published images have a few hundred thousand files."""
    size: int = 64 << 30
    """Bytes after decompression."""


def unpack(
    stream: ByteStream, directory: str, *, lowers: tuple[str, ...] = (), limits: Limits | None = None
) -> UnpackReport:
    """Unpack ``stream`` to its end into the existing, empty ``directory``.

    ``lowers`` are the directories of the layers below, topmost first. DecodeError (``image.tar*``) for bad
    archives, AccessError (``image.unpack-permission``), OperationError (``image.store-full``). On any error
    the directory holds garbage, which the caller removes.
    """
    with RootDirectory(directory) as root, LowerLayers(lowers) as below:
        unpacker = _Unpacker(root, below, TarReader(stream))
        unpacker.run((limits or Limits()).entries)
        return unpacker.report


class _Unpacker:
    def __init__(self, root: RootDirectory, below: LowerLayers, reader: TarReader) -> None:
        self.report = UnpackReport()
        self._root = root
        self._below = below
        self._reader = reader
        self._directories: dict[Parts, Metadata] = {(): Metadata(0o755, 0, 0, 0, {})}

    def run(self, max_entries: int) -> None:
        for entry in self._reader:
            self.report.entries += 1
            if self.report.entries > max_entries:
                raise DecodeError(f"the layer has more than {max_entries} entries", code="image.layer-limit")
            try:
                self._unpack(entry)
            except OSError as error:
                raise explained(entry.path, error) from error
        for parts, metadata in self._directories.items():
            self._finish_directory(parts, metadata)

    def _unpack(self, entry: Entry) -> None:
        parts = split(entry.path)
        if not parts:
            if entry.type != tarheader.DIRECTORY:
                raise DecodeError("the layer's root is not a directory", code="image.tar-conflict")
            self._directories[()] = metadata_of(entry)
            return
        *front, name = parts
        if len(name) > MAX_NAME:
            raise DecodeError(f"a file name of {len(name)} bytes", code="image.tar")
        parent = self._root.directory(tuple(front), self._implicit)
        if name.startswith(WHITEOUT):
            self._white_out(parent, name, tuple(front))
        elif entry.type == tarheader.DIRECTORY:
            self._make_directory(parent, name)
            self._directories[parts] = metadata_of(entry)
        else:
            self._clear(parent, name)
            self._make(parent, name, entry)

    def _implicit(self, parts: Parts, descriptor: int) -> None:
        """A parent the archive does not list: show what the layers below show there."""
        found = self._below.directory(parts)
        self._directories[parts] = (
            Metadata(0o755, 0, 0, 0, {})
            if found is None
            else Metadata(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, {})
        )

    def _white_out(self, parent: int, name: bytes, front: Parts) -> None:
        if name == OPAQUE:
            self._make_opaque(parent)
            return
        if name.startswith(AUFS):
            return
        hidden = name.removeprefix(WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise DecodeError(f"a whiteout of {show(hidden)}", code="image.tar-escape")
        existing = _lstat(parent, hidden)
        if existing is None:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        elif stat.S_ISDIR(existing.st_mode):
            self._make_opaque(self._root.directory((*front, hidden)))

    @staticmethod
    def _make_opaque(directory: int) -> None:
        os.setxattr(directory, OPAQUE_XATTR, b"y")

    def _make_directory(self, parent: int, name: bytes) -> None:
        existing = _lstat(parent, name)
        if existing is not None and stat.S_ISDIR(existing.st_mode):
            return
        hides = existing is not None and _is_whiteout(existing)
        if existing is not None:
            os.unlink(name, dir_fd=parent)
        os.mkdir(name, 0o700, dir_fd=parent)
        if hides:
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            try:
                self._make_opaque(descriptor)
            finally:
                os.close(descriptor)

    def _clear(self, parent: int, name: bytes) -> None:
        existing = _lstat(parent, name)
        if existing is None:
            return
        if not stat.S_ISDIR(existing.st_mode):
            os.unlink(name, dir_fd=parent)
            return
        import shutil

        shutil.rmtree(name, dir_fd=parent)

    def _make(self, parent: int, name: bytes, entry: Entry) -> None:
        if entry.type == tarheader.REGULAR:
            self._make_file(parent, name, entry)
        elif entry.type == tarheader.HARD_LINK:
            self._make_hard_link(parent, name, entry)
        elif entry.type == tarheader.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            finish_unopened(parent, name, entry, self.report)
        else:
            os.mknod(name, _node_type(entry) | 0o600, os.makedev(*entry.device), dir_fd=parent)
            finish_unopened(parent, name, entry, self.report)

    def _make_file(self, parent: int, name: bytes, entry: Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            while data := self._reader.read(CHUNK):
                _write_all(descriptor, data)
            finish(descriptor, metadata_of(entry), self.report)
        finally:
            os.close(descriptor)

    def _make_hard_link(self, parent: int, name: bytes, entry: Entry) -> None:
        *front, target = split(entry.link) or (b"",)
        here = os.dup(parent)  # the next call to directory() ends `parent`
        try:
            there = self._root.directory(tuple(front))
            existing = _lstat(there, target) if target else None
            if existing is None or stat.S_ISDIR(existing.st_mode):
                raise DecodeError(
                    f"the hard link {show(entry.path)} points to {show(entry.link)}, no file of this layer",
                    code="image.tar-link",
                )
            os.link(target, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)

    def _finish_directory(self, parts: Parts, metadata: Metadata) -> None:
        try:
            finish(self._root.directory(parts), metadata, self.report)
        except (FileNotFoundError, NotADirectoryError):
            return  # a later entry replaced it
        except OSError as error:
            raise explained(b"/".join(parts), error) from error


def _node_type(entry: Entry) -> int:
    kinds = {
        tarheader.FIFO: stat.S_IFIFO,
        tarheader.CHARACTER: stat.S_IFCHR,
        tarheader.BLOCK_DEVICE: stat.S_IFBLK,
    }
    return kinds[entry.type]


def _lstat(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
