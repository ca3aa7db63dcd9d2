# SPDX-License-Identifier: Apache-2.0
"""The launch digests a pod will have, from its node's configuration and its manifest, before it runs.

The guest's size is part of its command line, so each number of processors has a digest of its own; firmware,
kernel and initrd are read and hashed once for all of them. Which parts are measured is the runtime's matter:

=============== ============ =======================================================
runtime         mode         measured
=============== ============ =======================================================
sealpod         sev, seves   firmware, kernel, initrd, command line (and, ES, vCPUs)
cc-0.3.0        sev, seves   the same
3.3.0           sev          firmware: its sev-guest has no kernel-hashes=on
3.3.0           snp          firmware, vCPUs
3.19.1          sev          firmware
3.19.1          snp          firmware, kernel, initrd, command line, vCPUs
=============== ============ =======================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from sealpod.errors import OperationError, UsageError
from sealpod.kataconfig.annotations import apply_annotations
from sealpod.kataconfig.commandline import GuestKeys, Release, command_line, guest_keys
from sealpod.kataconfig.document import parse
from sealpod.kataconfig.settings import Settings, settings_of
from sealpod.kataconfig.sizes import Sizes, sizes, with_vcpus
from sealpod.measure.components import Components
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable, cmdline_hash
from sealpod.measure.launch import SEV, SEV_ES, SNP, Launch, Vcpus, measure_sev, measure_seves, measure_snp
from sealpod.measure.ovmf import Ovmf
from sealpod.qemu.vcpu import EMULATED_SIGNATURE
from sealpod.sandbox.measuredfiles import hash_file, open_file
from sealpod.sandbox.podsettings import findings, guest_files, pod_line
from sealpod.sandbox.spec import GuestFiles
from sealpod.sev.policy import Policy, PolicyFlag

MAX_FIRMWARE: Final = 64 << 20
"""Bytes; QEMU's flash is at most 8 MiB unless it is told otherwise."""
_COPIES: Final = "give copies of the node's files with --ovmf, --kernel and --initrd"
_HASHED: Final = {
    (Release.SEALPOD, SEV),
    (Release.SEALPOD, SEV_ES),
    (Release.CC_0_3_0, SEV),
    (Release.CC_0_3_0, SEV_ES),
    (Release.KATA_3_19_1, SNP),
}
"""Runtime and mode whose kernel, initrd and command line are measured."""
_ES_RELEASES: Final = (Release.SEALPOD, Release.CC_0_3_0)
_SNP_RELEASES: Final = (Release.KATA_3_3_0, Release.KATA_3_19_1)
_NODES_OWN: Final = "give --vcpu-family, --vcpu-model and --vcpu-stepping of the node's processor"
_PROCESSORS: Final[Mapping[Release, str]] = {
    Release.SEALPOD: f"{_NODES_OWN}, or --vcpu-sig {EMULATED_SIGNATURE:#x} if it has no KVM",
    Release.CC_0_3_0: _NODES_OWN,
    Release.KATA_3_3_0: _NODES_OWN,
    Release.KATA_3_19_1: "give --vcpu-type EPYC-v4, or what the configuration's cpu model is",
}
"""What the vCPUs of each runtime's guests are; `-cpu host` for all but the last."""


