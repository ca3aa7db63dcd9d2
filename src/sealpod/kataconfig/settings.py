# SPDX-License-Identifier: Apache-2.0
"""What sealpod takes from Kata's configuration, and where each value came from.

The secret's GUID and type, or its mode, decide what the broker is asked for. What the guest does with it, its
agent's ``aa_kbc_params`` says: on the kernel command line, where CC-0.5.0 puts it itself in online mode, or
in the agent's own configuration inside the initrd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError
from sealpod.kataconfig.document import Document
from sealpod.kataconfig.keys import AGENT, HYPERVISOR, KEYS, RUNTIME
from sealpod.kataconfig.limits import CREATE_SECONDS, DIAL_SECONDS
from sealpod.kataconfig.reader import Origin, Reader
from sealpod.kataconfig.spelling import KBS_MODE, Mode, kbs_uri, secret
from sealpod.kataconfig.values import kernel_words, name_pattern

AA_KBC_PARAMS: Final = "agent.aa_kbc_params="
_KBCS: Final[Mapping[str, Mode]] = {"online_sev_kbc": "online", "offline_sev_kbc": "offline"}


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
    dial_timeout: int
    """Seconds from the machine's start to its agent's first answer."""
    create_timeout: int
    """Seconds a container's making may take, its image's pull included."""
    sandbox_cgroup_only: bool
    """All of the pod's processes are in its control group, not the virtual processors alone."""
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


def settings_of(document: Document) -> Settings:
    """The settings of a file.

    :raise DecodeError: when a value cannot be, old and new spelling contradict each other, or the file is for
        another hypervisor.
    """
    _require_qemu(document)
    reader = Reader(document)
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
        kbs_uri=kbs_uri(reader),
        keyset=take("keyset", str, "guest_pre_attestation_keyset"),
        secret=secret(reader),
        announce_kbs=reader.has(KBS_MODE),
        policy=take("policy", int, "sev_guest_policy"),
        cert_chain=take("cert_chain", str, "sev_cert_chain"),
        kernel_params=words,
        vcpus=max(take("vcpus", int, "default_vcpus") or 1, -1),
        max_vcpus=take("max_vcpus", int, "default_maxvcpus"),
        memory=take("memory", int, "default_memory") or 2048,
        dial_timeout=take("dial_timeout", int, "dial_timeout", AGENT) or DIAL_SECONDS,
        create_timeout=take("create_timeout", int, "create_container_timeout", RUNTIME) or CREATE_SECONDS,
        sandbox_cgroup_only=take("sandbox_cgroup_only", bool, "sandbox_cgroup_only", RUNTIME),
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


def _require_qemu(document: Document) -> None:
    """Settings of another hypervisor alone would come to a guest that has none of them."""
    others = [one.name for one in document.unknown if not one.table and one.name.startswith("hypervisor.")]
    if others and not any(table == HYPERVISOR for table, _ in document.values):
        raise DecodeError(
            f"the configuration has [{'], ['.join(others)}] and nothing in [{HYPERVISOR}]",
            code="config.hypervisor",
            remedy="only QEMU is supported: name a configuration of it, such as configuration-qemu-sev.toml",
        )


def _warnings(document: Document) -> tuple[str, ...]:
    ignored = [
        f"[{table}] {name} has no effect here"
        for (table, name), value in document.values.items()
        if (key := KEYS[table, name]).default is not None
        and (not key.used or name == "image")
        and value != key.default
    ]
    return (*(one.describe() for one in document.unknown), *ignored)
