# SPDX-License-Identifier: Apache-2.0
"""What ``sealpod measure`` measures: files, hashes in their place, or standard input."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import TYPE_CHECKING, Final

from sealpod.cli.measure_options import QEMU, VMMS
from sealpod.errors import AccessError, DecodeError, NotFoundError, OperationError, UsageError
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable, cmdline_hash
from sealpod.measure.sevlaunch import SEV_ES, SNP, SNP_SVSM
from sealpod.measure.vcpu import SIGNATURES, signature

if TYPE_CHECKING:
    from sealpod.measure.vcpus import Vcpus

MAX_FIRMWARE_SIZE: Final = 256 << 20
"""Bytes that are read of a firmware image; OVMF's have 2 to 16 MiB."""
MAX_BOOT_FILE_SIZE: Final = 4 << 30
"""Bytes that are hashed of a kernel or initrd: all that QEMU can place below 4 GiB. A device has no end."""
MAX_RECORD_SIZE: Final = 16 << 20
"""Bytes that are read of a record (its reader's limit); longer ones are refused where they are parsed."""
STDIN: Final = "-"
_SNP_HASH_SIZE: Final = 48
_PIECE: Final = 1 << 20


class Inputs:
    """The inputs of one call. Each is read once, and when it is asked for."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Looks at nothing yet.

        :raise UsageError: the firmware or standard input is named twice.
        """
        self._args = args
        self._firmware: Firmware | None = None
        self._svsm: bytes | None = None
        self.measured_vars: int | None = None
        """Bytes of the variables, once they were asked for."""
        names = (args.ovmf, args.ovmf_metadata, args.kernel, args.initrd, args.svsm)
        if args.ovmf is not None and args.ovmf_metadata is not None:
            raise UsageError("--ovmf and --ovmf-metadata exclude each other", code="measure.firmware")
        if names.count(STDIN) > 1:
            raise UsageError("standard input can be one file only", code="measure.stdin")

    def firmware(self) -> Firmware:
        """The firmware image, or what is known of it."""
        if self._firmware is None:
            self._firmware = self._read_firmware()
        return self._firmware

    def _read_firmware(self) -> Firmware:
        args = self._args
        if args.ovmf_metadata is None:
            image = _read(args.ovmf, MAX_FIRMWARE_SIZE)
            # Whether it is an image comes before whether the hash is one, as the tool has it.
            firmware = Firmware.of(image)
            known = self._snp_hash()
            return firmware if known is None else Firmware(firmware.ovmf, image, known)
        from sealpod.measure.document import metadata

        ovmf, recorded = metadata(read_text(args.ovmf_metadata))
        found = self._snp_hash() or recorded
        if found is None:
            raise UsageError(
                "the metadata has no SEV-SNP hash of the firmware",
                code="measure.firmware",
                remedy="write it with --mode snp:ovmf-hash -o json, or give --snp-ovmf-hash",
            )
        return Firmware.known(ovmf, found)

    def _snp_hash(self) -> bytes | None:
        """The hash that was given. Mode snp:ovmf-hash takes the option too, and pays no heed to it."""
        given = self._args.snp_ovmf_hash
        return _digest("--snp-ovmf-hash", given, _SNP_HASH_SIZE) if given and self._args.mode == SNP else None

    def table(self) -> Callable[[], HashesTable] | None:
        """The hashes table, calculated when it is asked for; None when no kernel is measured."""
        args = self._args
        if not args.kernel and args.kernel_hash is None:
            return None
        return lambda: HashesTable(
            kernel=_hash("kernel", args.kernel, args.kernel_hash),
            initrd=_hash("initrd", args.initrd, args.initrd_hash),
            cmdline=_given("append", args.append_hash)
            if args.append_hash is not None
            else cmdline_hash(args.append or ""),
        )

    def cmdline(self) -> str | None:
        """The command line, or None when only its hash was given."""
        return (self._args.append or "") if self._args.append_hash is None else None

    def svsm(self) -> bytes:
        """The SVSM image."""
        if self._svsm is None:
            self._svsm = _read(self._args.svsm, MAX_FIRMWARE_SIZE)
        return self._svsm

    def svsm_hash(self) -> bytes | None:
        """SHA-256 of the SVSM image that was measured."""
        return None if self._svsm is None else hashlib.sha256(self._svsm).digest()

    def vars_size(self) -> int:
        """Bytes of the variables between SVSM and firmware."""
        args = self._args
        if args.vars_file:
            with _reported(args.vars_file):
                self.measured_vars = os.stat(args.vars_file).st_size
        elif args.vars_size and args.vars_size > 0:
            self.measured_vars = int(args.vars_size)
        else:
            raise UsageError("snp:svsm mode requires --vars-size or --vars-file", code="measure.svsm")
        return self.measured_vars or 0


