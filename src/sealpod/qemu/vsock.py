# SPDX-License-Identifier: Apache-2.0
"""A guest's address on vsock: reserve one, and dial the agent behind it.

The kernel hands out no context ids; whoever starts a guest tries numbers until one is free. The descriptor
of ``/dev/vhost-vsock`` holds the reservation and is passed on to QEMU, so that nobody else can take the
number in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import socket
import struct
from typing import Final

from sealpod.errors import OperationError

DEVICE: Final = "/dev/vhost-vsock"
AGENT_PORT: Final = 1024
SET_GUEST_CID: Final = 0x4008AF60  # linux/vhost.h, VHOST_VSOCK_SET_GUEST_CID
FIRST_CID: Final = 3  # 0 to 2 are the hypervisor's, reserved and the host's
LAST_CID: Final = 0xFFFFFFFE
ATTEMPTS: Final = 50
RETRY_SECONDS: Final = 0.1


def available() -> bool:
    """Whether guests of this host can have vsock, found out by use.

    The device's node may be there without its module, and a container's seccomp filter may leave the device
    and deny its sockets.
    """
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
        _socket().close()
    except (OSError, OperationError):
        return False
    return True


def reserve() -> tuple[int, int]:
    """A descriptor of the device and the context id it holds. Close the descriptor to give it back."""
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _failure(error) from error
    try:
        return device, _take(device)
    except BaseException:
        os.close(device)
        raise


def _take(device: int) -> int:
    for _ in range(ATTEMPTS):
        cid = FIRST_CID + secrets.randbelow(LAST_CID - FIRST_CID)
        try:
            fcntl.ioctl(device, SET_GUEST_CID, struct.pack("=Q", cid))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _failure(error) from error
        else:
            return cid
    raise OperationError(f"no free vsock address in {ATTEMPTS} tries", code="launch.vsock")


def _socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError as error:
        raise _failure(error, "have a vsock socket") from error


def _failure(error: OSError, what: str = f"take a vsock address on {DEVICE}") -> OperationError:
    return OperationError(
        f"cannot {what}: {error.strerror}",
        code="launch.vsock",
        remedy="load the module vhost_vsock, or remove the device to use virtio-serial",
    )


async def dial(cid: int, port: int = AGENT_PORT) -> socket.socket:
    """A connection to the guest's agent. Tries as long as it is let: the guest is still booting.

    Until the guest's driver is there the kernel gives up each try after two seconds (ETIMEDOUT), after that
    the guest refuses it (ECONNRESET) until its agent listens.
    """
    loop = asyncio.get_running_loop()
    while True:
        connection = _socket()
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                # The address family is not one asyncio resolves names of.
                await loop.sock_connect(connection, (cid, port))
                undo.pop_all()
                return connection
        await asyncio.sleep(RETRY_SECONDS)
