# SPDX-License-Identifier: Apache-2.0
"""The kernel command line Kata composes for a confidential guest, by release.

The words and their order are those of virtcontainers (``qemu.go: kernelParameters``, ``qemu_amd64.go``,
``katautils/create.go``) in CC-0.3.0, 3.3.0 and 3.19.1, which share that path::

     1 constants                             10 systemd.unit, systemd.mask    (image)
     2 intel_iommu                           11 scsi_mod.scan                 (virtio-scsi)
     3 root, rootflags, rootfstype (image)   12 agent.log
     4 console                               13 agent.trace
     5 debug or quiet                        14 agent.container_pipe_size
     6 systemd.show_status         (image)   15 agent.debug_console
     7 panic                                 16 agent.cdh_api_timeout         (3.19.1)
     8 nr_cpus                               17 kernel_params
     9 selinux                               18 the annotation's kernel_params
                                             19 fips                          (of the host)

What the guests of this project are told is :mod:`sealpod.sandbox.cmdline`'s matter.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from sealpod.errors import DecodeError, UsageError
from sealpod.kataconfig.annotations import PREFIX
from sealpod.kataconfig.constants import CONSTANTS
from sealpod.kataconfig.document import Document
from sealpod.kataconfig.keys import AGENT, HYPERVISOR, KEYS, RUNTIME
from sealpod.kataconfig.settings import Settings


class Release(enum.StrEnum):
    """A runtime whose command line can be foretold."""

    SEALPOD = "sealpod"
    CC_0_3_0 = "cc-0.3.0"
    KATA_3_3_0 = "3.3.0"
    KATA_3_19_1 = "3.19.1"


# A confidential guest has no nvdimm, so the image is its first virtio disk.
_ROOT: Final = "root=/dev/vda1"
_ROOT_FLAGS: Final[Mapping[str, str]] = {
    "ext4": "rootflags=data=ordered,errors=remount-ro ro",
    "erofs": "rootflags=ro",
    "xfs": "rootflags=ro",
}
_UNIT: Final = (
    "systemd.unit=kata-containers.target systemd.mask=systemd-networkd.service "
    "systemd.mask=systemd-networkd.socket"
)
_TRUE: Final = "true"
_T = TypeVar("_T", str, bool, int)


@dataclass(frozen=True, slots=True)
class GuestKeys:
    """The keys that reach Kata's command line and nothing else of :class:`Settings`."""

    image: bool
    rootfs_type: str
    iommu: bool
    legacy_serial: bool
    virtio_scsi: bool
    selinux: bool
    tracing: bool
    debug_console: bool
    pipe_size: int
    cdh_timeout: int
    """Seconds; 0 leaves the word out."""
    static_sizes: bool
    """``static_sandbox_resource_mgmt``: a pod's limits are added before its machine is made."""
    snp: bool
    kernel_params: str
    """The file's, before anybody splits it."""


def guest_keys(document: Document, annotations: Mapping[str, str]) -> GuestKeys:
    """The keys of a file, with those annotations upon them that Kata lets reach the command line.

    :raise DecodeError: an annotation's value cannot be.
    """
    iommu = annotations.get(f"{PREFIX}hypervisor.enable_iommu")
    tracing = annotations.get(f"{PREFIX}agent.enable_tracing")
    pipe = annotations.get(f"{PREFIX}agent.container_pipe_size")
    if pipe is not None and not (pipe.isascii() and pipe.isdecimal() and len(pipe) <= 10):
        raise DecodeError(
            f"{PREFIX}agent.container_pipe_size is {pipe[:40]!r}, expected a number", code="config.value"
        )
    return GuestKeys(
        image=bool(_value(document, HYPERVISOR, "image", "")),
        rootfs_type=_value(document, HYPERVISOR, "rootfs_type", "ext4"),
        iommu=_value(document, HYPERVISOR, "enable_iommu", False) if iommu is None else iommu == _TRUE,
        legacy_serial=_value(document, HYPERVISOR, "use_legacy_serial", False),
        virtio_scsi=_value(document, HYPERVISOR, "block_device_driver", "virtio-scsi") == "virtio-scsi",
        selinux=not _value(document, HYPERVISOR, "disable_guest_selinux", True),
        tracing=_value(document, AGENT, "enable_tracing", False) if tracing is None else tracing == _TRUE,
        debug_console=_value(document, AGENT, "debug_console_enabled", False),
        pipe_size=_value(document, AGENT, "container_pipe_size", 0) if pipe is None else int(pipe),
        cdh_timeout=_value(document, AGENT, "cdh_api_timeout", 0),
        static_sizes=_value(document, RUNTIME, "static_sandbox_resource_mgmt", False),
        snp=_value(document, HYPERVISOR, "sev_snp_guest", False),
        kernel_params=_value(document, HYPERVISOR, "kernel_params", ""),
    )


