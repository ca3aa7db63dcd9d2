# SPDX-License-Identifier: Apache-2.0
"""Taking a vsock address and dialling it, with the kernel's answers made up.

The kernel's own answers: tests/e2e/test_vsock_host.py.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from sealpod.errors import OperationError
from sealpod.qemu import vsock


class Kernel:
    """Remembers which numbers are taken, and fails with ``error`` where that is set."""

    def __init__(self) -> None:
        self.taken: dict[int, int] = {}
        self.asked: list[int] = []
        self.error = 0

    def ioctl(self, device: int, request: int, argument: bytes) -> int:
        assert request == 0x4008AF60
        (cid,) = struct.unpack("=Q", argument)
        self.asked.append(cid)
        if self.error or cid in self.taken:
            raise OSError(self.error or errno.EADDRINUSE, "no")
        self.taken[cid] = device
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    made = Kernel()
    (tmp_path / "device").touch()
    monkeypatch.setattr(vsock, "DEVICE", str(tmp_path / "device"))
    monkeypatch.setattr(vsock.fcntl, "ioctl", made.ioctl)
    return made


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def numbers(monkeypatch: pytest.MonkeyPatch, *offsets: int) -> None:
    """What chance gives, and then the last one for ever."""
    left = list(offsets)
    monkeypatch.setattr(vsock.secrets, "randbelow", lambda _top: left.pop(0) if len(left) > 1 else left[0])


def test_a_taken_number_is_passed_over(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers(monkeypatch, 7, 7, 8)
    first, cid = vsock.reserve()
    second, other = vsock.reserve()
    assert (cid, other) == (10, 11)
    assert kernel.asked == [10, 10, 11]
    assert kernel.taken == {10: first, 11: second}
    for descriptor in (first, second):
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize(
    ("error", "tries", "text"),
    [(0, vsock.ATTEMPTS, "no free vsock address"), (errno.EINVAL, 1, "cannot take a vsock address")],
)
def test_what_cannot_be_reserved_leaves_no_descriptor(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, error: int, tries: int, text: str
) -> None:
    kernel.taken[vsock.FIRST_CID] = -1
    kernel.error = error
    numbers(monkeypatch, 0)
    before = descriptors()
    with pytest.raises(OperationError, match=text) as caught:
        vsock.reserve()
    assert caught.value.code == "launch.vsock"
    assert len(kernel.asked) == tries
    assert descriptors() == before


def test_a_device_that_cannot_be_opened_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vsock, "DEVICE", str(tmp_path / "absent"))
    assert not vsock.available()
    with pytest.raises(OperationError, match="No such file") as caught:
        vsock.reserve()
    assert "vhost_vsock" in (caught.value.remedy or "")


class Sockets:
    """Stands for the socket module: sockets whose connections the test answers."""

    AF_VSOCK, SOCK_STREAM = socket.AF_VSOCK, socket.SOCK_STREAM

    def __init__(self, *, denied: bool = False) -> None:
        self.denied = denied
        self.made: list[socket.socket] = []

    def socket(self, family: int, kind: int) -> socket.socket:
        assert (family, kind) == (socket.AF_VSOCK, socket.SOCK_STREAM)
        if self.denied:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported")
        self.made.append(socket.socket(socket.AF_UNIX))
        return self.made[-1]


def test_the_device_without_its_sockets_is_not_enough(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vsock, "socket", Sockets())
    assert vsock.available()
    monkeypatch.setattr(vsock, "socket", Sockets(denied=True))
    assert not vsock.available()
    assert kernel.asked == []
    with pytest.raises(OperationError, match="cannot have a vsock socket"):
        asyncio.run(vsock.dial(3))


def test_a_guest_that_refuses_is_asked_again_with_a_new_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [errno.ETIMEDOUT, errno.ENODEV, errno.ECONNRESET, 0]
    dialled: list[Any] = []
    sockets = Sockets()
    monkeypatch.setattr(vsock, "socket", sockets)
    monkeypatch.setattr(vsock, "RETRY_SECONDS", 0)

    async def connect(connection: socket.socket, address: Any) -> None:
        assert connection.getblocking() is False
        dialled.append(address)
        if error := answers.pop(0):
            raise OSError(error, os.strerror(error))

    async def scenario() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connect)
        made = await vsock.dial(1234)
        assert made is sockets.made[-1]
        made.close()

    asyncio.run(scenario())
    assert dialled == [(1234, 1024)] * 4
    assert all(one.fileno() == -1 for one in sockets.made)


def test_a_cancelled_dialling_closes_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = Sockets()
    monkeypatch.setattr(vsock, "socket", sockets)

    async def scenario() -> None:
        reached = asyncio.Event()

        async def connect(_connection: socket.socket, _address: Any) -> None:
            reached.set()
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connect)
        task = asyncio.create_task(vsock.dial(1234))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert [one.fileno() for one in sockets.made] == [-1]
