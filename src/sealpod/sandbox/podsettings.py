# SPDX-License-Identifier: Apache-2.0
"""What one pod's virtual machine is to be: configuration, annotations and resources come together here.

The guest's size is fixed at its start: memory is the configuration's ``default_memory`` plus the pod's limit,
processors are ``default_vcpus`` plus what its quota rounds up to. The number of processors stands on the
kernel command line (``nr_cpus=``) and with it in the launch digest; memory does not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError, RefusedError, UsageError
from sealpod.guestimage import locate
from sealpod.kataconfig.annotations import apply_annotations
from sealpod.kataconfig.document import parse
from sealpod.kataconfig.settings import AA_KBC_PARAMS, Settings, settings_of
from sealpod.oci.reference import ImageReference
from sealpod.qemu.arguments import MAXIMUM_CPUS
from sealpod.sandbox import network
from sealpod.sandbox.brokertls import CA_VARIABLE, BrokerTls
from sealpod.sandbox.cmdline import compose_pod
from sealpod.sandbox.configfile import ANNOTATION, find_config, read_config, require_trusted
from sealpod.sandbox.spec import GuestFiles, PodSpec
from sealpod.sev.policy import Policy

PERIOD: Final = "io.kubernetes.cri.sandbox-cpu-period"
QUOTA: Final = "io.kubernetes.cri.sandbox-cpu-quota"
MEMORY: Final = "io.kubernetes.cri.sandbox-memory"
MIB: Final = 1 << 20
CONFIG_FILE: Final = "agent.config_file="
MAX_AMOUNT: Final = 1 << 50  # of a resource annotation; whatever is above is no real limit

CONFIDENTIAL_RUNTIME: Final = "kata-qemu-sev"
_PLAIN: Final = """
[hypervisor.qemu]
kernel_params = "agent.enable_signature_verification=false"
"""
_CONFIDENTIAL: Final = """
confidential_guest = true
guest_pre_attestation = true
guest_pre_attestation_kbs_mode = "online"
sev_guest_policy = 3
"""
BUILT_IN: Final[Mapping[str, str]] = {
    "kata": _PLAIN,
    "kata-qemu": _PLAIN,
    CONFIDENTIAL_RUNTIME: _PLAIN + _CONFIDENTIAL,
}
"""Configurations of the runtimes where none is installed."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """A pod's settings as they count. ``config`` is the file's path, empty for the built-in one."""

    config: str
    kata: Settings
    files: GuestFiles
    memory: int
    """MiB."""
    cpus: int
    cmdline: str
    user_network: bool
    warnings: tuple[str, ...]

    def image_reference(self, reference: str) -> str:
        """An image reference as the guest resolves it.

        On QEMU's user network this machine's loopback is at the gateway. Whether the guest speaks plain HTTP
        to a registry there is for its measured command line to say, as for any other.
        """
        if not self.user_network:
            return reference
        parsed = ImageReference.parse(reference.removeprefix("docker://"))
        inside = network.from_guest(parsed.registry)
        return reference if inside == parsed.registry else str(parsed).replace(parsed.registry, inside, 1)

    def spec(self) -> PodSpec:
        """What is launched, without its network."""
        mode = self.kata.mode
        return PodSpec(
            files=self.files,
            policy=Policy(self.kata.policy),
            kbc=mode,
            kbs=self.kata.kbs_uri if mode != "none" else "",
            kbs_tls=BrokerTls.of_environment() if mode != "none" else None,
            keyset=self.kata.keyset,
            memory=self.memory,
            cpus=self.cpus,
            debug=self.kata.debug,
            cmdline=self.cmdline,
            dial_seconds=self.kata.dial_timeout,
        )


def pod_settings(
    runtime: str, config_path: str, annotations: Mapping[str, str], *, user_network: bool
) -> PodSettings:
    """The settings of one pod of ``runtime``.

    :raise DecodeError: the configuration or an annotation cannot be.
    :raise NotFoundError: a file that is named does not exist.
    :raise RefusedError: an annotation is not enabled, or the runtime's promise would not be kept.
    """
    path = find_config(config_path, annotations)
    if annotations.get(ANNOTATION):
        require_trusted(path)
    text = read_config(path) if path else BUILT_IN.get(runtime, _PLAIN)
    kata = apply_annotations(settings_of(parse(text)), annotations)
    if runtime == CONFIDENTIAL_RUNTIME and not kata.confidential_guest:
        raise RefusedError(
            f"the pod asks for the runtime {runtime}, but {path} says confidential_guest = false",
            code="config.not-confidential",
            remedy="give this runtime its own ConfigPath in containerd's configuration",
        )
    cpus = _cpus(kata, annotations)
    cmdline = pod_line(kata, cpus)
    warnings = (*findings(kata), *_tls_findings(kata))
    memory = _memory(kata, annotations)
    return PodSettings(path, kata, guest_files(kata), memory, cpus, cmdline, user_network, warnings)


def pod_line(kata: Settings, cpus: int) -> str:
    """The kernel command line of a pod whose guest has ``cpus`` processors."""
    return compose_pod(
        cpus,
        kernel_words(kata),
        kbc=kata.mode != "none" or bool(kata.guest_kbc),
        debug=kata.debug,
        agent_debug=kata.agent_debug,
    )


def guest_files(kata: Settings) -> GuestFiles:
    """The files the configuration names, else those of ``sealpod guest build``.

    :raise UsageError: a kernel without its initrd, or the reverse. :raise NotFoundError: no image was built.
    """
    if bool(kata.kernel) != bool(kata.initrd):
        raise UsageError(
            "the configuration names a kernel without its initrd, or an initrd without its kernel",
            code="config.files",
            remedy="set kernel and initrd, or neither to use those of `sealpod guest build`",
        )
    kernel, initrd, firmware = kata.kernel, kata.initrd, kata.firmware
    if not kernel:
        image = locate(firmware_path=firmware or None)
        kernel, initrd, firmware = image.kernel, image.initrd, image.firmware
    elif kata.confidential_guest and not firmware:
        from sealpod.guestimage import firmware as builds
        from sealpod.guestimage.cache import cache_directory

        firmware = builds.find(cache_directory())
    return GuestFiles(os.path.abspath(firmware) if kata.confidential_guest else "", kernel, initrd)


def _tls_findings(kata: Settings) -> tuple[str, ...]:
    """The guest speaks plain HTTP/2, so it needs another address than a host with TLS."""
    if os.environ.get(CA_VARIABLE) and guest_kbc(kata) == f"online_sev_kbc::{kata.kbs_uri}":
        found = (
            f"{CA_VARIABLE} says that {kata.kbs_uri} speaks TLS, and the guest, which does not, is sent there"
        )
        advice = "name the broker's listener for guests by agent.aa_kbc_params= in kernel_params"
        return (f"{found}: {advice}",)
    return ()


def _memory(kata: Settings, annotations: Mapping[str, str]) -> int:
    return kata.memory + math.ceil(max(0, _amount(annotations, MEMORY)) / MIB)


def _cpus(kata: Settings, annotations: Mapping[str, str]) -> int:
    host = len(os.sched_getaffinity(0))
    most = min(host, MAXIMUM_CPUS, kata.max_vcpus or MAXIMUM_CPUS)
    quota, period = _amount(annotations, QUOTA), _amount(annotations, PERIOD)
    wanted = host if kata.vcpus < 0 else kata.vcpus
    if quota > 0 and period > 0:
        wanted += math.ceil(quota / period)
    return max(1, min(wanted, most))


def _amount(annotations: Mapping[str, str], name: str) -> int:
    text = annotations.get(name, "0")
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        raise DecodeError(f"annotation {name} is {text[:40]!r}, expected a number", code="config.value")
    number = int(text)
    return number if number < MAX_AMOUNT else 0


def guest_kbc(kata: Settings) -> str:
    """What the guest is told to do with its secret; empty where its agent's own file says it.

    Kata (CC-0.5.0) says it in online mode and the newer spelling only. Here it is said wherever the guest
    would otherwise not know.
    """
    if kata.guest_kbc or any(word.startswith(CONFIG_FILE) for word in kata.kernel_params):
        return kata.guest_kbc
    uris = {"online": f"online_sev_kbc::{kata.kbs_uri}", "offline": "offline_sev_kbc::null"}
    return uris.get(kata.mode, "")


def kernel_words(kata: Settings) -> tuple[str, ...]:
    """The configuration's words, and the one the runtime adds to them.

    :raise DecodeError: one has a double quote. The guest's kernel would take what is quoted for one value,
        the agent, which reads word by word, for several.
    """
    for one in kata.kernel_params:
        if '"' in one:
            raise DecodeError(
                f"kernel_params: {one[:80]!r} has a double quote, which the guest's agent does not read",
                code="config.value",
                remedy="give values without spaces, and leave the quotes out",
            )
    word = AA_KBC_PARAMS + guest_kbc(kata)
    given = any(one.startswith(AA_KBC_PARAMS) for one in kata.kernel_params)
    return kata.kernel_params if given or word == AA_KBC_PARAMS else (*kata.kernel_params, word)


def findings(kata: Settings) -> tuple[str, ...]:
    """What is allowed, but hardly meant: the settings' own warnings, and those the runtime adds."""
    found = [*kata.findings()]
    if not kata.confidential_guest and kata.firmware:
        found.append("[hypervisor.qemu] firmware has no effect without confidential_guest")
    told = guest_kbc(kata)
    kbc, _, uri = told.partition("::")
    host = uri.rpartition(":")[0]
    if kbc == "online_sev_kbc" and host and network.is_loopback(host):
        found.append(f"the guest is told {told!r}, and {host} is the guest itself there")
    return tuple(found)