def command_line(
    settings: Settings, keys: GuestKeys, nr_cpus: int, release: Release, *, fips: bool = False
) -> str:
    """Kata's command line; ``fips``: the host's kernel runs in FIPS mode.

    :raise UsageError: ``release`` is not one of Kata.
    :raise DecodeError: Kata would start no guest with these ``kernel_params``.
    """
    if release is Release.SEALPOD:
        raise UsageError("this project's own command line is not Kata's", code="measure.release")
    return " ".join(_words(settings, keys, nr_cpus, release, fips))


def _words(settings: Settings, keys: GuestKeys, nr_cpus: int, release: Release, fips: bool) -> Iterator[str]:
    yield from CONSTANTS
    if keys.iommu:
        yield "intel_iommu=on iommu=pt"
    if keys.image:
        flags = _ROOT_FLAGS.get(keys.rootfs_type, _ROOT_FLAGS["ext4"])
        yield f"{_ROOT} {flags} rootfstype={keys.rootfs_type}"
    yield "console=ttyS0" if keys.legacy_serial else "console=hvc0 console=hvc1"
    yield "debug" if settings.debug else "quiet"
    if keys.image:
        shown = "true systemd.log_level=debug" if settings.debug else "false"
        yield f"systemd.show_status={shown}"
    yield f"panic=1 nr_cpus={nr_cpus} selinux={int(keys.selinux)}"
    if keys.image:
        yield _UNIT
    if keys.virtio_scsi:
        yield "scsi_mod.scan=none"
    yield from _agent_words(settings, keys, release)
    yield from _parameters(settings, keys, release)
    if fips:
        yield "fips=1"


def _agent_words(settings: Settings, keys: GuestKeys, release: Release) -> Iterator[str]:
    if settings.agent_debug:
        yield "agent.log=debug"
    if keys.tracing:
        yield "agent.trace=true"
    if keys.pipe_size:
        yield f"agent.container_pipe_size={keys.pipe_size}"
    if keys.debug_console:
        yield "agent.debug_console agent.debug_console_vport=1026"
    if keys.cdh_timeout and release is Release.KATA_3_19_1:
        yield f"agent.cdh_api_timeout={keys.cdh_timeout}"


def _parameters(settings: Settings, keys: GuestKeys, release: Release) -> Iterator[str]:
    """``kernel_params`` of file and annotation, split into names and values and joined as Kata does it.

    A name without a value loses its equals sign (``virtcontainers/hypervisor.go: SerializeParams``).
    """
    words = keys.kernel_params.split()
    others = settings.kernel_words[len(words) :]
    for word in (*(words if release is Release.CC_0_3_0 else _quoted(keys.kernel_params)), *others):
        name, _, value = word.partition("=")
        if not name:
            raise DecodeError(
                f"kernel_params: {word[:80]!r} has no name before its equals sign", code="config.value"
            )
        yield word if value else name


def _quoted(text: str) -> Iterator[str]:
    """The fields of ``text`` between spaces outside double quotes (3.2.0 and later, the file's only)."""
    start, inside = 0, False
    for place, letter in enumerate(text + " "):
        if letter == '"':
            inside = not inside
        elif letter == " " and (not inside or place == len(text)):
            if field := text[start:place].strip():
                yield field
            start = place + 1


def _value(document: Document, table: str, name: str, default: _T) -> _T:
    """A key's value in the type of ``default``, which also stands where the installation would decide."""
    found = document.values.get((table, name), KEYS[table, name].default)
    return found if isinstance(found, type(default)) else default
