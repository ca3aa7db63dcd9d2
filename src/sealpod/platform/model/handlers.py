# SPDX-License-Identifier: Apache-2.0
"""What stands behind each command id: arguments taken out of the request, the firmware's function called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sealpod.platform.model import attesting, launching, managing
from sealpod.platform.model.firmware import Firmware
from sealpod.platform.model.memory import Memory
from sealpod.platform.model.messages import Request
from sealpod.sev.status import Status


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command answers: numbers and byte strings by name."""

    values: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, bytes] = field(default_factory=dict)


_DONE: Final = Outcome()


class Call:
    """A request's arguments; one that is missing is INVALID_PARAM, absent memory INVALID_ADDRESS."""

    def __init__(self, request: Request, memory: Memory | None) -> None:
        self._request = request
        self._memory = memory

    def number(self, name: str) -> int:
        value = self._request.values.get(name)
        if value is None or not 0 <= value < 1 << 64:
            raise Status.INVALID_PARAM.error(f"{name} is missing or not an unsigned number")
        return value

    def numbers(self, *names: str) -> dict[str, int]:
        return {name: self.number(name) for name in names}

    def data(self, name: str) -> bytes:
        value = self._request.parts.get(name)
        if value is None:
            raise Status.INVALID_PARAM.error(f"{name} is missing")
        return value

    def optional(self, name: str) -> bytes | None:
        return self._request.parts.get(name)

    @property
    def memory(self) -> Memory:
        if self._memory is None:
            raise Status.INVALID_ADDRESS.error("no guest memory came with the command")
        return self._memory


def init(firmware: Firmware, call: Call) -> Outcome:
    firmware.init(flags=call.number("flags"))
    return _DONE


def shutdown(firmware: Firmware, _: Call) -> Outcome:
    firmware.shutdown()
    return _DONE


def platform_reset(firmware: Firmware, _: Call) -> Outcome:
    firmware.platform_reset()
    return _DONE


def platform_status(firmware: Firmware, _: Call) -> Outcome:
    return Outcome(values=firmware.platform_status())


def pek_gen(firmware: Firmware, _: Call) -> Outcome:
    managing.pek_gen(firmware)
    return _DONE


def pek_csr(firmware: Firmware, call: Call) -> Outcome:
    return Outcome(parts={"pek": managing.pek_csr(firmware, length=call.number("length"))})


def pek_cert_import(firmware: Firmware, call: Call) -> Outcome:
    managing.pek_cert_import(firmware, pek=call.data("pek"), oca=call.data("oca"))
    return _DONE


def pdh_gen(firmware: Firmware, _: Call) -> Outcome:
    managing.pdh_gen(firmware)
    return _DONE


def pdh_cert_export(firmware: Firmware, call: Call) -> Outcome:
    pdh, chain = firmware.pdh_cert_export(**call.numbers("pdh_length", "chain_length"))
    return Outcome(parts={"pdh": pdh, "chain": chain})


def df_flush(firmware: Firmware, _: Call) -> Outcome:
    firmware.df_flush()
    return _DONE


def get_id(firmware: Firmware, call: Call) -> Outcome:
    return Outcome(parts={"id": firmware.get_id(length=call.number("length"))})


def vendor_certificates(firmware: Firmware, _: Call) -> Outcome:
    chip = firmware.chip
    return Outcome(parts={"cek": chip.cek, "ask": chip.ask, "ark": chip.ark})


def decommission(firmware: Firmware, call: Call) -> Outcome:
    launching.decommission(firmware, handle=call.number("handle"))
    return _DONE


def activate(firmware: Firmware, call: Call) -> Outcome:
    launching.activate(firmware, **call.numbers("handle", "asid"))
    return _DONE


def deactivate(firmware: Firmware, call: Call) -> Outcome:
    launching.deactivate(firmware, handle=call.number("handle"))
    return _DONE


def guest_status(firmware: Firmware, call: Call) -> Outcome:
    return Outcome(values=launching.guest_status(firmware, handle=call.number("handle")))


def launch_start(firmware: Firmware, call: Call) -> Outcome:
    handle = launching.launch_start(
        firmware,
        policy=call.number("policy"),
        handle=call.number("handle"),
        godh=call.optional("godh"),
        session=call.optional("session"),
    )
    return Outcome(values={"handle": handle})


def launch_update_data(firmware: Firmware, call: Call) -> Outcome:
    launching.launch_update_data(firmware, call.memory, **call.numbers("handle", "paddr", "length"))
    return _DONE


def launch_update_vmsa(firmware: Firmware, call: Call) -> Outcome:
    launching.launch_update_vmsa(firmware, call.memory, **call.numbers("handle", "paddr", "length"))
    return _DONE


def launch_measure(firmware: Firmware, call: Call) -> Outcome:
    measurement = launching.launch_measure(firmware, **call.numbers("handle", "length"))
    return Outcome(parts={"measurement": measurement.encode()})


def launch_secret(firmware: Firmware, call: Call) -> Outcome:
    launching.launch_secret(
        firmware,
        call.memory,
        handle=call.number("handle"),
        header=call.data("header"),
        paddr=call.number("paddr"),
        guest_length=call.number("guest_length"),
        data=call.data("data"),
    )
    return _DONE


def launch_finish(firmware: Firmware, call: Call) -> Outcome:
    launching.launch_finish(firmware, handle=call.number("handle"))
    return _DONE


def attestation(firmware: Firmware, call: Call) -> Outcome:
    report = attesting.attestation(firmware, mnonce=call.data("mnonce"), **call.numbers("handle", "length"))
    return Outcome(parts={"report": report})


def debug(firmware: Firmware, call: Call) -> Outcome:
    launching.debug(firmware, handle=call.number("handle"))
    return _DONE
