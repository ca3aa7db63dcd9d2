# SPDX-License-Identifier: Apache-2.0
"""What a launch digest was made of, so that a later difference can be given a name.

As JSON, an object with ``schemaVersion`` 2 and the fields of :meth:`Components.record`; hashes are lower-case
hex, numbers other than counts "0x...". Kernel, initrd, command line and table are null when the firmware
alone is measured; what a mode does not measure is null. ``cmdlineHash`` and ``table`` follow from the rest,
unless only the command line's hash was known; ``cmdline`` is null then. A record of several vCPU counts has
lists in ``vcpus`` and ``digest``. Other fields, such as the steps of :mod:`sealpod.measure.document`, are not
read.

Records with ``schemaVersion`` 1, which knew mode sev alone, are read as well.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Self

from sealpod.errors import DecodeError
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable, cmdline_hash
from sealpod.measure.ovmf import Bytes
from sealpod.measure.sevlaunch import SEV, SNP_SVSM, Launch, measure_sev
from sealpod.record import Record

if TYPE_CHECKING:
    from sealpod.measure.vcpus import Vcpus

SCHEMA_VERSION: Final = 2


class Components(Record):
    """The measured parts; hashes are lower-case hex SHA-256."""

    firmware: str
    """With SEV-SNP, the chain after the image's pages (96 digits)."""
    kernel: str | None
    """None when no kernel is measured; then initrd and cmdline are None too."""
    initrd: str | None
    """Of an empty file when there is a kernel but no initrd, as the table has it."""
    cmdline: str | None
    digest: str
    """The launch digest, hex."""
    mode: str = SEV
    vcpus: int | None = None
    """How many are measured; None in mode sev."""
    signature: int | None = None
    """The vCPUs' signature; None where the hypervisor has its own."""
    vmm: str | None = None
    features: int | None = None
    fpu: str | None = None
    policy: int | None = None
    """Not part of the digest, but of what the firmware reports; None: not known."""
    svsm: str | None = None
    vars_size: int | None = None
    cmdline_sha256: str | None = None
    """When the command line's text is not known."""

    @classmethod
    def of(
        cls,
        firmware: Bytes,
        kernel: Bytes | None,
        initrd: Bytes | None,
        cmdline: str | None,
    ) -> Self:
        """Measure these files in mode sev. Without a kernel, initrd and command line are not looked at.

        :raise OperationError: a kernel for a firmware that cannot check it, code ``measure.no-hash-table``.
        :raise DecodeError: the firmware image is malformed.
        :raise UsageError: the command line cannot be one.
        """
        table = None if kernel is None else lambda: HashesTable.of(kernel, initrd, cmdline)
        return cls.of_launch(measure_sev(Firmware.of(firmware), table), cmdline or "")[0]

    @classmethod
    def of_launch(
        cls,
        launch: Launch,
        cmdline: str | None,
        vcpus: Vcpus | None = None,
        policy: int | None = None,
        svsm: bytes | None = None,
        vars_size: int | None = None,
    ) -> tuple[Self, ...]:
        """One for each digest of a launch. ``cmdline`` is None when only its hash was given."""
        hashes = launch.hashes
        common: dict[str, Any] = {"policy": policy, "vars_size": vars_size}
        if vcpus is not None and launch.mode != SEV:
            common |= _started(launch.mode, vcpus)
        if svsm is not None:
            common["svsm"] = svsm.hex()
        if hashes is not None and cmdline is None:
            common["cmdline_sha256"] = hashes.cmdline.hex()
        return tuple(
            cls(
                firmware=launch.firmware.hex(),
                kernel=None if hashes is None else hashes.kernel.hex(),
                initrd=None if hashes is None else hashes.initrd.hex(),
                cmdline=None if hashes is None else cmdline,
                digest=digest.hex(),
                mode=launch.mode,
                vcpus=count,
                **common,
            )
            for count, digest in launch.digests
        )

    def line_hash(self) -> str | None:
        """The command line's hash, hex; None when none is measured."""
        return self.cmdline_sha256 if self.cmdline is None else cmdline_hash(self.cmdline).hex()

    def table(self) -> bytes | None:
        """The 176-byte hashes table; None when no kernel is measured."""
        line = self.line_hash()
        if self.kernel is None or self.initrd is None or line is None:
            return None
        return HashesTable(*(bytes.fromhex(value) for value in (line, self.initrd, self.kernel))).encode()

    def to_json(self) -> str:
        """The record as JSON text, one field per line."""
        return json.dumps(self.record(), indent=2)

    def record(self) -> dict[str, object]:
        """The record's fields."""
        table = self.table()
        return {
            "schemaVersion": SCHEMA_VERSION,
            "mode": self.mode,
            "firmware": self.firmware,
            "kernel": self.kernel,
            "initrd": self.initrd,
            "cmdline": self.cmdline,
            "cmdlineHash": self.line_hash(),
            "table": None if table is None else table.hex(),
            "svsm": self.svsm,
            "varsSize": self.vars_size,
            "vcpus": self.vcpus,
            "vcpuSignature": _hex(self.signature),
            "vmm": self.vmm,
            "guestFeatures": _hex(self.features),
            "fpu": self.fpu,
            "policy": _hex(self.policy),
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, text: str | bytes) -> Components:
        """Read the record of one digest back.

        :raise DecodeError: not such a record, or one of several vCPU counts.
        """
        from sealpod.measure.reading import read_all

        found = read_all(text)
        if len(found) != 1:
            raise DecodeError(
                f"the measurement record has {len(found)} digests where one is expected",
                code="measure.record",
            )
        return found[0]


def _hex(value: int | None) -> str | None:
    return None if value is None else hex(value)


def _started(mode: str, vcpus: Vcpus) -> dict[str, Any]:
    from sealpod.measure.vmsa import Vmm

    qemu = vcpus.vmm is Vmm.QEMU
    return {
        "signature": vcpus.signature if qemu else None,
        "vmm": vcpus.vmm.value,
        "features": 1 if mode == SNP_SVSM else vcpus.features,
        "fpu": vcpus.fpu.value if qemu and mode != SNP_SVSM else None,
    }
