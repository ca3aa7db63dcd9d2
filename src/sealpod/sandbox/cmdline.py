# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel command line. Pure.

It is measured: every word of it decides the launch digest, so the guest owner must be able to predict it.
The order is Kata's for a confidential guest with a legacy serial console: constants, console, verbosity,
``panic``, ``nr_cpus``, agent parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sealpod.errors import UsageError
from sealpod.kataconfig.constants import CONSTANTS

KbcMode = Literal["online", "offline", "none"]

# Linux on x86 takes at most COMMAND_LINE_SIZE bytes, the final NUL included.
MAXIMUM_LENGTH: Final = 2047
# The firmware describes the secret area in a table that lies among the ACPI tables. A kernel without the
# efi_secret module shows those to root's /dev/mem only with this; ordinary memory stays closed to it.
IOMEM: Final = "iomem=relaxed"


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """What the guest is told on its measured command line."""

    cpus: int
    kbc: KbcMode = "none"
    kbs: str = ""
    """HOST:PORT of the key broker as the guest reaches it; for ``online``."""
    insecure_registries: tuple[str, ...] = ()
    """HOST:PORT of registries that may be spoken to in plain HTTP."""
    debug: bool = False
    extra: tuple[str, ...] = ()


def compose(settings: GuestSettings) -> str:
    """The command line. Raises UsageError when a part cannot stand on one."""
    words = [
        *CONSTANTS,
        "console=ttyS0",
        "debug" if settings.debug else "quiet",
        "panic=1",
        f"nr_cpus={settings.cpus}",
        "selinux=0",
        "scsi_mod.scan=none",
        *(["agent.log=debug"] if settings.debug else []),
        "agent.enable_signature_verification=false",
        *_kbc(settings),
        *_registries(settings.insecure_registries),
        *settings.extra,
    ]
    return _checked(words)


def compose_pod(cpus: int, words: Sequence[str], *, kbc: bool, debug: bool, agent_debug: bool) -> str:
    """The command line of a pod: our constants, then the configuration's words.

    What the agent is told is the configuration's alone, so that its owner can predict the line. ``kbc``: the
    guest has to find a launch secret. A word of ours that the configuration has too stands once, in its
    place.
    """
    ours = [
        *CONSTANTS,
        "console=ttyS0",
        "debug" if debug else "quiet",
        "panic=1",
        f"nr_cpus={cpus}",
        "selinux=0",
        "scsi_mod.scan=none",
        *(["agent.log=debug"] if agent_debug else []),
        *([IOMEM] if kbc else []),
    ]
    return _checked([*(word for word in ours if word not in words), *words])


def _kbc(settings: GuestSettings) -> list[str]:
    if settings.kbc == "none":
        return []
    if settings.kbc == "offline":
        return [IOMEM, "agent.aa_kbc_params=offline_sev_kbc::null"]
    if not settings.kbs:
        raise UsageError("the online KBC needs the key broker's address", remedy="give --kbs HOST:PORT")
    return [IOMEM, f"agent.aa_kbc_params=online_sev_kbc::{settings.kbs}"]


def _registries(registries: Sequence[str]) -> list[str]:
    return [f"agent.insecure_registries={','.join(registries)}"] if registries else []


def _checked(words: Sequence[str]) -> str:
    for word in words:
        if not word.isprintable() or not word.isascii() or " " in word or '"' in word:
            raise UsageError(f"{word!r} cannot stand on a kernel command line", code="usage.cmdline")
    line = " ".join(words)
    if len(line) > MAXIMUM_LENGTH:
        raise UsageError(
            f"the kernel command line has {len(line)} bytes, the kernel reads {MAXIMUM_LENGTH}",
            code="usage.cmdline",
        )
    return line
