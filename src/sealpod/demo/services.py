# SPDX-License-Identifier: Apache-2.0
"""The servers of the demonstration: docker-registry and sealpod's key broker, each a process on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Final

from sealpod.errors import DeadlineError, NotFoundError, OperationError

READY_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05
STOP_SECONDS: Final = 10.0
LOOPBACK: Final = "127.0.0.1"
LISTENING: Final = "listening on "


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def registry(directory: str) -> AsyncIterator[str]:
    """A docker-registry storing in ``directory``; yields its HOST:PORT."""
    program = shutil.which("docker-registry")
    if program is None:
        raise NotFoundError("docker-registry is not installed", remedy="install the package docker-registry")
    os.makedirs(directory, exist_ok=True)
    address = f"{LOOPBACK}:{free_port()}"
    config = os.path.join(directory, "config.yml")
    with open(config, "w", encoding="utf-8") as target:
        target.write(
            f"version: 0.1\nlog: {{level: warn}}\n"
            f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\nhttp: {{addr: {address}}}\n"
        )
    async with _process([program, "serve", config], os.path.join(directory, "registry.log")) as process:
        await _until_listening(process, address, "docker-registry")
        yield address


@contextlib.asynccontextmanager
async def broker(directory: str, trusted_ark: str) -> AsyncIterator[str]:
    """A key broker with its database in ``directory``, trusting one model's ARK; yields its HOST:PORT."""
    arguments = [
        *(sys.executable, "-m", "sealpod.cli.main", "kbs", "serve", "--listen", f"{LOOPBACK}:0"),
        *("--database", f"sqlite:///{directory}/kbs.db", "--trust-ark", trusted_ark),
    ]
    log = os.path.join(directory, "kbs.log")
    async with _process(arguments, log) as process:
        yield await _announced(process, log)


@contextlib.asynccontextmanager
async def _process(arguments: Sequence[str], log: str) -> AsyncIterator[asyncio.subprocess.Process]:
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=target,
            stderr=target,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        await asyncio.shield(_stop(process))


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _until_listening(process: asyncio.subprocess.Process, address: str, name: str) -> None:
    host, _, port = address.rpartition(":")
    async with _ready(name):
        while True:
            _still_running(process, name)
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(POLL_SECONDS)


async def _announced(process: asyncio.subprocess.Process, log: str) -> str:
    async with _ready("the key broker"):
        while True:
            with open(log, encoding="utf-8", errors="replace") as source:
                for line in source:
                    if LISTENING in line and line.endswith("\n"):
                        return line.rsplit(LISTENING, 1)[1].split()[0].rstrip(",")
            _still_running(process, f"the key broker (see {log})")
            await asyncio.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def _ready(name: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(READY_SECONDS):
            yield
    except TimeoutError as error:
        raise DeadlineError(f"{name} was not ready within {READY_SECONDS:g} s") from error


def _still_running(process: asyncio.subprocess.Process, name: str) -> None:
    if process.returncode is not None:
        raise OperationError(f"{name} ended with status {process.returncode} while starting")
