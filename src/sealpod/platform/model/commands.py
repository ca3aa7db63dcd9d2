# SPDX-License-Identifier: Apache-2.0
"""The firmware's mailbox: a request in, the command of that id run, its response out. Never raises.

Ids are those of the PSP mailbox (AMD SEV API). One id is the model's own: what AMD's key server answers for
a real chip, the model's chip answers itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sealpod.errors import AccessError, FirmwareError, SealpodError
from sealpod.platform.model import launching
from sealpod.platform.model.firmware import BufferTooSmall, Firmware
from sealpod.platform.model.memory import Memory
from sealpod.platform.model.messages import ACCESS, Request, Response
from sealpod.sev.status import Status


class Command(enum.IntEnum):
    """Commands the model knows; any other id is INVALID_COMMAND."""

    INIT = 0x001
    SHUTDOWN = 0x002
    PLATFORM_RESET = 0x003
    PLATFORM_STATUS = 0x004
    PDH_CERT_EXPORT = 0x008
    DF_FLUSH = 0x00A
    GET_ID = 0x00C
    DECOMMISSION = 0x020
    ACTIVATE = 0x021
    DEACTIVATE = 0x022
    GUEST_STATUS = 0x023
    LAUNCH_START = 0x030
    LAUNCH_UPDATE_DATA = 0x031
    LAUNCH_MEASURE = 0x033
    LAUNCH_SECRET = 0x034
    LAUNCH_FINISH = 0x035
    VENDOR_CERTIFICATES = 0x1000
    """Model only: signed CEK, ASK and ARK, in place of AMD's key server."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    values: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, bytes] = field(default_factory=dict)


_DONE: Final = _Outcome()


class _Call:
    """A request's arguments; one that is missing is INVALID_PARAM, absent memory INVALID_ADDRESS."""

    def __init__(self, request: Request, memory: Memory | None) -> None:
        self._request = request
        self._memory = memory

    def number(self, name: str) -> int:
        value = self._request.values.get(name)
        if value is None or not 0 <= value < 1 << 64:
            raise Status.INVALID_PARAM.error(f"{name} is missing or not an unsigned number")
        return value

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


def execute(firmware: Firmware, request: Request, memory: Memory | None) -> Response:
    """Run one command. ``memory`` is the guest memory it may touch, if it needs any."""
    try:
        outcome = _handler(request.command)(firmware, _Call(request, memory))
    except BufferTooSmall as error:
        return refusal(request.serial, error, values=error.lengths)
    except SealpodError as error:
        return refusal(request.serial, error)
    except OSError as error:
        reason = Status.HWERROR_PLATFORM.error(
            f"{error.filename or 'guest memory'}: {error.strerror}",
            remedy="check the platform's state directory and the space on its disk",
        )
        return refusal(request.serial, reason)
    return Response(request.serial, values=outcome.values, parts=outcome.parts)


def refusal(serial: int, error: SealpodError, *, values: Mapping[str, int] | None = None) -> Response:
    """The response that tells a client of ``error``."""
    status = error.status if isinstance(error, FirmwareError) else int(Status.INVALID_PARAM)
    fault = ACCESS if isinstance(error, AccessError) else ""
    return Response(serial, status, values or {}, {}, error.message, error.code, error.remedy, fault)


def _handler(command: int) -> Callable[[Firmware, _Call], _Outcome]:
    handler = _HANDLERS.get(command)
    if handler is None:
        raise Status.INVALID_COMMAND.error(f"the model has no command {command:#05x}")
    return handler


def _init(firmware: Firmware, call: _Call) -> _Outcome:
    firmware.init(flags=call.number("flags"))
    return _DONE


def _shutdown(firmware: Firmware, _: _Call) -> _Outcome:
    firmware.shutdown()
    return _DONE


def _platform_reset(firmware: Firmware, _: _Call) -> _Outcome:
    firmware.platform_reset()
    return _DONE


def _platform_status(firmware: Firmware, _: _Call) -> _Outcome:
    return _Outcome(values=firmware.platform_status())


def _pdh_cert_export(firmware: Firmware, call: _Call) -> _Outcome:
    pdh, chain = firmware.pdh_cert_export(
        pdh_length=call.number("pdh_length"), chain_length=call.number("chain_length")
    )
    return _Outcome(parts={"pdh": pdh, "chain": chain})


def _df_flush(firmware: Firmware, _: _Call) -> _Outcome:
    firmware.df_flush()
    return _DONE


def _get_id(firmware: Firmware, call: _Call) -> _Outcome:
    return _Outcome(parts={"id": firmware.get_id(length=call.number("length"))})


def _vendor_certificates(firmware: Firmware, _: _Call) -> _Outcome:
    chip = firmware.chip
    return _Outcome(parts={"cek": chip.cek, "ask": chip.ask, "ark": chip.ark})


def _decommission(firmware: Firmware, call: _Call) -> _Outcome:
    launching.decommission(firmware, handle=call.number("handle"))
    return _DONE


def _activate(firmware: Firmware, call: _Call) -> _Outcome:
    launching.activate(firmware, handle=call.number("handle"), asid=call.number("asid"))
    return _DONE


def _deactivate(firmware: Firmware, call: _Call) -> _Outcome:
    launching.deactivate(firmware, handle=call.number("handle"))
    return _DONE


def _guest_status(firmware: Firmware, call: _Call) -> _Outcome:
    return _Outcome(values=launching.guest_status(firmware, handle=call.number("handle")))


def _launch_start(firmware: Firmware, call: _Call) -> _Outcome:
    handle = launching.launch_start(
        firmware,
        policy=call.number("policy"),
        handle=call.number("handle"),
        godh=call.optional("godh"),
        session=call.optional("session"),
    )
    return _Outcome(values={"handle": handle})


def _launch_update_data(firmware: Firmware, call: _Call) -> _Outcome:
    launching.launch_update_data(
        firmware,
        call.memory,
        handle=call.number("handle"),
        paddr=call.number("paddr"),
        length=call.number("length"),
    )
    return _DONE


def _launch_measure(firmware: Firmware, call: _Call) -> _Outcome:
    measurement = launching.launch_measure(
        firmware, handle=call.number("handle"), length=call.number("length")
    )
    return _Outcome(parts={"measurement": measurement.encode()})


def _launch_secret(firmware: Firmware, call: _Call) -> _Outcome:
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


def _launch_finish(firmware: Firmware, call: _Call) -> _Outcome:
    launching.launch_finish(firmware, handle=call.number("handle"))
    return _DONE


_HANDLERS: Final[dict[int, Callable[[Firmware, _Call], _Outcome]]] = {
    Command.INIT: _init,
    Command.SHUTDOWN: _shutdown,
    Command.PLATFORM_RESET: _platform_reset,
    Command.PLATFORM_STATUS: _platform_status,
    Command.PDH_CERT_EXPORT: _pdh_cert_export,
    Command.DF_FLUSH: _df_flush,
    Command.GET_ID: _get_id,
    Command.DECOMMISSION: _decommission,
    Command.ACTIVATE: _activate,
    Command.DEACTIVATE: _deactivate,
    Command.GUEST_STATUS: _guest_status,
    Command.LAUNCH_START: _launch_start,
    Command.LAUNCH_UPDATE_DATA: _launch_update_data,
    Command.LAUNCH_MEASURE: _launch_measure,
    Command.LAUNCH_SECRET: _launch_secret,
    Command.LAUNCH_FINISH: _launch_finish,
    Command.VENDOR_CERTIFICATES: _vendor_certificates,
}
