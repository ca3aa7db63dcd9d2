# SPDX-License-Identifier: Apache-2.0
"""``python3 -I -m sealpod.agent``: the guest's first and only program.

The order is made for an emulated processor, where imports are most of the start: mount, open the channel, say
that the agent is ready, then import what pulling needs in the background while the host's first calls
are answered. If PID 1 fails, it says why on the console and powers the machine off.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final

from sealpod.agent import boot, channel, parameters
from sealpod.agent.console import Console
from sealpod.agent.images import Images
from sealpod.agent.reaper import Reaper
from sealpod.agent.runtime import Runtime
from sealpod.agent.sandbox import ROOT, Sandbox
from sealpod.agent.server import Server
from sealpod.agent.service import Service
from sealpod.errors import DecodeError, SealpodError, UsageError
from sealpod.wire.agentapi import AGENT

MAX_CONNECTIONS: Final = 8
HELP = "The guest's agent. Runs as PID 1 of a sealpod guest; there is nothing to run by hand."


def run(console: Console) -> None:
    """Serve until the machine is told to end."""
    boot.prepare()
    settings = parameters.parse(boot.command_line())
    console.verbose = settings.debug
    way = channel.open_channel()
    console.say("agent ready")
    images = Images(settings, os.path.join(ROOT, "image"), console)
    threading.Thread(target=images.prepare, name="prepare", daemon=True).start()
    reaper = Reaper()
    reaper.start()
    silent = not settings.endpoints.allows("ReadStreamRequest")
    sandbox = Sandbox(images.pull, reaper, Runtime(reaper), silent=silent, privileged=settings.privileged)
    service = Service(sandbox)
    ended = threading.Event()
    after = {(AGENT, "DestroySandbox"): ended.set}

    def server(descriptor: int) -> Server:
        refusals = settings.endpoints.refusals()
        return Server(descriptor, service.methods(), console, after=after, refusals=refusals)

    threading.Thread(target=_serve, args=(way, server, console, ended), name="serve", daemon=True).start()
    ended.wait()


def _serve(
    way: int | socket.socket, server: Callable[[int], Server], console: Console, ended: threading.Event
) -> None:
    """One server per connection of the host, until the sandbox is destroyed."""
    try:
        if isinstance(way, int):
            while True:
                channel.wait_for_host(way)
                _serve_one(server(way), console)
        else:
            serve_connections(way, server, console)
    except Exception as exc:  # noqa: BLE001 (without this thread nobody could end the machine)
        console.say(f"agent failed: {describe(exc)}")
        ended.set()


def serve_connections(listener: socket.socket, server: Callable[[int], Server], console: Console) -> None:
    """Serve many connections, a few at a time: another waits until one of them ends."""
    free = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def serve(connection: socket.socket) -> None:
        serving = server(connection.fileno())
        try:
            _serve_one(serving, console)
        finally:
            # Wake a writer that still waits for a reader, before its descriptor goes.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            serving.close()
            connection.close()
            free.release()

    while True:
        free.acquire()
        connection = channel.accept(listener)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def _serve_one(serving: Server, console: Console) -> None:
    try:
        serving.serve()
    except DecodeError as exc:
        console.say(exc.one_line())


def main() -> int:
    """Console entry point."""
    console = Console()
    if os.getpid() != 1:
        sys.stdout.write(f"{HELP}\n")
        return 0 if "--help" in sys.argv else UsageError.exit_status
    try:
        run(console)
    except BaseException as exc:  # noqa: BLE001 (PID 1 must not end, whatever happened)
        console.say(f"agent failed: {describe(exc)}")
    return boot.power_off()


def describe(exc: BaseException) -> str:
    """An error in one line."""
    return exc.one_line() if isinstance(exc, SealpodError) else f"{type(exc).__name__}: {exc}"


if __name__ == "__main__":
    sys.exit(main())
