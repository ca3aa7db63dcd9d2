# SPDX-License-Identifier: Apache-2.0
"""Files the host puts into the guest: configuration, name service, volumes of small files (``CopyFile``).

A file comes in chunks and appears whole: it grows in a directory no container sees and is renamed to its
place with its mode and owner. Links and directories are made at once; a link replaces what is there in one
step too, which is what lets a volume's ``..data`` change from one version to the next.

Everything stays below one directory, and no component of a path may be a link: containers that write to a
volume could otherwise send the next file elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from typing import Final

from sealpod.agent import confined
from sealpod.errors import OperationError, UsageError
from sealpod.wire.message import Message

MAX_FILE: Final = 64 << 20
"""Bytes of one file: these are configuration and keys, and lie in the guest's memory."""
MAX_TOTAL: Final = 256 << 20
"""Bytes of all together."""
MAX_ENTRIES: Final = 16384
MAX_OPEN: Final = 64
"""Files that have begun and not ended."""
VERSION_LINK: Final = "..data"
"""The kubelet's name for the link to the current version of a volume's files."""
CODE: Final = "copyfile.request"
_THROUGH: Final = os.fsencode(f"{VERSION_LINK}/")


class Files:
    """Writes below ``root``; ``staging`` is a directory of its own in the same file system."""

    def __init__(self, root: str, staging: str) -> None:
        self._root = root
        self._staging = staging
        self._lock = threading.Lock()
        self._growing: dict[str, str] = {}  # name in the staging directory by path
        self._sizes: dict[str, int] = {}  # bytes by path
        self._total = 0  # of all of them
        self._count = 0

    def copy(self, request: Message) -> None:
        """One ``CopyFileRequest``. Raises :class:`UsageError` or :class:`OperationError`."""
        _, rest = confined.split(request.path, (self._root,))
        kind = stat.S_IFMT(request.file_mode) or stat.S_IFREG
        for number in (request.uid, request.gid):
            if number < 0:
                raise UsageError("an owner's number is negative", code=CODE)
        with self._lock:
            try:
                if kind == stat.S_IFDIR:
                    self._directory(request, rest)
                elif kind == stat.S_IFLNK:
                    self._link(request, rest)
                elif kind == stat.S_IFREG:
                    self._chunk(request, rest)
                else:
                    raise UsageError("only files, directories and links can be copied", code=CODE)
            except OSError as exc:
                text = f"cannot write {request.path[:200]!r}: {exc.strerror}"
                raise OperationError(text, code="copyfile.write") from exc

    def forget(self, container_id: str) -> None:
        """Remove what was copied for one container (``<container>-<8 hexadecimal digits>-<name>``).

        Containers are started anew for as long as the pod lives, each with copies of its own.
        """
        import shutil

        with self._lock, contextlib.suppress(FileNotFoundError):
            own = re.compile(rf"{re.escape(container_id)}-[0-9a-f]{{8}}-")
            for name in filter(own.match, os.listdir(self._root)):
                path = os.path.join(self._root, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)
            for rest in [rest for rest in self._growing if own.match(rest)]:
                os.unlink(self._growing.pop(rest))
            for rest in [rest for rest in self._sizes if own.match(rest)]:
                self._discount(rest)

    def _directory(self, request: Message, rest: str) -> None:
        self._account(rest, 0)
        directory = confined.open_directory(f"{self._root}/{rest}", (self._root,))
        try:
            os.fchown(directory, request.uid, request.gid)
            os.fchmod(directory, stat.S_IMODE(request.file_mode))
        finally:
            os.close(directory)

    def _link(self, request: Message, rest: str) -> None:
        target = bytes(request.data)
        if not target or b"\0" in target or len(target) > confined.MAX_PATH:
            raise UsageError("this is no target of a link", code=CODE)
        self._account(rest, len(target))
        parent, name = self._parent(rest, request.dir_mode)
        try:
            old = _target(parent, name)
            fresh = self._fresh()
            os.symlink(target, fresh)
            os.chown(fresh, request.uid, request.gid, follow_symlinks=False)
            os.rename(fresh, name, dst_dir_fd=parent)
            if name == VERSION_LINK and old != target:
                self._forget_version(parent, rest, old)
                self._forget_links(parent, rest)
        finally:
            os.close(parent)

    def _forget_version(self, parent: int, rest: str, old: bytes) -> None:
        """Remove the version a volume has just left, as the kubelet does on its side."""
        name = old.decode("utf-8", "replace")
        if not name.startswith("..") or name == ".." or "/" in name:
            return
        import shutil

        shutil.rmtree(name, ignore_errors=True, dir_fd=parent)
        below = f"{rest[: -len(VERSION_LINK)]}{name}/"
        for path in [path for path in self._sizes if path.startswith(below)]:
            self._discount(path)

    def _forget_links(self, parent: int, rest: str) -> None:
        """Remove the links to files of the volume that its new version does not have any more."""
        above = rest[: -len(VERSION_LINK)]
        for name in os.listdir(parent):
            if name == VERSION_LINK or not _target(parent, name).startswith(_THROUGH):
                continue
            try:
                os.stat(name, dir_fd=parent)
            except FileNotFoundError:
                os.unlink(name, dir_fd=parent)
                self._discount(f"{above}{name}")

    def _chunk(self, request: Message, rest: str) -> None:
        size, end = request.file_size, request.offset + len(request.data)
        if not 0 <= request.offset <= end <= size:
            raise UsageError(f"bytes {request.offset} to {end} of a file of {size}", code=CODE)
        if size > MAX_FILE:
            raise UsageError(f"a file of {size} bytes is larger than {MAX_FILE}", code="copyfile.size")
        if request.offset == 0:
            self._begin(rest, size)
        elif rest not in self._growing:
            raise UsageError(f"{request.path[:200]!r} does not begin at its beginning", code=CODE)
        staged = self._growing[rest]
        descriptor = os.open(staged, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if request.offset > os.fstat(descriptor).st_size:
                raise UsageError(f"a part of {request.path[:200]!r} is missing", code=CODE)
            _write_at(descriptor, request.data, request.offset)
            if end == size:
                os.fchown(descriptor, request.uid, request.gid)
                os.fchmod(descriptor, stat.S_IMODE(request.file_mode))
        finally:
            os.close(descriptor)
        if end == size:
            self._finish(rest, request.dir_mode)

    def _begin(self, rest: str, size: int) -> None:
        self._account(rest, size)
        if rest not in self._growing and len(self._growing) >= MAX_OPEN:
            raise UsageError(f"{MAX_OPEN} files have begun and not ended", code="copyfile.size")
        staged = self._growing.get(rest) or self._fresh()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        os.close(os.open(staged, flags, 0o600))
        self._growing[rest] = staged

    def _finish(self, rest: str, dir_mode: int) -> None:
        staged = self._growing.pop(rest)
        try:
            parent, name = self._parent(rest, dir_mode)
            try:
                os.rename(staged, name, dst_dir_fd=parent)
            finally:
                os.close(parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(staged)
            raise

    def _parent(self, rest: str, dir_mode: int) -> tuple[int, str]:
        """A descriptor of the directory the entry goes to, made if it is missing, and the entry's name."""
        above, _, name = rest.rpartition("/")
        mode = stat.S_IMODE(dir_mode) or 0o755
        if not above:
            os.makedirs(self._root, mode=0o755, exist_ok=True)
            return os.open(self._root, confined.DIRECTORY | os.O_CLOEXEC), name
        return confined.open_directory(f"{self._root}/{above}", (self._root,), mode=mode), name

    def _fresh(self) -> str:
        os.makedirs(self._staging, mode=0o700, exist_ok=True)
        self._count += 1
        return os.path.join(self._staging, str(self._count))

    def _account(self, rest: str, size: int) -> None:
        """Count an entry against the limits; one that is there already counts anew."""
        total = self._total - self._sizes.get(rest, 0) + size
        if total > MAX_TOTAL or (rest not in self._sizes and len(self._sizes) >= MAX_ENTRIES):
            raise UsageError("too much has been copied into this guest", code="copyfile.size")
        self._sizes[rest], self._total = size, total

    def _discount(self, rest: str) -> None:
        self._total -= self._sizes.pop(rest, 0)


def _target(parent: int, name: str) -> bytes:
    """What the link ``name`` points to, or nothing."""
    try:
        return os.readlink(os.fsencode(name), dir_fd=parent)
    except OSError:
        return b""


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
