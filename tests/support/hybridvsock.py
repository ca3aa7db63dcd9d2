# SPDX-License-Identifier: Apache-2.0
"""A real vsock device for a guest on a machine without ``/dev/vhost-vsock``: a daemon behind vhost-user.

``vhost-device-vsock`` (of rust-vmm) serves the device to QEMU. On the host its guest is not at a context id
but behind a unix socket, in the hybrid protocol of Firecracker: ``CONNECT PORT``, ``OK PORT``, the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = "vhost-device-vsock"
PORT: Final = 1024
KERNELS_DEVICE: Final = "vhost-vsock-pci"
PAUSE: Final = 0.1


class HybridVsock:
    """The daemon of one guest, whose files are in ``place``."""

    def __init__(self, place: Path) -> None:
        self.device = str(place / "device.socket")
        self.host = str(place / "host.socket")
        self.cid = 3
        self.dialled = 0
        self.refused = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[HybridVsock]:
        """The daemon for the length of the block."""
        vm = f"guest-cid={self.cid},uds-path={self.host},socket={self.device}"
        nothing = asyncio.subprocess.DEVNULL
        daemon = await asyncio.create_subprocess_exec(
            PROGRAM, "--vm", vm, stdin=nothing, stdout=nothing, stderr=nothing
        )
        try:
            async with asyncio.timeout(30):
                while not os.path.exists(self.device):
                    assert daemon.returncode is None, f"{PROGRAM} ended with {daemon.returncode}"
                    await asyncio.sleep(PAUSE)
            yield self
        finally:
            with contextlib.suppress(ProcessLookupError):
                daemon.kill()
            await daemon.wait()

    def reserve(self) -> tuple[int, int]:
        """Stands for ``qemu.vsock.reserve``: the address is the daemon's, there is no device to hold."""
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), self.cid

    def arguments(self, build: Callable[..., list[str]]) -> Callable[..., list[str]]:
        """Stands for ``qemu.arguments.build_arguments``: the same, with the device behind the daemon."""

        def built(*given: Any) -> list[str]:
            made = build(*given)
            (index,) = (at for at, word in enumerate(made) if word.startswith(KERNELS_DEVICE))
            made[index] = "vhost-user-vsock-pci,chardev=vsock"
            return [*made, "-chardev", f"socket,id=vsock,path={self.device}"]

        return built

    async def dial(self, cid: int, port: int = PORT) -> socket.socket:
        """Stands for ``qemu.vsock.dial``: tries until the guest's agent listens."""
        assert cid == self.cid
        while True:
            with contextlib.suppress(OSError):
                return await self.connect(port)
            self.refused += 1
            await asyncio.sleep(PAUSE)

    async def connect(self, port: int = PORT) -> socket.socket:
        """One connection to a port of the guest. OSError when nobody listens there."""
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.setblocking(False)
            await loop.sock_connect(connection, self.host)
            await loop.sock_sendall(connection, f"CONNECT {port}\n".encode())
            answer = b""
            while not answer.endswith(b"\n"):
                # Byte by byte: what follows the line is the guest's.
                if not (piece := await loop.sock_recv(connection, 1)):
                    raise ConnectionResetError(port)
                answer += piece
            assert answer.startswith(b"OK "), answer
        except BaseException:
            connection.close()
            raise
        self.dialled += 1
        return connection
