# SPDX-License-Identifier: Apache-2.0
"""What sealpod takes from Kata's configuration, and where each value came from.

CC-0.3.0 says what is injected by a secret's GUID and type, CC-0.5.0 by a mode; either is read, and a file
that says both must mean one thing. The secret's GUID and type decide what the broker is asked for. What the
guest does with it, its agent's ``aa_kbc_params`` says: on the kernel command line, where CC-0.5.0 puts it
itself in online mode, or in the agent's own configuration inside the initrd.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from sealpod.errors import DecodeError
from sealpod.kataconfig.document import Document
from sealpod.kataconfig.keys import AGENT, HYPERVISOR, KEYS, RUNTIME, Value
from sealpod.wire.guid import parse_guid
from sealpod.wire.secrettable import OFFLINE_BUNDLE_GUID, ONLINE_CONNECTION_GUID

Mode = Literal["online", "offline", "none"]
Source = Literal["default", "file", "annotation"]
_T = TypeVar("_T", str, bool, int)

AA_KBC_PARAMS: Final = "agent.aa_kbc_params="
_SECRETS: Final[Mapping[Mode, tuple[str, str]]] = {
    "online": (str(ONLINE_CONNECTION_GUID), "connection"),
    "offline": (str(OFFLINE_BUNDLE_GUID), "bundle"),
}
_KBCS: Final[Mapping[str, Mode]] = {"online_sev_kbc": "online", "offline_sev_kbc": "offline"}
_URI: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)
_MAX_PORT: Final = 65535
_MAX_PATTERN: Final = 200  # characters of one expression in enable_annotations

_PROXY: Final = "guest_pre_attestation_proxy"
_KBS_URI: Final = "guest_pre_attestation_kbs_uri"
_GUID: Final = "guest_pre_attestation_secret_guid"
_TYPE: Final = "guest_pre_attestation_secret_type"
_KBS_MODE: Final = "guest_pre_attestation_kbs_mode"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; ``name`` is the key with its table, or the annotation, else empty."""

    source: Source
    name: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """One sandbox's settings. ``origins`` has an entry for each of the other fields but ``warnings``."""

    path: str
    """QEMU's executable; empty: not named."""
    firmware: str
    kernel: str
    initrd: str
    confidential_guest: bool
    pre_attestation: bool
    kbs_uri: str
    """HOST:PORT of the key broker as the host reaches it."""
    keyset: str
    secret: Mode
    """What a pre-attested launch injects: a connection (``online``) or a bundle (``offline``)."""
    announce_kbs: bool
    """The file has CC-0.5.0's mode: online, the runtime tells the guest the broker's address."""
    policy: int
    """The SEV guest policy, 32 bits."""
    cert_chain: str
    """File with the certificate chain of the platform behind ``/dev/sev``; a software model needs none."""
    kernel_params: tuple[str, ...]
    """Words of the configuration and annotations, without those the runtime adds."""
    vcpus: int
    """At least 1, or -1 for as many as the host has."""
    max_vcpus: int
    """What the pod's resources may raise ``vcpus`` to; 0 for as many as the host has."""
    memory: int
    """MiB."""
    debug: bool
    """Of the hypervisor and the guest's kernel."""
    agent_debug: bool
    runtime_debug: bool
    enable_annotations: tuple[str, ...]
    """Regular expressions of base names below ``hypervisor.``."""
    valid_hypervisor_paths: tuple[str, ...]
    """glob(3) patterns an annotation's ``path`` must match."""
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...]

    @property
    def mode(self) -> Mode:
        """What is injected before the guest runs; ``none`` without confidential guest or pre-attestation."""
        return self.secret if self.confidential_guest and self.pre_attestation else "none"

    @property
    def guest_kbc(self) -> str:
        """``aa_kbc_params`` of the command line (``KBC::URI``); empty leaves it to the agent's own file."""
        given = [word for word in self.kernel_params if word.startswith(AA_KBC_PARAMS)]
        if given:
            return given[-1].removeprefix(AA_KBC_PARAMS)
        if self.announce_kbs and self.mode == "online":
            return f"online_sev_kbc::{self.kbs_uri}"
        return ""

    @property
    def kernel_words(self) -> tuple[str, ...]:
        """``kernel_params`` and, in CC-0.5.0's online mode, the broker's address unless it is there."""
        if not self.guest_kbc or any(word.startswith(AA_KBC_PARAMS) for word in self.kernel_params):
            return self.kernel_params
        return (*self.kernel_params, AA_KBC_PARAMS + self.guest_kbc)

    def findings(self) -> tuple[str, ...]:
        """All warnings, with those that follow from the values as they now are."""
        wanted = _KBCS.get(self.guest_kbc.partition("::")[0])
        if wanted is None or wanted == self.mode:
            return self.warnings
        text = f"the guest is told {self.guest_kbc!r}, but what is injected is for mode {self.mode}"
        return (*self.warnings, text)


