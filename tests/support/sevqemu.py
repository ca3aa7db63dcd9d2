# SPDX-License-Identifier: Apache-2.0
"""A scripted QEMU with an SEV guest: its command line in, the firmware's commands in QEMU's order, QMP out.

The answers have the fields QEMU 7.2 and 10.0 have by their own account (``SCHEMA``, recorded from
query-qmp-schema); from 9.1 on query-sev is a union, told apart by ``sev-type``. Error texts are QEMU's
(target/i386/sev.c).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sevdevice import ScriptedFirmware

from sealpod.errors import LaunchError
from sealpod.platform.model.commands import Command
from sealpod.platform.model.messages import Response
from sealpod.platform.port import QemuNeeds
from sealpod.sev.status import Status

SCHEMA: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "query-sev": (
        {},
        {
            "enabled": "bool",
            "api-major": "int",
            "api-minor": "int",
            "build-id": "int",
            "policy": "int",
            "state": "enum",
            "handle": "int",
        },
    ),
    "query-sev-capabilities": (
        {},
        {
            "pdh": "str",
            "cert-chain": "str",
            "cpu0-id": "str",
            "cbitpos": "int",
            "reduced-phys-bits": "int",
        },
    ),
    "query-sev-launch-measure": ({}, {"data": "str"}),
    "sev-inject-launch-secret": ({"packet-header": "str", "secret": "str", "gpa": "int?"}, {}),
    "query-sev-attestation-report": ({"mnonce": "str"}, {"data": "str"}),
}
"""Command to its arguments and the fields of its answer, as QEMU 7.2.22 and 10.0.13 describe themselves."""
STATES = ["uninit", "launch-update", "launch-secret", "running", "send-update", "receive-update"]
CBITPOS, REDUCED = 51, 5
TYPES = {"bool": bool, "int": int, "str": str, "enum": str}


class Buffer:
    """Guest memory."""

    def __init__(self, base: int, data: bytes) -> None:
        self.base, self.data = base, bytearray(data)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(self.data[gpa - self.base : gpa - self.base + size])

    def write(self, gpa: int, data: bytes) -> None:
        self.data[gpa - self.base : gpa - self.base + len(data)] = data


class ScriptedQemu:
    """One guest. ``pages`` are its vCPUs' as KVM has them; ``late``: answers before the measurement."""

    ram_fd = -1

    def __init__(
        self,
        machine: ScriptedFirmware,
        needs: QemuNeeds,
        flash: bytes,
        table: bytes | None,
        *,
        ram: int,
        table_gpa: int,
        pages: Iterable[bytes] = (),
        version: tuple[int, int] = (7, 2),
        late: int = 0,
    ) -> None:
        self.machine = machine
        self.version = version
        self.memory = Buffer(0, bytes(ram))
        self.late = late
        self.handle = 0
        self.state = "uninit"
        self.policy = 0
        self.asked: list[str] = []
        self._data = b""
        self._start(needs, flash, table, table_gpa, list(pages))

    def _start(
        self, needs: QemuNeeds, flash: bytes, table: bytes | None, table_gpa: int, pages: list[bytes]
    ) -> None:
        properties = sev_properties(needs)
        if (properties["cbitpos"], properties["reduced-phys-bits"]) != (str(CBITPOS), str(REDUCED)):
            raise _ended("sev_kvm_init: cbitpos check failed, host '51' requested")
        if begun := self.machine.initialise().status:
            raise _ended(f"sev_kvm_init: failed to initialize ret=-5 fw_error={begun}")
        parts = {}
        if "dh-cert-file" in properties:
            parts["godh"] = base64.b64decode(Path(properties["dh-cert-file"]).read_bytes(), validate=True)
        if "session-file" in properties:
            parts["session"] = base64.b64decode(Path(properties["session-file"]).read_bytes(), validate=True)
        self.policy = int(properties.get("policy", "1"))
        started = self.machine.send(Command.LAUNCH_START, parts, policy=self.policy, handle=0)
        self._need(started, "sev_launch_start: LAUNCH_START")
        self.handle = started.values["handle"]
        taken = {guest.asid for guest in self.machine.firmware.guests._guests.values()}
        asid = min(set(range(1, 510)) - taken)
        self._need(
            self.machine.send(Command.ACTIVATE, handle=self.handle, asid=asid),
            "sev_launch_start: LAUNCH_START",
        )
        self.state = "launch-update"
        self._update(Command.LAUNCH_UPDATE_DATA, Buffer((4 << 30) - len(flash), flash))
        if properties.get("kernel-hashes") == "on" and table is not None:
            if table_gpa + len(table) > self.memory.size:
                self.end()
                raise _ended("SEV: cannot map hashes table guest memory area")
            self.memory.write(table_gpa, table)
            self._update(Command.LAUNCH_UPDATE_DATA, Buffer(table_gpa, table))
        if self.policy & 4:
            for page in pages:
                self._update(Command.LAUNCH_UPDATE_VMSA, Buffer(0, page))
        measured = self.machine.send(Command.LAUNCH_MEASURE, handle=self.handle, length=48)
        self._need(measured, "sev_launch_get_measure: LAUNCH_MEASURE")
        self._data = measured.parts["measurement"]
        self.state = "launch-secret"

    def _update(self, command: Command, memory: Buffer) -> None:
        values = {"handle": self.handle, "paddr": memory.base, "length": memory.size}
        self._need(self.machine.send(command, memory=memory, **values), f"sev_launch_update: {command.name}")

    def _need(self, answer: Response, what: str) -> None:
        if answer.status:
            if self.handle:
                self.end()
            text = Status(answer.status).text
            raise _ended(f"{what} ret=1 fw_error={answer.status} '{text}'")

    def ram(self, gpa: int, size: int) -> bytes:
        return self.memory.read(gpa, size)

    async def read_physical(self, gpa: int, size: int) -> bytes:
        raise AssertionError("an encrypted guest's memory is nothing to read")

    async def qmp(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """The answer, checked against the schema; LaunchError as :class:`Machine` raises it."""
        self.asked.append(command)
        given, fields = SCHEMA[command]
        arguments = arguments or {}
        assert set(arguments) <= set(given)
        assert {name for name, kind in given.items() if not kind.endswith("?")} <= set(arguments)
        assert all(type(value) is TYPES[given[name].rstrip("?")] for name, value in arguments.items())
        answer = getattr(self, "_" + command.replace("-", "_"))(
            **{name.replace("-", "_"): value for name, value in arguments.items()}
        )
        assert set(answer) == set(fields) | ({"sev-type"} if "sev-type" in answer else set())
        assert all(type(answer[name]) is TYPES[kind] for name, kind in fields.items())
        return answer

    def _query_sev(self) -> dict[str, Any]:
        status = self.machine.firmware.platform_status()
        state = self.state
        if self.late:
            self.late -= 1
            state = "launch-update"
        answer = {
            "enabled": True,
            "api-major": status["api_major"],
            "api-minor": status["api_minor"],
            "build-id": status["build"],
            "state": state,
            "policy": self.policy,
            "handle": self.handle,
        }
        return {"sev-type": "sev", **answer} if self.version >= (9, 1) else answer

    def _query_sev_launch_measure(self) -> dict[str, Any]:
        if self.state != "launch-secret" or self.late:
            raise _refused("query-sev-launch-measure", "SEV launch measurement is not available")
        return {"data": base64.b64encode(self._data).decode()}

    def _sev_inject_launch_secret(self, packet_header: str, secret: str, gpa: int = 0) -> dict[str, Any]:
        command = "sev-inject-launch-secret"
        if self.state != "launch-secret":
            raise _refused(command, f"SEV: Not in correct state. (LSECRET) {STATES.index(self.state):x}")
        if gpa + 16 > self.memory.size:
            raise _refused(command, f"No memory is mapped at address 0x{gpa:x}")
        data = base64.b64decode(secret, validate=True)
        parts = {"header": base64.b64decode(packet_header, validate=True), "data": data}
        values = {"handle": self.handle, "paddr": gpa, "guest_length": len(data)}
        answer = self.machine.send(Command.LAUNCH_SECRET, parts, self.memory, **values)
        if answer.status:
            text = f"ret=-5 fw_error={answer.status} '{Status(answer.status).text}'"
            raise _refused(command, f"SEV: failed to inject secret {text}")
        return {}

    def _query_sev_attestation_report(self, mnonce: str) -> dict[str, Any]:
        command = "query-sev-attestation-report"
        try:
            nonce = base64.b64decode(mnonce, validate=True)
        except binascii.Error:
            raise _refused(command, "SEV: failed to decode mnonce input") from None
        if len(nonce) != 16:
            raise _refused(command, f"SEV: mnonce must be 16 bytes (got {len(nonce)})")
        answer = self.machine.send(Command.ATTESTATION, {"mnonce": nonce}, handle=self.handle, length=208)
        assert not answer.status
        return {"data": base64.b64encode(answer.parts["report"]).decode()}

    def _query_sev_capabilities(self) -> dict[str, Any]:
        parts = self.machine.send(Command.PDH_CERT_EXPORT, pdh_length=2084, chain_length=6252).parts
        identifier = self.machine.send(Command.GET_ID, length=64).parts["id"]
        texts = {"pdh": parts["pdh"], "cert-chain": parts["chain"], "cpu0-id": identifier}
        encoded = {name: base64.b64encode(value).decode() for name, value in texts.items()}
        return {**encoded, "cbitpos": CBITPOS, "reduced-phys-bits": REDUCED}

    def cont(self) -> None:
        """The first ``cont``: LAUNCH_FINISH."""
        answer = self.machine.send(Command.LAUNCH_FINISH, handle=self.handle)
        assert not answer.status, answer.message
        self.state = "running"

    def end(self) -> None:
        """QEMU's end: KVM takes the guest down."""
        for command in (Command.DEACTIVATE, Command.DF_FLUSH, Command.DECOMMISSION):
            values = {} if command is Command.DF_FLUSH else {"handle": self.handle}
            self.machine.send(command, **values)


def sev_properties(needs: QemuNeeds) -> dict[str, str]:
    """The sev-guest object's properties, once the machine refers to it."""
    flag, word = needs.arguments
    assert flag == "-object"
    kind, *pairs = word.split(",")
    assert kind == "sev-guest"
    properties = dict(pair.split("=", 1) for pair in pairs)
    assert f"confidential-guest-support={properties['id']}" in needs.machine
    assert needs.confidential
    assert needs.accelerator == "kvm"
    return properties


def _ended(text: str) -> LaunchError:
    return LaunchError(
        f"QEMU did not start (QEMU ended with status 1): qemu-system-x86_64: {text}", code="launch.qemu"
    )


def _refused(command: str, text: str) -> LaunchError:
    return LaunchError(f"QEMU refused {command}: {text}", code="launch.qemu")
