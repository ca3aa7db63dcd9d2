# SPDX-License-Identifier: Apache-2.0
"""Physical memory through ``/dev/mem``.

A kernel built with STRICT_DEVMEM lets through only what is not its own RAM, which holds for the firmware's
tables and for a reserved secret area. ``read``/``write`` go through the kernel's linear map, where a page
that was taken out of it faults; mapping has no such need. So each access maps first and falls back to
``read``/``write`` where mapping is refused.
"""

from __future__ import annotations

import mmap
import os
from typing import Final, Protocol

from sealpod.errors import AccessError

PAGE_SIZE: Final = 4096
"""Bytes; x86-64."""
DEV_MEM: Final = "/dev/mem"


class PhysicalMemory(Protocol):
    """Bytes by guest physical address."""

    def read(self, address: int, size: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


class DevMem:
    """:class:`PhysicalMemory` over a device or file. Raises :class:`AccessError` (``kbc.memory``)."""

    def __init__(self, path: str = DEV_MEM) -> None:
        self._path = path

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes at ``address``."""
        return self._access(address, size, None)

    def write(self, address: int, data: bytes) -> None:
        """Replace the bytes at ``address``."""
        self._access(address, len(data), data)

    def _access(self, address: int, size: int, data: bytes | None) -> bytes:
        try:
            handle = os.open(self._path, os.O_RDWR if data is not None else os.O_RDONLY)
        except OSError as exc:
            raise _refused(self._path, address, exc) from exc
        try:
            return self._through(handle, address, size, data)
        except (OSError, ValueError) as exc:
            raise _refused(self._path, address, exc) from exc
        finally:
            os.close(handle)

    def _through(self, handle: int, address: int, size: int, data: bytes | None) -> bytes:
        start = address & -PAGE_SIZE
        skip = address - start
        length = (skip + size + PAGE_SIZE - 1) & -PAGE_SIZE
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if data is not None else 0)
        try:
            window = mmap.mmap(handle, length, mmap.MAP_SHARED, protection, offset=start)
        except (OSError, ValueError):
            return _plain(handle, address, size, data)
        with window:
            if data is not None:
                window[skip : skip + size] = data
            return window[skip : skip + size]


def _plain(handle: int, address: int, size: int, data: bytes | None) -> bytes:
    if data is not None:
        if os.pwrite(handle, data, address) != size:
            raise OSError("short write")
        return data
    found = os.pread(handle, size, address)
    if len(found) != size:
        raise OSError("short read")
    return found


def _refused(path: str, address: int, cause: Exception) -> AccessError:
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return AccessError(
        f"{path} does not give access to guest memory at {address:#x}: {reason}",
        code="kbc.memory",
        remedy="boot a guest kernel that keeps the secret area reserved or has the efi_secret module",
    )