class _Reader:
    """Typed values of a document, remembering where each came from."""

    def __init__(self, document: Document) -> None:
        self.values = document.values
        self.origins: dict[str, Origin] = {}

    def has(self, name: str) -> bool:
        return (HYPERVISOR, name) in self.values

    def take(self, field: str, expected: type[_T], name: str, table: str = HYPERVISOR) -> _T:
        value = self._value(field, name, table)
        if not isinstance(value, expected):  # the key table and this module disagree: a fault of our own
            raise TypeError(name)
        return value

    def strings(self, field: str, name: str) -> tuple[str, ...]:
        value = self._value(field, name, HYPERVISOR)
        if not isinstance(value, tuple):
            raise TypeError(name)
        return value

    def _value(self, field: str, name: str, table: str) -> Value | None:
        found = (table, name) in self.values
        self.origins[field] = Origin("file", f"{table}.{name}") if found else Origin("default")
        return self.values[table, name] if found else KEYS[table, name].default


def settings_of(document: Document) -> Settings:
    """The settings of a file.

    :raise DecodeError: when a value cannot be, or old and new spelling contradict each other.
    """
    reader = _Reader(document)
    take, strings = reader.take, reader.strings
    if take("image", str, "image") and take("initrd", str, "initrd"):
        raise DecodeError(
            "both image and initrd are set", code="config.conflict", remedy="remove one of them"
        )
    words = kernel_words(take("kernel_params", str, "kernel_params"), "kernel_params")
    settings = Settings(
        path=take("path", str, "path"),
        firmware=take("firmware", str, "firmware"),
        kernel=take("kernel", str, "kernel"),
        initrd=take("initrd", str, "initrd"),
        confidential_guest=take("confidential_guest", bool, "confidential_guest"),
        pre_attestation=take("pre_attestation", bool, "guest_pre_attestation"),
        kbs_uri=_kbs_uri(reader),
        keyset=take("keyset", str, "guest_pre_attestation_keyset"),
        secret=_secret(reader),
        announce_kbs=reader.has(_KBS_MODE),
        policy=take("policy", int, "sev_guest_policy"),
        cert_chain=take("cert_chain", str, "sev_cert_chain"),
        kernel_params=words,
        vcpus=max(take("vcpus", int, "default_vcpus") or 1, -1),
        max_vcpus=take("max_vcpus", int, "default_maxvcpus"),
        memory=take("memory", int, "default_memory") or 2048,
        debug=take("debug", bool, "enable_debug"),
        agent_debug=take("agent_debug", bool, "enable_debug", AGENT),
        runtime_debug=take("runtime_debug", bool, "enable_debug", RUNTIME),
        enable_annotations=strings("enable_annotations", "enable_annotations"),
        valid_hypervisor_paths=strings("valid_hypervisor_paths", "valid_hypervisor_paths"),
        origins=reader.origins,
        warnings=_warnings(document),
    )
    for pattern in settings.enable_annotations:
        name_pattern(pattern)
    return settings


def kernel_words(text: str, where: str) -> tuple[str, ...]:
    """The words of kernel parameters. ``where`` names them in messages.

    :raise DecodeError: when a word cannot stand on a kernel command line.
    """
    words = tuple(text.split())
    for word in words:
        if not (word.isascii() and word.isprintable()) or '"' in word:
            raise DecodeError(
                f"{where}: {word[:80]!r} cannot stand on a kernel command line", code="config.value"
            )
    return words


def host_port(text: str, where: str) -> str:
    """A key broker's address, ``HOST:PORT`` or ``[IPV6]:PORT``.

    :raise DecodeError: when the text is anything else.
    """
    match = _URI.fullmatch(text)
    if match is None or not 0 < int(match[1]) <= _MAX_PORT:
        raise DecodeError(
            f"{where} is {text[:80]!r}, expected HOST:PORT", code="config.value", remedy="give no scheme"
        )
    return text


def name_pattern(text: str) -> re.Pattern[str]:
    """One expression of ``enable_annotations``.

    :raise DecodeError: when it is too long or no regular expression.
    """
    try:
        if len(text) > _MAX_PATTERN:
            raise ValueError("too long")
        with warnings.catch_warnings():  # of Python's on expressions it may one day read differently
            warnings.simplefilter("ignore")
            return re.compile(text, re.ASCII)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise DecodeError(
            f"enable_annotations: {text[:80]!r} is no regular expression: {str(error)[:80]}",
            code="config.value",
        ) from error


def _kbs_uri(reader: _Reader) -> str:
    old = reader.take("kbs_uri", str, _PROXY)
    if not reader.has(_KBS_URI):
        return host_port(old, _PROXY)
    new = reader.take("kbs_uri", str, _KBS_URI)
    if reader.has(_PROXY) and old != new:
        raise _conflict(f"{_PROXY} says {old[:80]!r}, {_KBS_URI} {new[:80]!r}")
    return host_port(new, _KBS_URI)


def _secret(reader: _Reader) -> Mode:
    old = _secret_of_names(reader) if reader.has(_GUID) or reader.has(_TYPE) else None
    if old is not None and not reader.has(_KBS_MODE):
        return old
    text = reader.take("secret", str, _KBS_MODE)
    new = _lookup(text, lambda mode: mode, f"Unsupported pre-attestation mode: {text[:40]}")
    if old is not None and old != new:
        raise _conflict(f"{_GUID} and {_TYPE} say {old}, {_KBS_MODE} says {new}")
    return new


def _secret_of_names(reader: _Reader) -> Mode:
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


def _warnings(document: Document) -> tuple[str, ...]:
    ignored = [
        f"[{table}] {name} has no effect here"
        for (table, name), value in document.values.items()
        if (key := KEYS[table, name]).default is not None
        and (not key.used or name == "image")
        and value != key.default
    ]
    return (*(one.describe() for one in document.unknown), *ignored)