def vcpus_of(args: argparse.Namespace) -> Vcpus:
    """What the vCPU options come to, in a mode that measures vCPUs.

    :raise UsageError: something the mode needs is missing.
    """
    if args.vcpus is None:
        raise UsageError(f"missing --vcpus N in guest mode '{args.mode}'", code="measure.vcpus")
    check_vmm(args)
    from sealpod.measure.vcpus import Vcpus
    from sealpod.measure.vmsa import Fpu, Vmm

    fpu = args.vmsa_fpu or ("legacy" if args.mode == SEV_ES else "init2")
    return Vcpus(args.vcpus, _signature(args), Vmm(args.vmm_type), _features(args), Fpu(fpu))


def check_vmm(args: argparse.Namespace) -> None:
    """Raise UsageError for a hypervisor nobody knows; the mode may well not ask for one."""
    if args.vmm_type not in VMMS:
        raise UsageError(
            f"unknown VMM type '{args.vmm_type}'", code="measure.vmm", remedy=f"use {', '.join(VMMS)}"
        )


def _features(args: argparse.Namespace) -> int:
    if args.sev_features is None:
        return 0 if args.mode == SEV_ES else int(args.guest_features)
    if args.mode == SNP_SVSM:
        raise UsageError("the features of mode snp:svsm are fixed", code="measure.features")
    return int(args.sev_features)


def _signature(args: argparse.Namespace) -> int:
    """Family, model and stepping before a signature before a type, as the tool has it."""
    if args.vcpu_family is not None:
        parts = (args.vcpu_family, args.vcpu_model, args.vcpu_stepping)
        if None in parts or min(parts) < 0:
            raise UsageError(
                "--vcpu-family needs --vcpu-model and --vcpu-stepping, numbers of 0 or more",
                code="measure.vcpu",
            )
        return signature(*parts)
    if args.vcpu_sig is not None:
        return int(args.vcpu_sig)
    if args.vcpu_type is not None:
        return SIGNATURES[args.vcpu_type]
    if args.vmm_type == QEMU:
        raise UsageError(
            f"missing --vcpu-type or --vcpu-sig or --vcpu-family in guest mode '{args.mode}'",
            code="measure.vcpu",
        )
    return 0


def read_text(path: str) -> bytes:
    """A record."""
    return _read(path, MAX_RECORD_SIZE, whole=False)


def _hash(what: str, path: str | None, given: str | None) -> bytes:
    """SHA-256 of a file, piece by piece, or the one that was given; of nothing without either."""
    if given is not None:
        return _given(what, given)
    if not path:
        return hashlib.sha256().digest()
    digest, taken = hashlib.sha256(), 0
    with _open(path) as file:
        while piece := file.read(_PIECE):
            taken += len(piece)
            if taken > MAX_BOOT_FILE_SIZE:
                raise OperationError(f"{path} has more than {MAX_BOOT_FILE_SIZE} bytes", code="file.large")
            digest.update(piece)
    return digest.digest()


def _given(what: str, text: str) -> bytes:
    return _digest(f"--{what}-hash", text, 32)


def _digest(option: str, text: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise UsageError(f"{option} takes {2 * size} hex digits", code="measure.hash-length")
    return value


def _read(path: str, limit: int, whole: bool = True) -> bytes:
    """A file's bytes; one byte more than ``limit`` tells a reader that it is too long."""
    with _open(path) as file:
        # Asked for the limit at once, Python would take that much memory. A pipe has no size: piece by piece.
        pieces = [file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)]
        taken = len(pieces[0])
        while taken <= limit and (piece := file.read(min(limit + 1 - taken, _PIECE))):
            pieces.append(piece)
            taken += len(piece)
    if whole and taken > limit:
        raise DecodeError(f"{path} has more than {limit} bytes", code="ovmf.size")
    return b"".join(pieces)


@contextmanager
def _open(path: str) -> Iterator[BufferedReader]:
    stdin = path == STDIN
    with _reported(path), open(0 if stdin else path, "rb", closefd=not stdin) as file:
        yield file


@contextmanager
def _reported(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {path}", code="file.missing") from None
    except PermissionError:
        raise AccessError(f"no permission to read {path}", code="file.permission") from None
    except OSError as error:
        raise OperationError(f"cannot read {path}: {error.strerror}", code="file.unreadable") from None
