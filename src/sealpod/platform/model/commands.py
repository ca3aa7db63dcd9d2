# SPDX-License-Identifier: Apache-2.0
"""The firmware's mailbox: a request in, the command of that id run, its response out. Never raises.

Ids are those of the PSP mailbox (AMD SEV API). One id is the model's own: what AMD's key server answers for
a real chip, the model's chip answers itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final

from sealpod.errors import AccessError, FirmwareError, SealpodError
from sealpod.platform.model import handlers
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
    PEK_GEN = 0x005
    PEK_CSR = 0x006
    PEK_CERT_IMPORT = 0x007
    PDH_CERT_EXPORT = 0x008
    PDH_GEN = 0x009
    DF_FLUSH = 0x00A
    GET_ID = 0x00C
    DECOMMISSION = 0x020
    ACTIVATE = 0x021
    DEACTIVATE = 0x022
    GUEST_STATUS = 0x023
    LAUNCH_START = 0x030
    LAUNCH_UPDATE_DATA = 0x031
    LAUNCH_UPDATE_VMSA = 0x032
    LAUNCH_MEASURE = 0x033
    LAUNCH_SECRET = 0x034
    LAUNCH_FINISH = 0x035
    ATTESTATION = 0x036
    DBG_DECRYPT = 0x060
    DBG_ENCRYPT = 0x061
    VENDOR_CERTIFICATES = 0x1000
    """Model only: signed CEK, ASK and ARK, in place of AMD's key server."""


def command_name(command: int) -> str:
    """The command's name, or its number when the model does not know it."""
    try:
        return Command(command).name
    except ValueError:
        return f"{command:#05x}"


Handler = Callable[[Firmware, handlers.Call], handlers.Outcome]


def execute(firmware: Firmware, request: Request, memory: Memory | None) -> Response:
    """Run one command. ``memory`` is the guest memory it may touch, if it needs any."""
    try:
        outcome = _handler(request.command)(firmware, handlers.Call(request, memory))
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


def _handler(command: int) -> Handler:
    handler = _HANDLERS.get(command)
    if handler is None:
        raise Status.INVALID_COMMAND.error(f"the model has no command {command:#05x}")
    return handler


_HANDLERS: Final[dict[int, Handler]] = {
    Command.INIT: handlers.init,
    Command.SHUTDOWN: handlers.shutdown,
    Command.PLATFORM_RESET: handlers.platform_reset,
    Command.PLATFORM_STATUS: handlers.platform_status,
    Command.PEK_GEN: handlers.pek_gen,
    Command.PEK_CSR: handlers.pek_csr,
    Command.PEK_CERT_IMPORT: handlers.pek_cert_import,
    Command.PDH_GEN: handlers.pdh_gen,
    Command.PDH_CERT_EXPORT: handlers.pdh_cert_export,
    Command.DF_FLUSH: handlers.df_flush,
    Command.GET_ID: handlers.get_id,
    Command.DECOMMISSION: handlers.decommission,
    Command.ACTIVATE: handlers.activate,
    Command.DEACTIVATE: handlers.deactivate,
    Command.GUEST_STATUS: handlers.guest_status,
    Command.LAUNCH_START: handlers.launch_start,
    Command.LAUNCH_UPDATE_DATA: handlers.launch_update_data,
    Command.LAUNCH_UPDATE_VMSA: handlers.launch_update_vmsa,
    Command.LAUNCH_MEASURE: handlers.launch_measure,
    Command.LAUNCH_SECRET: handlers.launch_secret,
    Command.LAUNCH_FINISH: handlers.launch_finish,
    Command.ATTESTATION: handlers.attestation,
    Command.DBG_DECRYPT: handlers.debug,
    Command.DBG_ENCRYPT: handlers.debug,
    Command.VENDOR_CERTIFICATES: handlers.vendor_certificates,
}
