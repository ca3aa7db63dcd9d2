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

import errno
import os
import stat
from typing import Final

from sealpod.errors import AccessError, DecodeError, OperationError, SealpodError
from sealpod.image import tarstream
from sealpod.image.lower import LowerLayers
from sealpod.image.ports import CHUNK, ByteStream
from sealpod.image.rootdir import Parts, RootDirectory, show, split
from sealpod.image.tarstream import Entry, TarReader
from sealpod.record import Record

WHITEOUT: Final = b".wh."
AUFS: Final = b".wh..wh."
OPAQUE: Final = b".wh..wh..opq"
OPAQUE_XATTR: Final = b"trusted.overlay.opaque"
MAX_NAME: Final = 255  # bytes, NAME_MAX
_FORBIDDEN_XATTRS: Final = (b"trusted.overlay.", b"user.overlay.")
# Kernels without these on tmpfs (before 6.6) and images labelled on SELinux hosts are both common.
_OPTIONAL_XATTRS: Final = (b"user.", b"security.selinux")


class Limits(Record):
    """What one layer may cost."""

    entries: int = 1_000_000
    """Members of the archive; the largest published images have a few hundred thousand files."""
    size: int = 64 << 30
    """Bytes after decompression."""


class UnpackReport:
    """What was unpacked, and what could not be kept."""

    def __init__(self) -> None:
        self.entries = 0
        self.skipped_xattrs = 0
        """``user.*`` and SELinux attributes the file system does not take."""


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


class _Metadata(Record):
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]


class _Unpacker:
    def __init__(self, root: RootDirectory, below: LowerLayers, reader: TarReader) -> None:
        self.report = UnpackReport()
        self._root = root
        self._below = below
        self._reader = reader
        self._directories: dict[Parts, _Metadata] = {(): _Metadata(0o755, 0, 0, 0, {})}

    def run(self, max_entries: int) -> None:
        for entry in self._reader:
            self.report.entries += 1
            if self.report.entries > max_entries:
                raise DecodeError(f"the layer has more than {max_entries} entries", code="image.layer-limit")
            try:
                self._unpack(entry)
            except OSError as error:
                raise _explain(entry.path, error) from error
        for parts, metadata in self._directories.items():
            self._finish_directory(parts, metadata)

    def _unpack(self, entry: Entry) -> None:
        parts = split(entry.path)
        if not parts:
            if entry.type != tarstream.DIRECTORY:
                raise DecodeError("the layer's root is not a directory", code="image.tar-conflict")
            self._directories[()] = _metadata(entry)
            return
        *front, name = parts
        if len(name) > MAX_NAME:
            raise DecodeError(f"a file name of {len(name)} bytes", code="image.tar")
        parent = self._root.directory(tuple(front), self._implicit)
        if name.startswith(WHITEOUT):
            self._white_out(parent, name, tuple(front))
        elif entry.type == tarstream.DIRECTORY:
            self._make_directory(parent, name)
            self._directories[parts] = _metadata(entry)
        else:
            self._clear(parent, name)
            self._make(parent, name, entry)

    def _implicit(self, parts: Parts, descriptor: int) -> None:
        """A parent the archive does not list: show what the layers below show there."""
        found = self._below.directory(parts)
        self._directories[parts] = (
            _Metadata(0o755, 0, 0, 0, {})
            if found is None
            else _Metadata(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, {})
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
        if entry.type == tarstream.REGULAR:
            self._make_file(parent, name, entry)
        elif entry.type == tarstream.HARD_LINK:
            self._make_hard_link(parent, name, entry)
        elif entry.type == tarstream.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            self._finish_other(parent, name, entry)
        else:
            os.mknod(name, _node_type(entry) | 0o600, os.makedev(*entry.device), dir_fd=parent)
            self._finish_other(parent, name, entry)

    def _make_file(self, parent: int, name: bytes, entry: Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            while data := self._reader.read(CHUNK):
                _write_all(descriptor, data)
            self._finish(descriptor, _metadata(entry))
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

    def _finish(self, descriptor: int, metadata: _Metadata) -> None:
        os.fchown(descriptor, metadata.uid, metadata.gid)
        self._set_xattrs(descriptor, metadata.xattrs, follow=True)
        os.fchmod(descriptor, metadata.mode)
        os.utime(descriptor, ns=(metadata.mtime_ns, metadata.mtime_ns))

    def _finish_other(self, parent: int, name: bytes, entry: Entry) -> None:
        """Metadata of links and nodes, which cannot be opened (a fifo would block, a device would act)."""
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.xattrs:
            self._set_xattrs(b"/proc/self/fd/%d/%s" % (parent, name), entry.xattrs, follow=False)
        if entry.type != tarstream.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _set_xattrs(self, where: int | bytes, xattrs: dict[bytes, bytes], *, follow: bool) -> None:
        for name, value in xattrs.items():
            if name.startswith(_FORBIDDEN_XATTRS) or b"\0" in name:
                raise DecodeError(f"the layer sets the attribute {show(name)}", code="image.tar-xattr")
            try:
                if follow:
                    os.setxattr(where, name, value)
                else:
                    os.setxattr(where, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM) or not name.startswith(_OPTIONAL_XATTRS):
                    raise
                self.report.skipped_xattrs += 1

    def _finish_directory(self, parts: Parts, metadata: _Metadata) -> None:
        try:
            self._finish(self._root.directory(parts), metadata)
        except (FileNotFoundError, NotADirectoryError):
            return  # a later entry replaced it
        except OSError as error:
            raise _explain(b"/".join(parts), error) from error


def _metadata(entry: Entry) -> _Metadata:
    return _Metadata(entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs)


def _node_type(entry: Entry) -> int:
    kinds = {
        tarstream.FIFO: stat.S_IFIFO,
        tarstream.CHARACTER: stat.S_IFCHR,
        tarstream.BLOCK_DEVICE: stat.S_IFBLK,
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


def _explain(path: bytes, error: OSError) -> SealpodError:
    """An error of the operating system as one of ours: whose fault it is depends on its number."""
    text = f"unpacking {show(path)}: {os.strerror(error.errno or 0)}"
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        remedy = "unpack as root, on a file system that takes device nodes and trusted.* attributes"
        return AccessError(text, code="image.unpack-permission", remedy=remedy)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
        remedy = "give the guest more memory (--memory), or use a smaller image"
        return OperationError(text, code="image.store-full", remedy=remedy)
    if error.errno in (
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.EMLINK,
    ):
        return DecodeError(text, code="image.tar-conflict")
    if error.errno == errno.ENOTSUP:
        remedy = "use a file system with extended attributes for the image store"
        return OperationError(text, code="image.unpack-xattr", remedy=remedy)
    return OperationError(text, code="image.unpack")
