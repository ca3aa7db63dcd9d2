# SPDX-License-Identifier: Apache-2.0
"""What :mod:`sealpod.platform.hostcheck` asks a machine, and this machine's answers.

Each question is one method that answers or raises ``OSError``, so that a test's script can stand for any
machine. Nothing is changed: devices are opened and closed again.
"""

from __future__ import annotations

import fcntl
import os
import resource
import struct
from typing import Final, Literal, Protocol

from sealpod.errors import OperationError

Leaf = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""
OpenMode = Literal["read", "write"]

MSR_DEVICE: Final = "/dev/cpu/0/msr"
KVM_DEVICE: Final = "/dev/kvm"
KVM_GET_API_VERSION: Final = 0xAE00

_MSR = struct.Struct("<Q")
_TEXT_LIMIT: Final = 1 << 16
_FLAGS: Final = {"read": os.O_RDONLY, "write": os.O_WRONLY}


class HostProbe(Protocol):
    """The questions. All raise ``OSError`` when there is no answer."""

    def cpuid(self, leaf: int) -> Leaf:
        """The CPUID instruction, subleaf 0."""

    def msr(self, index: int) -> int:
        """A model-specific register of the first processor, 64 bits."""

    def text(self, path: str) -> str:
        """A small file's text without surrounding white space."""

    def open(self, path: str, mode: OpenMode) -> None:
        """Open a device and close it."""

    def kvm_api_version(self) -> int:
        """What KVM says of itself."""

    def memlock(self) -> tuple[int, int]:
        """Soft and hard limit of locked memory in bytes; 2^64-1 is no limit."""


class RealHost:
    """This machine."""

    def cpuid(self, leaf: int) -> Leaf:
        """The CPUID instruction, subleaf 0."""
        from sealpod.platform.device.cpuid import host_cpuid

        try:
            return host_cpuid(leaf)
        except OperationError as error:
            raise OSError(0, error.message) from error

    def msr(self, index: int) -> int:
        """Through the kernel's module msr, which wants root."""
        fd = os.open(MSR_DEVICE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            (value,) = _MSR.unpack(os.pread(fd, _MSR.size, index))
        except struct.error:
            raise OSError(0, f"{MSR_DEVICE} gave less than a register") from None
        finally:
            os.close(fd)
        return int(value)

    def text(self, path: str) -> str:
        """A small file's text."""
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_TEXT_LIMIT).strip()

    def open(self, path: str, mode: OpenMode) -> None:
        """Open and close."""
        os.close(os.open(path, _FLAGS[mode] | os.O_CLOEXEC))

    def kvm_api_version(self) -> int:
        """KVM_GET_API_VERSION."""
        fd = os.open(KVM_DEVICE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return fcntl.ioctl(fd, KVM_GET_API_VERSION, 0)
        finally:
            os.close(fd)

    def memlock(self) -> tuple[int, int]:
        """RLIMIT_MEMLOCK of this process."""
        soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        return soft & 0xFFFF_FFFF_FFFF_FFFF, hard & 0xFFFF_FFFF_FFFF_FFFF
