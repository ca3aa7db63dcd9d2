# SPDX-License-Identifier: Apache-2.0
"""A scripted ``/dev/sev``: what Linux' driver does, in front of the model's firmware, so that crypto happens.

Written after the driver (drivers/crypto/ccp/sev-dev.c): which command needs the device open for writing,
which initialises the platform, what is -EIO with a status and what fails before. Structures are read and
written through their addresses, as the kernel does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping

from sealpod.platform.model.chip import Chip
from sealpod.platform.model.commands import Command, execute
from sealpod.platform.model.firmware import Firmware, NonVolatile
from sealpod.platform.model.memory import Memory
from sealpod.platform.model.messages import Request, Response
from sealpod.sev.status import Status

ISSUE_CMD = 0xC0105300
RESET, STATUS, PEK_GEN, PEK_CSR, PDH_GEN, EXPORT, IMPORT, _, GET_ID2 = range(9)
BLOB_MAX = 0x4000
ENOTSUPP = 524


class ScriptedFirmware:
    """The firmware behind kernel and KVM of one machine."""

    def __init__(self, chip: Chip, store: NonVolatile) -> None:
        self.firmware = Firmware(chip, store, os.urandom)
        self.log: list[str] = []

    def send(
        self,
        command: Command,
        parts: Mapping[str, bytes] | None = None,
        memory: Memory | None = None,
        **values: int,
    ) -> Response:
        """One command, answered by the firmware's rules."""
        self.log.append(command.name)
        return execute(self.firmware, Request(1, int(command), values, parts or {}), memory)

    def initialise(self) -> Response:
        """The driver's INIT: for SEV-ES, and once more when the store was corrupt."""
        if self.firmware.state:
            return Response(1)
        answer = self.send(Command.INIT, flags=1)
        return answer if answer.status != Status.SECURE_DATA_INVALID else self.send(Command.INIT, flags=1)


class ScriptedDevice:
    """``fcntl.ioctl`` for one descriptor. ``fail`` holds errnos with which the next calls end."""

    def __init__(self, machine: ScriptedFirmware, *, writable: bool = True) -> None:
        self.machine = machine
        self.writable = writable
        self.fail: list[int] = []
        self.calls: list[int] = []

    def __call__(self, _fd: int, request: int, argument: bytearray) -> int:
        if request != ISSUE_CMD or len(argument) != 16:
            raise OSError(errno.EINVAL, "")
        command, data, _ = struct.unpack("<IQI", argument)
        self.calls.append(command)
        if self.fail:
            raise OSError(self.fail.pop(0), "")
        number, status = self._run(command, data)
        struct.pack_into("<I", argument, 12, status)
        if number:
            raise OSError(number, "")
        return 0

    def _run(self, command: int, data: int) -> tuple[int, int]:
        if command == STATUS:
            return self._status(data)
        if command == GET_ID2:
            return self._get_id(data)
        if command == RESET:
            return self._reset()
        if command == EXPORT:
            return self._export(data)
        if command in (PEK_GEN, PDH_GEN, PEK_CSR, IMPORT):
            if not self.writable:
                return errno.EPERM, 0
            return self._change(command, data)
        return errno.EINVAL, 0

    def _status(self, data: int) -> tuple[int, int]:
        values = self.machine.send(Command.PLATFORM_STATUS).values
        flags = values["owned"] | values["es"] << 8
        version = (values["api_major"], values["api_minor"], values["state"])
        _put(data, struct.pack("<BBBIBI", *version, flags, values["build"], values["guest_count"]))
        return 0, 0

    def _get_id(self, data: int) -> tuple[int, int]:
        address, length = struct.unpack("<QI", _get(data, 12))
        answer = self.machine.send(Command.GET_ID, length=length)
        _put(data + 8, struct.pack("<I", answer.values.get("length", 64)))
        if address and not answer.status:
            _put(address, answer.parts["id"])
        return _ended(answer)

    def _reset(self) -> tuple[int, int]:
        if not self.writable:
            return errno.EPERM, 0
        if self.machine.firmware.state == 2:
            return errno.EBUSY, 0
        if self.machine.firmware.state == 1:
            self.machine.send(Command.SHUTDOWN)
        return _ended(self.machine.send(Command.PLATFORM_RESET))

    def _export(self, data: int) -> tuple[int, int]:
        if not self.machine.firmware.state:
            if not self.writable:
                return errno.EPERM, 0
            if (begun := self.machine.initialise()).status:
                return _ended(begun)
        pdh, pdh_length, chain, chain_length = struct.unpack("<QIQI", _get(data, 24))
        if pdh_length > BLOB_MAX or chain_length > BLOB_MAX:
            return errno.EINVAL, 0
        answer = self.machine.send(Command.PDH_CERT_EXPORT, pdh_length=pdh_length, chain_length=chain_length)
        if answer.status == Status.INVALID_LENGTH:
            needed = answer.values["pdh_length"], answer.values["chain_length"]
            _put(data, struct.pack("<QIQI", pdh, needed[0], chain, needed[1]))
        if not answer.status:
            _put(pdh, answer.parts["pdh"])
            _put(chain, answer.parts["chain"])
        return _ended(answer)

    def _change(self, command: int, data: int) -> tuple[int, int]:
        if command == IMPORT:
            pek, pek_length, oca, oca_length = struct.unpack("<QIQI", _get(data, 24))
            if pek_length > BLOB_MAX or oca_length > BLOB_MAX:
                return errno.EINVAL, 0
            parts = {"pek": _get(pek, pek_length), "oca": _get(oca, oca_length)}
        if (begun := self.machine.initialise()).status:
            return _ended(begun)
        if command == IMPORT:
            return _ended(self.machine.send(Command.PEK_CERT_IMPORT, parts))
        if command == PEK_CSR:
            address, length = struct.unpack("<QI", _get(data, 12))
            answer = self.machine.send(Command.PEK_CSR, length=length)
            _put(data + 8, struct.pack("<I", answer.values.get("length", length)))
            if not answer.status:
                _put(address, answer.parts["pek"])
            return _ended(answer)
        return _ended(self.machine.send(Command.PEK_GEN if command == PEK_GEN else Command.PDH_GEN))


def _ended(answer: Response) -> tuple[int, int]:
    return (errno.EIO if answer.status else 0), answer.status


def _get(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def _put(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))
