# SPDX-License-Identifier: Apache-2.0
"""The launch digest of SEV-SNP: a chain of SHA-384, one link per page (SNP firmware ABI, PAGE_INFO).

Each link hashes 112 bytes, little-endian: the digest so far, what the page holds, and where it lies::

    off  len  field
      0   48  digest so far; 48 zeros before the first page
     48   48  SHA-384 of the page, or zeros for the types whose content is not measured
     96    2  112
     98    1  page type
     99    5  0: no IMI page, no permissions for VMPL 1 to 3
    104    8  guest physical address

So an address is part of the digest here, and a region of zeros costs a link per page.
"""

from __future__ import annotations

import hashlib
from struct import Struct
from typing import Final

from sealpod.errors import DecodeError
from sealpod.measure.vmsa import PAGE_SIZE

LD_SIZE: Final = 48
"""Bytes of the digest."""
NO_CONTENT: Final = bytes(LD_SIZE)
VMSA_GPA: Final = 0xFFFFFFFFF000
"""Where every VMSA is said to lie: the page of -1 in 48 bits."""

NORMAL: Final = 1
VMSA: Final = 2
ZERO: Final = 3
UNMEASURED: Final = 4
SECRETS: Final = 5
CPUID: Final = 6

_PAGE_INFO: Final = Struct("<48s48sQQ")


def page_info(digest: bytes, content: bytes, kind: int, gpa: int) -> bytes:
    """The 112 bytes of a link."""
    return _PAGE_INFO.pack(digest, content, _PAGE_INFO.size | kind << 16, gpa)


class Gctx:
    """A guest context that is being filled. ``ld`` is the digest so far."""

    __slots__ = ("_vmsa", "ld")

    def __init__(self, ld: bytes = NO_CONTENT) -> None:
        """``ld`` other than zeros takes a chain up where its first pages left it."""
        if len(ld) != LD_SIZE:
            raise DecodeError(
                f"a digest of {len(ld)} bytes where {LD_SIZE} are needed", code="measure.hash-length"
            )
        self.ld = ld
        self._vmsa = (b"", b"")

    def normal(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Pages with what they hold.

        :raise DecodeError: not whole pages.
        """
        _check(len(data))
        view, ld, sha384, pack = memoryview(data), self.ld, hashlib.sha384, _PAGE_INFO.pack
        head = _PAGE_INFO.size | NORMAL << 16
        for at in range(0, len(view), PAGE_SIZE):
            content = sha384(view[at : at + PAGE_SIZE]).digest()
            ld = sha384(pack(ld, content, head, gpa + at)).digest()
        self.ld = ld

    def vmsa(self, page: bytes) -> None:
        """A vCPU's registers."""
        _check(len(page))
        # All vCPUs but the first have the same page: its hash is kept for the next one.
        if page != self._vmsa[0]:
            self._vmsa = (page, hashlib.sha384(page).digest())
        self._link(VMSA, VMSA_GPA, self._vmsa[1])

    def zero(self, gpa: int, size: int) -> None:
        """Pages the guest will find zeroed; one link each.

        :raise DecodeError: not whole pages.
        """
        self._unhashed(ZERO, gpa, size)

    def unmeasured(self, gpa: int, size: int) -> None:
        """Pages whose content does not count; one link each.

        :raise DecodeError: not whole pages.
        """
        self._unhashed(UNMEASURED, gpa, size)

    def secrets(self, gpa: int) -> None:
        """The secrets page."""
        self._link(SECRETS, gpa, NO_CONTENT)

    def cpuid(self, gpa: int) -> None:
        """The CPUID page."""
        self._link(CPUID, gpa, NO_CONTENT)

    def _unhashed(self, kind: int, gpa: int, size: int) -> None:
        _check(size)
        for at in range(0, size, PAGE_SIZE):
            self._link(kind, gpa + at, NO_CONTENT)

    def _link(self, kind: int, gpa: int, content: bytes) -> None:
        self.ld = hashlib.sha384(page_info(self.ld, content, kind, gpa)).digest()


def _check(size: int) -> None:
    if size % PAGE_SIZE:
        raise DecodeError(
            f"{size} bytes are not whole pages of {PAGE_SIZE}",
            code="measure.page-size",
            remedy="check that the file is complete and the right one",
        )
