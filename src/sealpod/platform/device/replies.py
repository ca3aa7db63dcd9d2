# SPDX-License-Identifier: Apache-2.0
"""QEMU's answers about SEV, over QMP (qapi/misc-target.json). Pure; anything unexpected is DecodeError.

``query-sev`` is one object up to QEMU 9.0. From 9.1 it is a union told apart by ``sev-type``: ``policy`` and
``handle`` are there for ``sev``, ``snp-policy`` for ``sev-snp``.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError
from sealpod.sev.measurement import Measurement
from sealpod.sev.policy import Policy
from sealpod.sev.version import FirmwareVersion

QUERY: Final = "query-sev"
CAPABILITIES: Final = "query-sev-capabilities"
MEASURE: Final = "query-sev-launch-measure"
INJECT: Final = "sev-inject-launch-secret"
REPORT: Final = "query-sev-attestation-report"

UPDATE: Final = "launch-update"
SECRET: Final = "launch-secret"  # noqa: S105 - the name of a state
RUNNING: Final = "running"
STATES: Final = ("uninit", UPDATE, SECRET, RUNNING, "send-update", "receive-update")


@dataclass(frozen=True, slots=True)
class SevInfo:
    """``query-sev`` of an SEV or SEV-ES guest."""

    enabled: bool
    version: FirmwareVersion
    state: str
    policy: Policy
    handle: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """``query-sev-capabilities``: ``pdh`` 2084 bytes, ``chain`` PEK, OCA and CEK, 6252 bytes."""

    pdh: bytes
    chain: bytes
    identifier: bytes | None
    """Of the first socket; QEMU has it since 7.1."""
    cbitpos: int
    reduced: int


def sev_info(reply: object) -> SevInfo:
    """:raise DecodeError: not such a reply, or one about an SEV-SNP guest."""
    fields = _object(QUERY, reply)
    if fields.get("sev-type", "sev") != "sev":
        raise _malformed(QUERY, "the guest is not an SEV or SEV-ES one")
    state = fields.get("state")
    if not isinstance(state, str) or state not in STATES:
        raise _malformed(QUERY, "an unknown state")
    enabled = fields.get("enabled")
    if not isinstance(enabled, bool):
        raise _malformed(QUERY, "enabled is not true or false")
    numbers = [_number(QUERY, fields, name, 0xFF) for name in ("api-major", "api-minor", "build-id")]
    policy = Policy(_number(QUERY, fields, "policy", 0xFFFFFFFF))
    return SevInfo(
        enabled, FirmwareVersion(*numbers), state, policy, _number(QUERY, fields, "handle", 1 << 32)
    )


def capabilities(reply: object) -> Capabilities:
    """:raise DecodeError: not such a reply."""
    fields = _object(CAPABILITIES, reply)
    identifier = _bytes(CAPABILITIES, fields, "cpu0-id") if "cpu0-id" in fields else None
    return Capabilities(
        _bytes(CAPABILITIES, fields, "pdh"),
        _bytes(CAPABILITIES, fields, "cert-chain"),
        identifier,
        _number(CAPABILITIES, fields, "cbitpos", 63),
        _number(CAPABILITIES, fields, "reduced-phys-bits", 63),
    )


def measurement(reply: object) -> Measurement:
    """:raise DecodeError: not such a reply."""
    return Measurement.decode(_bytes(MEASURE, _object(MEASURE, reply), "data"))


def report(reply: object) -> bytes:
    """:raise DecodeError: not such a reply."""
    return _bytes(REPORT, _object(REPORT, reply), "data")


def _object(command: str, reply: object) -> dict[str, object]:
    if not isinstance(reply, dict):
        raise _malformed(command, "not an object")
    return reply


def _number(command: str, fields: dict[str, object], name: str, most: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _malformed(command, f"{name} is not a number of its range")
    return value


def _bytes(command: str, fields: dict[str, object], name: str) -> bytes:
    value = fields.get(name)
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise _malformed(command, f"{name} is not base64")


def _malformed(command: str, reason: str) -> DecodeError:
    return DecodeError(f"QEMU's answer to {command}: {reason}", code="platform.qmp")
