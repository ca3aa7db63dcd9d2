# SPDX-License-Identifier: Apache-2.0
"""The state directory of a software platform: its chip record and its sealed identity.

::

    DIR/            0700
      lock          flock()ed around every creation and every INIT
      chip          the chip record (chip.py); made once, never replaced
      identity      the sealed identity (identity.py); the firmware's persistent store
      asids         locked bytes: which address space ids are taken (asids.py)
      audit         a line for each command (audit.py); audit.1 the ones before

Two processes that start at once agree because both look under the lock; files are written beside and renamed
into place, so that a crash leaves the old content or the new, never half of it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from sealpod.errors import AccessError, DecodeError
from sealpod.platform.model.chip import CA_KEY_BITS, Chip, RandomBytes, RsaSource, make_chip
from sealpod.platform.model.identity import MAX_SEALED
from sealpod.sev.status import Status

_CHIP: Final = "chip"
_IDENTITY: Final = "identity"
_LOCK: Final = "lock"
_PUBLIC_EXPONENT: Final = 65537
_TEMPORARY: Final = ".new"


def rsa_key() -> rsa.RSAPrivateKey:
    """A fresh key for an ARK or ASK. Takes seconds."""
    return rsa.generate_private_key(public_exponent=_PUBLIC_EXPONENT, key_size=CA_KEY_BITS)


class StateDirectory:
    """One state directory, made when it does not exist.

    :raise AccessError: it belongs to somebody else or others may look into it.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
        info = os.stat(self.path)
        if not stat.S_ISDIR(info.st_mode):
            raise AccessError(
                f"the platform's state directory {self.path} is no directory",
                code="platform.state-access",
                remedy="name a directory with --platform-state; one that does not exist is made",
            )
        if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
            raise AccessError(
                f"the platform's state directory {self.path} is not this user's alone",
                code="platform.state-access",
                remedy=f"chown it to the user who runs sealpod and `chmod 700 {self.path}`",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all processes on this directory. Waits."""
        fd = os.open(self._file(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def chip(self, rng: RandomBytes, make_rsa_key: RsaSource, creating: Callable[[], None]) -> Chip:
        """The directory's chip, made on first use; ``creating`` is called before that takes its time.

        :raise FirmwareError: SECURE_DATA_INVALID when the record is corrupt. It is left alone: making
            another would silently change the root that key brokers were told to trust.
        """
        with self.locked():
            record = self._read(_CHIP)
            if record is None:
                creating()
                # An identity without its chip can never be unsealed again.
                self.erase()
                chip = make_chip(rng, make_rsa_key)
                self._write(_CHIP, chip.encode())
                return chip
        try:
            return Chip.decode(record)
        except DecodeError as error:
            raise Status.SECURE_DATA_INVALID.error(
                f"the model platform's keys in {self._file(_CHIP)} are corrupt ({error.message})",
                remedy=f"restore the file, or move {self.path} away to get a new platform, "
                "whose ARK key brokers must then be told to trust",
            ) from error

    def load(self) -> bytes | None:
        """The sealed identity, if there is one (for the firmware, under the lock)."""
        return self._read(_IDENTITY)

    def save(self, data: bytes) -> None:
        """Replace the sealed identity (for the firmware, under the lock)."""
        self._write(_IDENTITY, data)

    def erase(self) -> None:
        """Delete the sealed identity (for the firmware, under the lock)."""
        with suppress(FileNotFoundError):
            os.unlink(self._file(_IDENTITY))

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _read(self, name: str) -> bytes | None:
        try:
            with open(self._file(name), "rb") as file:
                return file.read(MAX_SEALED + 1)
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: bytes) -> None:
        target = self._file(name)
        temporary = target + _TEMPORARY
        # Whoever holds the lock may remove what a crashed predecessor left.
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, target)
        except BaseException:
            # A disk that is full is to get its room back, and half a key is nobody's.
            with suppress(OSError):
                os.unlink(temporary)
            raise
        self._sync_directory()

    def _sync_directory(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
