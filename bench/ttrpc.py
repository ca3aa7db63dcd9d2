# SPDX-License-Identifier: Apache-2.0
"""Calls over ttrpc against their floor: many callers at once on one connection. Prints figures only.

Ours: the shim's server and the agent's client with so many callers, each of which sends a payload and waits
for it to come back. Floor: the same bytes, as many in flight, sent back by a plain asyncio echo that knows of
no frames. Client and server share one process and event loop in both; they are taken in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable

from sealpod.sandbox.channel import READ_SIZE, Channel
from sealpod.shim.server import TtrpcServer
from sealpod.wire.ttrpc import REQUEST, Frame, Request, encode_frame

SIZES = (64, 4096, 65536)
METHOD = ("bench.Echo", "Echo")


async def ours(size: int, callers: int, calls: int) -> float:
    """Seconds for ``calls`` calls by ``callers`` callers."""
    with tempfile.TemporaryDirectory(prefix="sh") as directory:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(directory, "s"))
        listener.listen()
        server = TtrpcServer(listener, {METHOD: _same})
        accepting = asyncio.create_task(server.serve())
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, listener.getsockname())
        channel, payload = Channel(connection, "the bench"), bytes(size)

        async def caller() -> None:
            for _ in range(calls // callers):
                await channel.call(*METHOD, payload)

        begin = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        taken = time.perf_counter() - begin
        await channel.close()
        connection.close()
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await server.close()
        return taken


async def _same(payload: bytes) -> bytes:
    return payload


async def floor(size: int, callers: int, calls: int) -> float:
    """Seconds for the same bytes through an echo, ``callers`` messages in flight."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    message = encode_frame(Frame(1, REQUEST, Request(*METHOD, bytes(size)).encode()))
    allowed = asyncio.Semaphore(callers)

    async def echo() -> None:
        while data := await loop.sock_recv(far, READ_SIZE):
            await loop.sock_sendall(far, data)

    async def send() -> None:
        for _ in range(calls):
            await allowed.acquire()
            await loop.sock_sendall(near, message)

    async def receive() -> None:
        received = 0
        while received < calls * len(message):
            before = received // len(message)
            received += len(await loop.sock_recv(near, READ_SIZE))
            for _ in range(received // len(message) - before):
                allowed.release()

    with near, far:
        echoing = asyncio.create_task(echo())
        begin = time.perf_counter()
        await asyncio.gather(send(), receive())
        taken = time.perf_counter() - begin
        echoing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await echoing
    return taken


Run = Callable[[int, int, int], Awaitable[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--calls", type=int, default=6400, help="calls in one run")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.callers} callers, {options.calls} calls a run, medians of {options.runs} runs")
    for size in SIZES:
        rates: dict[str, list[float]] = {"ours": [], "floor": []}
        for _ in range(options.runs):
            for name, run in (("floor", floor), ("ours", ours)):
                taken = asyncio.run(run(size, options.callers, options.calls))
                rates[name].append(options.calls / taken)
        medians = {name: statistics.median(values) for name, values in rates.items()}
        for name, rate in medians.items():
            # There and back.
            print(f"  {size:>6} bytes  {name:<5} {rate:9.0f} calls/s {2 * rate * size / 1e6:8.1f} MB/s")
        print(f"  {size:>6} bytes  ratio {medians['floor'] / medians['ours']:9.1f}")


if __name__ == "__main__":
    main()
