# SPDX-License-Identifier: Apache-2.0
"""What a pod is to be: files, sizes, policy, broker. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sealpod.kataconfig.limits import DIAL_SECONDS
from sealpod.measure.components import Components
from sealpod.platform.port import PlatformKind
from sealpod.qemu.arguments import Nic
from sealpod.sandbox.brokertls import BrokerTls
from sealpod.sandbox.cmdline import KbcMode
from sealpod.sev.policy import Policy

DEFAULT_KEYSET: Final = "KEYSET-1"  # Kata's guest_pre_attestation_keyset
DEFAULT_MEMORY: Final = 2048  # MiB, Kata's default_memory
DEFAULT_CPUS: Final = 1
DEFAULT_POLICY: Final = 3  # NODBG, NOKS: Kata's sev_guest_policy from CC-0.5.0 on


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """The files of a guest, as absolute paths."""

    firmware: str
    """Empty for a plain virtual machine: nothing is measured."""
    kernel: str
    initrd: str


@dataclass(frozen=True, slots=True)
class PodSpec:
    """One pod. ``kbs`` is HOST:PORT as this host reaches the broker; empty with ``kbc`` ``none``."""

    files: GuestFiles
    policy: Policy
    kbc: KbcMode = "none"
    kbs: str = ""
    kbs_tls: BrokerTls | None = None
    """How this host speaks TLS to the broker; None is plain HTTP/2."""
    kbs_guest: str = ""
    """HOST:PORT as the guest reaches it, in plain HTTP/2; empty means ``kbs``."""
    keyset: str = DEFAULT_KEYSET
    memory: int = DEFAULT_MEMORY
    cpus: int = DEFAULT_CPUS
    insecure_registries: tuple[str, ...] = ()
    """HOST:PORT as the guest sees them."""
    extra_cmdline: tuple[str, ...] = ()
    debug: bool = False
    cmdline: str = ""
    """The whole kernel command line; empty means the one made of the other fields."""
    nics: tuple[Nic, ...] = (Nic(),)
    netns: str = ""
    """Path of the network namespace the guest is started in; empty means ours."""
    cgroup: str = ""
    """Directory of the control group QEMU is started in; empty means ours."""
    vsock: bool = False
    dial_seconds: float = DIAL_SECONDS
    """From the machine's start to its agent's first answer."""

    @property
    def measured(self) -> bool:
        """A platform launches and measures the guest."""
        return bool(self.files.firmware)


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """What was launched: the evidence a guest owner compares with the reference."""

    components: Components
    platform: PlatformKind
    memory: int
    cpus: int
    accelerator: str
