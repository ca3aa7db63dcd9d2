# SPDX-License-Identifier: Apache-2.0
"""Where the C-bit is and how many address bits encryption takes: CPUID 0x8000001F, EBX.

QEMU must be told both, and refuses to start when they are not the host's. The instruction is not privileged,
but Python cannot say it: twenty bytes of machine code are mapped, read-only and executable, and called. Where
that is forbidden the kernel's ``/dev/cpu/0/cpuid`` is asked (module cpuid, root).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sealpod.errors import OperationError

MEMORY_ENCRYPTION: Final = 0x8000001F
HIGHEST_EXTENDED: Final = 0x80000000
CPUID_DEVICE: Final = "/dev/cpu/0/cpuid"

Leaf = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""
Cpuid = Callable[[int], Leaf]

_LEAF: Final = struct.Struct("<IIII")
# System V: edi is the leaf, rsi where the four registers go.
#   push rbx; mov eax, edi; xor ecx, ecx; cpuid; mov [rsi], eax; mov [rsi+4], ebx; mov [rsi+8], ecx;
#   mov [rsi+12], edx; pop rbx; ret
_CODE: Final = bytes.fromhex("53 89f8 31c9 0fa2 8906 895e04 894e08 89560c 5b c3")


@dataclass(frozen=True, slots=True)
class Encryption:
    """What CPUID says of memory encryption. ``cbitpos`` is a bit number, ``reduced`` a number of bits."""

    sev: bool
    es: bool
    cbitpos: int
    reduced: int
    guests: int
    """Highest address space id."""
    min_sev_asid: int
    """Lowest one of a guest without SEV-ES."""


def encryption(cpuid: Cpuid | None = None) -> Encryption:
    """The host's.

    :raise OperationError: this processor cannot be asked, or has no SEV.
    """
    cpuid = cpuid or host_cpuid
    if cpuid(HIGHEST_EXTENDED)[0] < MEMORY_ENCRYPTION:
        raise _absent()
    eax, ebx, ecx, edx = cpuid(MEMORY_ENCRYPTION)
    found = Encryption(bool(eax & 2), bool(eax & 8), ebx & 0x3F, ebx >> 6 & 0x3F, ecx, edx)
    if not found.sev:
        raise _absent()
    return found


def host_cpuid(leaf: int) -> Leaf:
    """CPUID of the processor this runs on, subleaf 0.

    :raise OperationError: neither way works.
    """
    try:
        return _executed(leaf)
    except OSError:
        return _asked(leaf)


def _executed(leaf: int) -> Leaf:
    if platform.machine() != "x86_64":
        raise OperationError("CPUID is x86's", code="platform.cpuid")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    # A file, so that no page is ever writable and executable.
    fd = os.memfd_create("sealpod-cpuid", os.MFD_CLOEXEC)
    try:
        os.write(fd, _CODE)
        code = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, fd, 0)
    finally:
        os.close(fd)
    if code is None or code == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        registers = ctypes.create_string_buffer(_LEAF.size)
        ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_void_p)(code)(leaf, ctypes.addressof(registers))
    finally:
        libc.munmap(code, mmap.PAGESIZE)
    return _LEAF.unpack(registers.raw)


def _asked(leaf: int, path: str = CPUID_DEVICE) -> Leaf:
    try:
        with open(path, "rb", buffering=0) as device:
            device.seek(leaf)
            return _LEAF.unpack(device.read(_LEAF.size))
    except (OSError, struct.error) as error:
        raise OperationError(
            f"cannot ask the processor where its C-bit is: {error}",
            code="platform.cpuid",
            remedy="load the module cpuid and run as root, or allow executable mappings",
        ) from error


def _absent() -> OperationError:
    return OperationError(
        "this processor has no SEV, or hides it",
        code="platform.no-sev",
        remedy="use --platform model, or a machine whose processor and BIOS offer SEV",
    )
