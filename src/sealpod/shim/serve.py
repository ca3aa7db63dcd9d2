# SPDX-License-Identifier: Apache-2.0
"""The serving process: socket, events and task service put together, until the pod is over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import Final

from sealpod.shim.arguments import Arguments
from sealpod.shim.context import ShimContext
from sealpod.shim.log import Log
from sealpod.shim.start import LISTEN_FD

WAITING: Final = frozenset(("Wait",))
GOODBYE_SECONDS: Final = 0.2
"""Time for the answer to Shutdown to leave."""


def serve(arguments: Arguments, runtime: str) -> int:
    """Serve until the pod's last container is gone and containerd said Shutdown, or on SIGTERM."""
    context = ShimContext(
        namespace=arguments.namespace,
        id=arguments.id,
        bundle=arguments.bundle or os.getcwd(),
        address=arguments.address,
        ttrpc_address=os.environ.get("TTRPC_ADDRESS") or f"{arguments.address}.ttrpc",
        runtime=runtime,
        socket=arguments.socket,
        debug=arguments.debug,
    )
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write("sealpod-shim")
    listener = socket.socket(fileno=LISTEN_FD)
    listener.set_inheritable(False)
    try:
        asyncio.run(_serve(context, listener))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(context.socket)
    return 0


async def _serve(context: ShimContext, listener: socket.socket) -> None:
    from sealpod.sandbox.podvm import start_pod
    from sealpod.shim.events import Publisher
    from sealpod.shim.server import TtrpcServer
    from sealpod.shim.service import TaskService

    log = Log(context.bundle, context.id, debug=context.debug)
    events = Publisher(context.ttrpc_address, context.namespace)
    service = TaskService(context, events, start_pod, log.say)
    server = TtrpcServer(listener, service.methods(), waiting=WAITING, report=log.say)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.finished.set)
    accepting = asyncio.create_task(server.serve())
    try:
        await service.finished.wait()
        await asyncio.sleep(GOODBYE_SECONDS)
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await service.close()
        await events.close()
        await server.close()
