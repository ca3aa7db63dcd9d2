# SPDX-License-Identifier: Apache-2.0
"""The model's process: take commands from the private socket one by one until the other end closes it.

The process has no name, no port and no file others could reach it by; whoever holds the other end of the
socket is its operator. It never outlives its parent, ignores the terminal's signals (it runs in a session of
its own) and leaves no core dump, which would hold its keys.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Final

from sealpod.errors import AccessError, DecodeError, SealpodError
from sealpod.platform.model.audit import AuditLog
from sealpod.platform.model.chip import Chip
from sealpod.platform.model.commands import Command, command_name, execute, refusal
from sealpod.platform.model.filememory import FileMemory
from sealpod.platform.model.firmware import Firmware
from sealpod.platform.model.launching import VMSA_SIZE
from sealpod.platform.model.memory import Memory
from sealpod.platform.model.messages import MAX_MESSAGE, Request, Response
from sealpod.platform.model.store import StateDirectory, rsa_key
from sealpod.sev.status import Status

FLASH: Final = 1
"""Value ``memory`` of a request: the descriptor is a sealed copy of the flash, which ends at 4 GiB."""
RAM: Final = 2
"""Value ``memory`` of a request: the descriptor is the guest's RAM, which starts at 0."""
PAGE: Final = 3
"""Value ``memory`` of a request: the descriptor is a sealed page of registers, at 0."""

_TOP_OF_FLASH: Final = 4 << 30
_LOW_RAM: Final = 2 << 30
"""Bytes of RAM whose file offset is the guest physical address on every QEMU machine type."""
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_MAX_FDS: Final = 1
# linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4

# Commands that look at the state directory: two processes must not both find it empty, or both change it.
_ALONE: Final = frozenset(
    (
        Command.INIT,
        Command.PLATFORM_RESET,
        Command.PEK_GEN,
        Command.PEK_CSR,
        Command.PEK_CERT_IMPORT,
        Command.PDH_GEN,
    )
)


def run(state: str, fd: int) -> int:
    """Serve the SOCK_SEQPACKET socket ``fd`` with the platform kept in ``state``; returns the exit status."""
    _guard_process()
    # The operator may leave at any time; that is the end of this process and no error.
    with socket.socket(fileno=fd) as peer, suppress(BrokenPipeError, ConnectionResetError):
        try:
            store = StateDirectory(state)
            chip = _chip(store, peer)
        except SealpodError as error:
            peer.send(refusal(0, error).encode())
            return error.exit_status
        except OSError as error:
            peer.send(refusal(0, _unusable(state, error)).encode())
            return 1
        peer.send(Response(0).encode())
        _serve(peer, Firmware(chip, store, os.urandom), store, AuditLog(store.path, time.time))
    return 0


def _guard_process() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # The socket's end-of-file would do, unless another child of the parent holds a copy of its end.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _chip(store: StateDirectory, peer: socket.socket) -> Chip:
    text = f"creating the model platform's keys in {store.path} (once; takes some seconds)"
    return store.chip(os.urandom, rsa_key, lambda: _tell(peer, text))


def _tell(peer: socket.socket, text: str) -> None:
    peer.send(Response(0, progress=text).encode())


def _unusable(state: str, error: OSError) -> SealpodError:
    text = f"cannot use the platform's state directory {state}: {error.strerror}"
    remedy = "choose a directory this user can write to with --platform-state"
    if isinstance(error, PermissionError):
        return AccessError(text, code="platform.state-access", remedy=remedy)
    return Status.HWERROR_PLATFORM.error(text, remedy=remedy)


def _serve(peer: socket.socket, firmware: Firmware, store: StateDirectory, audit: AuditLog) -> None:
    while True:
        packet, fds, flags, _ = socket.recv_fds(peer, MAX_MESSAGE, _MAX_FDS)
        try:
            if not packet:
                return
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise DecodeError("the packet was cut short")
            request = Request.decode(packet)
            response = _answer(firmware, store, request, fds)
            _note(audit, request, response)
        finally:
            for fd in fds:
                os.close(fd)
        peer.send(response.encode())


def _note(audit: AuditLog, request: Request, response: Response) -> None:
    """Audit a command that was run. A guest is not given up for a disk that is full."""
    handle = request.values.get("handle") or response.values.get("handle")
    with suppress(OSError):
        audit.record(command_name(request.command), handle, Status(response.status).name)


def _answer(firmware: Firmware, store: StateDirectory, request: Request, fds: Sequence[int]) -> Response:
    try:
        memory = _memory(request.values.get("memory", 0), fds)
        with store.locked() if request.command in _ALONE else nullcontext():
            return execute(firmware, request, memory)
    except SealpodError as error:
        return refusal(request.serial, error)
    except OSError as error:
        return refusal(request.serial, _unusable(store.path, error))


def _memory(kind: int, fds: Sequence[int]) -> Memory | None:
    if not fds:
        return None
    if kind == RAM:
        return FileMemory(fds[0], base=0, limit=_LOW_RAM)
    if kind == FLASH and _is_sealed(fds[0]):
        size = os.fstat(fds[0]).st_size
        return FileMemory(fds[0], base=_TOP_OF_FLASH - size, limit=size)
    if kind == PAGE and _is_sealed(fds[0]):
        return FileMemory(fds[0], base=0, limit=VMSA_SIZE)
    raise Status.INVALID_PARAM.error("the descriptor is neither RAM nor a sealed copy")


def _is_sealed(fd: int) -> bool:
    # What is measured must be what was read from the guest, whatever the sender does meanwhile.
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False
