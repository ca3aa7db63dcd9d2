# SPDX-License-Identifier: Apache-2.0
"""What runs inside a kernel with vsock: both halves of the agent's channel on real AF_VSOCK sockets.

A script for :mod:`kernelhost`. ``/dev/vhost-vsock`` is the kernel's own; connections go over its loopback
(context id 1), where the agent's listener and the host's client meet without a guest between them.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import socket
import struct
import threading
import time
from typing import Any

from sealpod.agent import __main__ as agent_main
from sealpod.agent import channel as agent_channel
from sealpod.agent.console import Console
from sealpod.agent.server import Server
from sealpod.errors import SealpodError
from sealpod.qemu import vsock
from sealpod.sandbox.channel import Channel

LOCAL = 1  # VMADDR_CID_LOCAL
NOBODY = 99
BIG = 3 << 20


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def reservations() -> dict[str, Any]:
    first, cid = vsock.reserve()
    second, other = vsock.reserve()
    taken = 0
    try:
        fcntl.ioctl(second, vsock.SET_GUEST_CID, struct.pack("=Q", cid))
    except OSError as error:
        taken = error.errno or 0
    os.close(first)
    # Given back with its descriptor, as when QEMU ends.
    fcntl.ioctl(second, vsock.SET_GUEST_CID, struct.pack("=Q", cid))
    os.close(second)
    return {
        "available": vsock.available(),
        "distinct": cid != other and min(cid, other) >= vsock.FIRST_CID,
        "taken": errno.errorcode.get(taken, ""),
    }


def race() -> dict[str, Any]:
    """Sixteen guests start at once, where there are eight numbers."""
    vsock.LAST_CID = vsock.FIRST_CID + 8  # type: ignore[misc]
    got: list[tuple[int, int]] = []
    refused: list[str] = []

    def start() -> None:
        try:
            got.append(vsock.reserve())
        except SealpodError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for descriptor, _ in got:
        os.close(descriptor)
    vsock.LAST_CID = 0xFFFFFFFE  # type: ignore[misc]
    return {
        "distinct": len({cid for _, cid in got}) == len(got),
        "got": len(got),
        "refused": sorted(set(refused)),
    }


async def patience(cid: int, seconds: float) -> bool:
    """Nobody is there: the dialling goes on until it is cancelled."""
    try:
        async with asyncio.timeout(seconds):
            (await vsock.dial(cid)).close()
    except TimeoutError:
        return True
    return False


async def unanswered() -> dict[str, Any]:
    before = open_descriptors()
    device, cid = vsock.reserve()
    found = {
        "no listener": await patience(LOCAL, 1),
        "no guest": await patience(NOBODY, 1),
        # The device exists and nobody serves it: the kernel gives up each try after two seconds.
        "not yet running": await patience(cid, 5),
    }
    os.close(device)
    return {**found, "leaked": open_descriptors() - before}


def serve(listener: socket.socket) -> None:
    methods = {("t", "echo"): lambda payload: payload}
    agent_main.serve_connections(listener, lambda fd: Server(fd, methods, Console()), Console())


async def conversation() -> dict[str, Any]:
    dialling = asyncio.create_task(vsock.dial(LOCAL))
    await asyncio.sleep(0.5)
    assert not dialling.done()
    listener = await asyncio.to_thread(agent_channel.listen)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    stranger = await dialling
    # Whoever is not the host is turned away; here everybody is.
    turned_away = await asyncio.get_running_loop().sock_recv(stranger, 1) == b""
    stranger.close()
    agent_channel.HOST_CID = LOCAL  # type: ignore[misc]
    channels = []
    for _ in range(3):
        connection = await vsock.dial(LOCAL)
        channels.append(Channel(connection, "the agent"))
    big = os.urandom(BIG)
    start = time.monotonic()
    answers = await asyncio.gather(
        *(one.call("t", "echo", big, seconds=60) for one in channels for _ in range(4))
    )
    spent = time.monotonic() - start
    # One host process leaves and comes back; the others never notice.
    await channels[0].close()
    again = Channel(await vsock.dial(LOCAL), "the agent")
    calls = [
        again.call("t", "echo", b"again", seconds=60),
        channels[1].call("t", "echo", b"still", seconds=60),
    ]
    return {
        "turned away": turned_away,
        "whole": all(answer == big for answer in answers),
        "again": [answer.decode() for answer in await asyncio.gather(*calls)],
        "MiB/s": round(2 * len(answers) * BIG / spent / (1 << 20), 1),
    }


async def main() -> None:
    found = {
        "reservations": reservations(),
        "race": race(),
        "unanswered": await unanswered(),
        "conversation": await conversation(),
    }
    print("RESULT " + json.dumps(found), flush=True)


asyncio.run(main())
