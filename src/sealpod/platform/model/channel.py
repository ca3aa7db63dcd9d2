# SPDX-License-Identifier: Apache-2.0
"""Commands to the model's process: one at a time, each with a limit, each answered by its own response.

A caller that is cancelled leaves its response behind; the next one recognises it by its serial and drops it.
After a time-out or a death the channel is broken for good: every later call says so at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sealpod.errors import AccessError, DecodeError, FirmwareError, OperationError, UnavailableError
from sealpod.platform.model.commands import Command
from sealpod.platform.model.messages import ACCESS, MAX_MESSAGE, Request, Response
from sealpod.platform.model.process import ModelProcess
from sealpod.sev.status import Status

_logger = logging.getLogger(__name__)

START_LIMIT: Final = 300.0
"""Seconds for the process to be ready; making two RSA-4096 keys on a busy machine takes a good part."""
COMMAND_LIMIT: Final = 30.0
"""Seconds for one command; the slowest hashes a few MiB of flash in milliseconds."""


_KNOWN: Final = frozenset(Status)


@dataclass(frozen=True, slots=True)
class GuestMemory:
    """Memory a command may touch: which kind (``server.FLASH`` or ``server.RAM``) and its descriptor."""

    kind: int
    fd: int


class Channel:
    """The client's end. Belongs to one event loop."""

    def __init__(self, process: ModelProcess, *, command_limit: float = COMMAND_LIMIT) -> None:
        self.process = process
        self._limit = command_limit
        self._turn = asyncio.Lock()
        self._serial = 0
        self._broken: str | None = None

    async def ready(self, progress: Callable[[str], None] | None) -> None:
        """Wait until the process has its keys; tell ``progress`` when it has to make them."""
        while True:
            response = await self._receive(START_LIMIT)
            if not response.progress:
                break
            _logger.info("%s", response.progress)
            if progress is not None:
                progress(response.progress)
        _raise_refusal(response)

    async def call(
        self,
        command: Command,
        values: Mapping[str, int] | None = None,
        parts: Mapping[str, bytes] | None = None,
        *,
        memory: GuestMemory | None = None,
    ) -> Response:
        """Run one command.

        :raise FirmwareError: the firmware refused it, with its status.
        :raise UnavailableError: the process died, is closed, or did not answer in time.
        """
        numbers = dict(values or {})
        if memory is not None:
            numbers["memory"] = memory.kind
        async with self._turn:
            self._serial += 1
            request = Request(self._serial, int(command), numbers, dict(parts or {}))
            await self._send(request, [] if memory is None else [memory.fd])
            response = await self._receive(self._limit)
            while response.serial != request.serial:
                response = await self._receive(self._limit)
        _log(command, numbers, response)
        _raise_refusal(response)
        return response

    async def close(self) -> None:
        """End the process. Idempotent; a call under way ends with ``UnavailableError``."""
        self._broken = self._broken or "the model platform is closed"
        # The socket must not be closed while the event loop still watches it for that call.
        with suppress(OSError):
            self.process.socket.shutdown(socket.SHUT_RDWR)
        try:
            async with self._turn:
                pass
        finally:
            self.process.close()

    async def _send(self, request: Request, fds: list[int]) -> None:
        self._require_whole()
        packet = request.encode()
        if len(packet) > MAX_MESSAGE:
            raise OperationError(f"a command of {len(packet)} bytes", code="platform.too-large")
        try:
            # With one command under way the socket's buffer holds many packets; it is full only when a
            # process that stands still was sent commands whose callers have all been cancelled.
            socket.send_fds(self.process.socket, [packet], fds)
        except BlockingIOError:
            raise self._silent(self._limit) from None
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None
        except OSError as error:
            raise OperationError(
                f"cannot pass the guest's memory to the model platform: {error.strerror}",
                code="platform.guest-memory",
            ) from error

    async def _receive(self, limit: float) -> Response:
        self._require_whole()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit):
                packet = await loop.sock_recv(self.process.socket, MAX_MESSAGE)
        except TimeoutError:
            raise self._silent(limit) from None
        except ConnectionResetError:
            packet = b""
        if not packet:
            raise self._died()
        try:
            return Response.decode(packet)
        except DecodeError as error:
            self._broken = f"the model platform answered nonsense: {error.message}"
            self.process.close()
            raise OperationError(self._broken, code="platform.protocol") from error

    def _require_whole(self) -> None:
        if self._broken is not None:
            raise UnavailableError(self._broken, code="platform.closed", remedy="open the platform again")

    def _died(self) -> UnavailableError:
        self._require_whole()
        error = self.process.obituary()
        self._broken = error.message
        return error

    def _silent(self, limit: float) -> UnavailableError:
        message = f"the model platform did not answer within {limit:g} s and was stopped"
        self._broken = message
        self.process.close()
        return UnavailableError(
            message,
            code="platform.silent",
            remedy="check if the machine is overloaded or another process holds the state directory's lock",
        )


def _log(command: Command, values: Mapping[str, int], response: Response) -> None:
    handle = values.get("handle") or response.values.get("handle")
    guest = f", guest {handle}" if handle else ""
    status = Status(response.status).name if response.status in _KNOWN else str(response.status)
    _logger.info("model platform: %s%s: %s", command.name, guest, status)


def _raise_refusal(response: Response) -> None:
    if not response.status:
        return
    message = f"model platform: {response.message}"
    if response.fault == ACCESS:
        raise AccessError(message, code=response.code, remedy=response.remedy)
    raise FirmwareError(message, status=response.status, code=response.code, remedy=response.remedy)