@dataclass(frozen=True, slots=True)
class Node:
    """Where the pod will run: its configuration, and the runtime that reads it."""

    config: str
    """The configuration's text."""
    release: Release = Release.SEALPOD
    cpus: int = 0
    """The node's processors; 0: not known, and enough."""
    fips: bool = False
    """The node's kernel runs in FIPS mode (Kata then says so to the guest)."""
    files: GuestFiles | None = None
    """Copies of the node's files, where it is not this machine; empty paths leave the configuration's."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """What was found: one set of components for each number of processors, and what is worth a warning."""

    components: tuple[Components, ...]
    launches: tuple[Launch, ...]
    """The steps to each."""
    ovmf: Ovmf
    """What the firmware image says of itself."""
    warnings: tuple[str, ...]
    mode: str
    counts: tuple[int, ...]
    """Processors at boot, in the order of ``components``."""


def foretell(
    node: Node,
    annotations: Mapping[str, str],
    milli_cpus: int = 0,
    *,
    counts: Sequence[int] = (),
    processors: Callable[[str], Vcpus] | None = None,
) -> Foretold:
    """The digests of a pod with these annotations and limits.

    ``counts``: for these numbers of processors instead of the one the limits come to. ``processors``
    says for a mode what they start with (its counts are not looked at); needed when they are measured.

    :raise DecodeError: the configuration, an annotation or the firmware cannot be.
    :raise RefusedError: an annotation is not enabled on the node.
    :raise NotFoundError: a file does not exist.
    :raise UsageError: nothing would be measured, or what decides is not given.
    """
    document = parse(node.config)
    settings = apply_annotations(settings_of(document), annotations)
    keys = guest_keys(document, annotations)
    mode = _mode(settings, keys, node.release)
    wanted = _sizes(settings, keys, milli_cpus, node, counts)
    if mode != SEV and processors is None:
        raise UsageError(
            "the pod's processors are measured, and nothing says what they are",
            code="measure.vcpu",
            remedy=_PROCESSORS[node.release],
        )
    vcpus = Vcpus() if mode == SEV or processors is None else processors(mode)
    measure = _Measure(node, settings, keys, mode, vcpus)
    launches = tuple(measure.launch(size) for size in wanted)
    return Foretold(
        tuple(measure.components(*pair) for pair in zip(wanted, launches, strict=True)),
        launches,
        measure.ovmf,
        findings(settings),
        mode,
        tuple(size.vcpus for size in wanted),
    )


class _Measure:
    """One pod's files, read and hashed at most once."""

    def __init__(self, node: Node, settings: Settings, keys: GuestKeys, mode: str, vcpus: Vcpus) -> None:
        self._node, self._settings, self._keys = node, settings, keys
        self._mode, self._vcpus = mode, vcpus
        self._files = _files(node, settings)
        self._firmware = Firmware.of(_read(self._files.firmware, "firmware"))
        self._hash = cache(_hash)

    @property
    def ovmf(self) -> Ovmf:
        return self._firmware.ovmf

    def launch(self, size: Sizes) -> Launch:
        line, vcpus = self._line(size), self._counted(size)
        table = None if line is None else lambda: self._table(line)
        if self._mode == SNP:
            return measure_snp(self._firmware, table, vcpus)
        if self._mode == SEV_ES:
            return measure_seves(self._firmware, table, vcpus)
        return measure_sev(self._firmware, table)

    def _table(self, line: str) -> HashesTable:
        return HashesTable(
            cmdline=cmdline_hash(line),
            initrd=self._hash(self._files.initrd, "initrd"),
            kernel=self._hash(self._files.kernel, "kernel"),
        )

    def components(self, size: Sizes, launch: Launch) -> Components:
        vcpus = None if self._mode == SEV else self._counted(size)
        return Components.of_launch(launch, self._line(size) or "", vcpus, self._policy())[0]

    def _line(self, size: Sizes) -> str | None:
        """The command line, where it is measured."""
        release = self._node.release
        if (release, self._mode) not in _HASHED:
            return None
        if release is Release.SEALPOD:
            return pod_line(self._settings, size.nr_cpus)
        return command_line(self._settings, self._keys, size.nr_cpus, release, fips=self._node.fips)

    def _policy(self) -> int | None:
        # Later releases leave the policy to QEMU.
        return self._settings.policy if self._node.release in _ES_RELEASES else None

    def _counted(self, size: Sizes) -> Vcpus:
        given = self._vcpus
        return Vcpus((size.vcpus,), given.signature, given.vmm, given.features, given.fpu)


def _mode(settings: Settings, keys: GuestKeys, release: Release) -> str:
    if not settings.confidential_guest:
        given = settings.origins["confidential_guest"].source != "default"
        says = "says confidential_guest = false" if given else "does not say confidential_guest = true"
        raise UsageError(
            f"the configuration {says}: nothing of such a pod is measured",
            code="measure.not-confidential",
            remedy="name the configuration of a confidential runtime (configuration-qemu-sev.toml)",
        )
    if keys.snp:
        if release not in _SNP_RELEASES:
            raise UsageError(
                f"the configuration says sev_snp_guest = true, which {release.value} cannot launch measured",
                code="measure.release",
                remedy=f"give --runtime {' or '.join(one.value for one in _SNP_RELEASES)}",
            )
        return SNP
    if release in _ES_RELEASES and PolicyFlag.ES in Policy(settings.policy).flags:
        return SEV_ES
    return SEV


def _sizes(
    settings: Settings, keys: GuestKeys, milli_cpus: int, node: Node, counts: Sequence[int]
) -> list[Sizes]:
    if counts:
        return [with_vcpus(settings, keys, count, node.release, node.cpus) for count in counts]
    return [sizes(settings, keys, milli_cpus, node.release, node.cpus)]


def _files(node: Node, settings: Settings) -> GuestFiles:
    """The files by name: given ones, else the configuration's, else (sealpod) those built here."""
    given = node.files or GuestFiles("", "", "")
    named = replace(
        settings,
        firmware=given.firmware or settings.firmware,
        kernel=given.kernel or settings.kernel,
        initrd=given.initrd or settings.initrd,
    )
    if node.release is Release.SEALPOD:
        return guest_files(named)
    if not named.firmware or not named.kernel:
        raise UsageError(
            "the configuration does not name firmware and kernel",
            code="config.files",
            remedy="give --ovmf, --kernel and --initrd",
        )
    return GuestFiles(named.firmware, named.kernel, named.initrd)


def _read(path: str, what: str) -> bytes:
    with open_file(path, what, _COPIES) as source:
        data = source.read(MAX_FIRMWARE + 1)
    if len(data) > MAX_FIRMWARE:
        raise OperationError(f"the {what} {path} has more than {MAX_FIRMWARE} bytes", code="ovmf.size")
    return data


def _hash(path: str, what: str) -> bytes:
    return hash_file(path, what, _COPIES) if path else hashlib.sha256().digest()
