# SPDX-License-Identifier: Apache-2.0
"""Files a command writes: each whole, with its permissions from the first byte, and all of them or none.

Every file is written beside its target first (mode 0600), then all are moved into place, and when one move
fails the moves before it are undone; signals wait until it is over. So there is no moment at which others can
read a key, an error, Ctrl-C or SIGTERM leaves the old files and nothing beside them, and only SIGKILL or a
power cut can leave something half done.

A target that is no regular file (``/dev/stdout``, a pipe) is written to as it stands, before the files: what
it took cannot be taken back, so the files follow once it has all. A symbolic link is followed for public
files; key material never follows one, it takes the link's place.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from sealpod.errors import (
    AccessError,
    ConflictError,
    InterruptError,
    NotFoundError,
    OperationError,
    SealpodError,
)
from sealpod.secret import SecretBytes

PUBLIC_MODE: Final = 0o644
SECRET_MODE: Final = 0o600

_HELD_BACK: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to write. ``SecretBytes`` make it a key file: mode 0600, no link followed."""

    path: str
    data: bytes | SecretBytes

    @property
    def secret(self) -> bool:
        """Whether the content is key material."""
        return isinstance(self.data, SecretBytes)

    @property
    def content(self) -> bytes:
        """The bytes to be written."""
        return self.data.reveal() if isinstance(self.data, SecretBytes) else self.data


def write_outputs(files: Sequence[OutputFile], *, replace_keys: bool = True) -> None:
    """Write all files, or none of them.

    Public files replace what was there. Without ``replace_keys`` a key file does not.

    :raise ConflictError: a key file exists and must not be replaced, or two files have the same name.
    :raise NotFoundError: a directory does not exist.
    :raise AccessError: no permission to write there.
    :raise OperationError: any other failure of the system.
    """
    targets = [_Target(file, keep=file.secret and not replace_keys) for file in files]
    if len({target.path for target in targets}) != len(targets):
        raise ConflictError("two outputs have the same file name", code="output.same")
    for target in targets:
        target.check()
    # A pipe may block for as long as it likes, so that one can be interrupted.
    for target in targets:
        if target.direct:
            target.write()
    _place([target for target in targets if not target.direct])


def _place(targets: Sequence[_Target]) -> None:
    """Bring all files into place; or none, when one fails or a signal came meanwhile."""
    placed = False
    with _signals_held_back() as came:
        # Both before signals are let through: one may end the process on the spot.
        try:
            for target in targets:
                target.stage()
            for target in targets:
                target.place()
            placed = not came
        finally:
            for target in reversed(targets):
                if not placed:
                    target.undo()
                target.clean()
    if not placed:
        raise InterruptError("interrupted")


class _Target:
    """One file on its way: temporary file, then the old file kept aside, then the new one in place."""

    def __init__(self, file: OutputFile, *, keep: bool) -> None:
        self._file = file
        self._keep = keep
        self.path = os.path.abspath(file.path)
        self.direct = _written_directly(self.path)
        if not file.secret and not self.direct:
            self.path = os.path.realpath(self.path)
        self._new = ""
        self._old = ""
        self._placed = False

    def check(self) -> None:
        if self.direct:
            return
        if self._keep and os.path.lexists(self.path):
            raise _exists(self._file.path)
        if os.path.isdir(self.path) and not os.path.islink(self.path):
            raise _failure(self._file.path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))

    def stage(self) -> None:
        with _telling(self._file.path):
            fd, self._new = tempfile.mkstemp(prefix=f".{_name(self.path)}.", dir=os.path.dirname(self.path))
            with open(fd, "wb") as stream:
                stream.write(self._file.content)
                stream.flush()
                os.fchmod(fd, SECRET_MODE if self._file.secret else PUBLIC_MODE)
                os.fsync(fd)

    def place(self) -> None:
        with _telling(self._file.path):
            if self._keep:
                self._place_as_new()
            else:
                self._set_aside()
                os.replace(self._new, self.path)
                self._new = ""
        self._placed = True

    def write(self) -> None:
        with _telling(self._file.path), open(self.path, "wb") as stream:
            stream.write(self._file.content)

    def _place_as_new(self) -> None:
        # Unlike a rename, a link fails when somebody has made the file meanwhile.
        try:
            os.link(self._new, self.path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            self.check()
            os.replace(self._new, self.path)
            self._new = ""

    def _set_aside(self) -> None:
        if not os.path.lexists(self.path):
            return
        old = f"{self._new}.old"
        try:
            os.link(self.path, old, follow_symlinks=False)
        except OSError:  # a file system without links, or somebody else's file
            os.rename(self.path, old)
        self._old = old

    def undo(self) -> None:
        with suppress(OSError):
            if self._old:
                # Does nothing when both are one file still: cleaning takes the second name away then.
                os.replace(self._old, self.path)
            elif self._placed:
                os.unlink(self.path)

    def clean(self) -> None:
        for path in filter(None, (self._new, self._old)):
            with suppress(OSError):
                os.unlink(path)


def _name(path: str) -> str:
    # The temporary name is longer than the target's, which may be as long as the system allows.
    return os.path.basename(path)[:64]


def _written_directly(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    # /dev/stdout may lead to a regular file: a rename would take its name, not what the caller has open.
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or path.startswith(("/dev/", "/proc/"))


@contextmanager
def _signals_held_back() -> Iterator[list[signal.Signals]]:
    """The signals that came meanwhile; when it is over they have the effect they would have had."""
    came: list[signal.Signals] = []
    # Handlers, not a mask of this thread: the system gives what one thread blocks to any other. And only the
    # main thread may set them, where Python also runs them, so that no other one is interrupted anyhow.
    held = _HELD_BACK if threading.current_thread() is threading.main_thread() else ()
    before: dict[signal.Signals, Any] = {}
    try:
        for number in held:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, lambda sent, _frame: came.append(signal.Signals(sent)))
        yield came
    finally:
        # Ctrl-C last: it may raise at once, and the others would stay held back.
        for number in reversed(before):
            signal.signal(number, before[number])
        for number in came:
            signal.raise_signal(number)


@contextmanager
def _telling(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: str, error: OSError) -> SealpodError:
    text = f"cannot write {path}: {error.strerror}"
    if isinstance(error, FileExistsError):
        return _exists(path)
    if isinstance(error, PermissionError):
        return AccessError(text, code="output.access", remedy="choose a directory you may write to")
    if isinstance(error, FileNotFoundError):
        return NotFoundError(text, code="output.directory", remedy="create the directory first")
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "make room there, or choose another directory" if full else "choose another file"
    return OperationError(text, code="output.failed", remedy=remedy)


def _exists(path: str) -> ConflictError:
    return ConflictError(
        f"{path} exists, and a key that is overwritten is lost",
        code="output.exists",
        remedy="choose another name, move the file away, or give --force",
    )
