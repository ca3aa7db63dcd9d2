# SPDX-License-Identifier: Apache-2.0
"""The serving process: socket, events and task service put together, until the pod is over.

The socket takes connections before this process has loaded what it needs, so nothing here is in a hurry. At
the end the socket goes first: whoever finds none knows that the pod is being taken down.
"""

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
GOODBYE_SECONDS: Final = 0.5
"""Time for the answers to calls in flight at the end, that to Shutdown among them."""
PROCESS_NAME: Final = "sealpod-shim"
MAX_OOM_SCORE: Final = 1000


def serve(arguments: Arguments, runtime: str) -> int:
    """Serve until the pod's last container is gone and containerd said Shutdown, or on SIGTERM."""
    context = context_of(arguments, runtime)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _settle()
    listener = socket.socket(fileno=LISTEN_FD)
    listener.set_inheritable(False)
    log = Log(context.bundle, context.id, debug=context.debug)
    try:
        asyncio.run(_serve(context, listener, log))
    except Exception as error:
        from sealpod.shim.main import describe

        log.say(f"the shim ends: {describe(error)}")
        raise
    finally:
        _remove(context.socket)
        log.close()
    return 0


def context_of(arguments: Arguments, runtime: str) -> ShimContext:
    """What the server knows of itself."""
    return ShimContext(
        namespace=arguments.namespace,
        id=arguments.id,
        bundle=arguments.bundle or os.getcwd(),
        address=arguments.address,
        ttrpc_address=os.environ.get("TTRPC_ADDRESS") or f"{arguments.address}.ttrpc",
        runtime=runtime,
        socket=arguments.socket,
        debug=arguments.debug,
    )


def _settle() -> None:
    """A name to be found by, and one point more for the kernel's choice of whom to kill than containerd."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(PROCESS_NAME)
    with (
        contextlib.suppress(OSError, ValueError),
        open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file,
    ):
        score = min(int(file.read()) + 1, MAX_OOM_SCORE)
        file.seek(0)
        file.write(str(score))


async def _serve(context: ShimContext, listener: socket.socket, log: Log) -> None:
    from sealpod.sandbox.podvm import start_pod
    from sealpod.shim.events import Publisher
    from sealpod.shim.server import TtrpcServer
    from sealpod.shim.service import TaskService

    log.take_records()
    events = Publisher(context.ttrpc_address, context.namespace, report=log.say)
    service = TaskService(context, events, start_pod, log.say)
    server = TtrpcServer(listener, service.methods(), waiting=WAITING, report=log.say)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.finished.set)
    accepting = asyncio.create_task(server.serve())
    finished = asyncio.create_task(service.finished.wait())
    try:
        await asyncio.wait((accepting, finished), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (accepting, finished):
            task.cancel()
        await asyncio.gather(accepting, finished, return_exceptions=True)
        # Removed while it still listens: nobody else can have made one of the same name yet.
        _remove(context.socket)
        listener.close()
        await service.close()
        await server.drain(GOODBYE_SECONDS)
        await events.close()
        await server.close()


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
