# SPDX-License-Identifier: Apache-2.0
"""The two things that a configuration may say in either of two spellings.

CC-0.3.0 names the key broker as a proxy and what is injected by a secret's GUID and type; CC-0.5.0 has a URI
and a mode. Either is read, and a file that says both must mean one thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from sealpod.errors import DecodeError
from sealpod.kataconfig.keys import HYPERVISOR
from sealpod.kataconfig.reader import Origin, Reader
from sealpod.kataconfig.values import host_port
from sealpod.wire.guid import parse_guid
from sealpod.wire.secrettable import OFFLINE_BUNDLE_GUID, ONLINE_CONNECTION_GUID

Mode = Literal["online", "offline", "none"]

_SECRETS: Final[Mapping[Mode, tuple[str, str]]] = {
    "online": (str(ONLINE_CONNECTION_GUID), "connection"),
    "offline": (str(OFFLINE_BUNDLE_GUID), "bundle"),
}
_PROXY: Final = "guest_pre_attestation_proxy"
_KBS_URI: Final = "guest_pre_attestation_kbs_uri"
_GUID: Final = "guest_pre_attestation_secret_guid"
_TYPE: Final = "guest_pre_attestation_secret_type"
KBS_MODE: Final = "guest_pre_attestation_kbs_mode"


def kbs_uri(reader: Reader) -> str:
    """HOST:PORT of the key broker. :raise DecodeError: it has no such form, or two that differ."""
    old = reader.take("kbs_uri", str, _PROXY)
    if not reader.has(_KBS_URI):
        return host_port(old, _PROXY)
    new = reader.take("kbs_uri", str, _KBS_URI)
    if reader.has(_PROXY) and old != new:
        raise _conflict(f"{_PROXY} says {old[:80]!r}, {_KBS_URI} {new[:80]!r}")
    return host_port(new, _KBS_URI)


def secret(reader: Reader) -> Mode:
    """What a pre-attested launch injects. :raise DecodeError: nobody knows it, or two that differ."""
    old = _secret_of_names(reader) if reader.has(_GUID) or reader.has(_TYPE) else None
    if old is not None and not reader.has(KBS_MODE):
        return old
    text = reader.take("secret", str, KBS_MODE)
    new = _lookup(text, lambda mode: mode, f"Unsupported pre-attestation mode: {text[:40]}")
    if old is not None and old != new:
        raise _conflict(f"{_GUID} and {_TYPE} say {old}, {KBS_MODE} says {new}")
    return new


def _secret_of_names(reader: Reader) -> Mode:
    """The mode of CC-0.3.0's pair. Its defaults are the online ones, so one key alone has a meaning."""
    kind = reader.take("secret", str, _TYPE)
    text = reader.take("secret", str, _GUID)
    try:
        guid = str(parse_guid(text))
    except DecodeError as error:
        raise DecodeError(f"{_GUID}: {error.message}", code="config.value") from error
    by_guid = _lookup(guid, lambda mode: _SECRETS[mode][0], f"{_GUID} is of no known secret: {guid}")
    by_type = _lookup(kind, lambda mode: _SECRETS[mode][1], f"{_TYPE} is of no known secret: {kind[:40]!r}")
    if by_guid != by_type:
        raise _conflict(f"{_GUID} is of mode {by_guid}, {_TYPE} {kind!r} of mode {by_type}")
    if not reader.has(_GUID):
        reader.origins["secret"] = Origin("file", f"{HYPERVISOR}.{_TYPE}")
    return by_guid


def _lookup(text: str, spelling: Callable[[Mode], str], message: str) -> Mode:
    for mode in _SECRETS:
        if spelling(mode) == text:
            return mode
    raise DecodeError(message, code="config.value", remedy="use online or offline, or their GUID and type")


def _conflict(message: str) -> DecodeError:
    return DecodeError(message, code="config.conflict", remedy="keep one of them")
