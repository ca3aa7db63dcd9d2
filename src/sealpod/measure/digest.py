# SPDX-License-Identifier: Apache-2.0
"""The launch digest of SEV and SEV-ES: SHA-256 over what the firmware was asked to encrypt, in that order.

That is the firmware image; when the kernel is measured, the hashes table; with SEV-ES, the VMSA page of each
vCPU, the first one first. Addresses and lengths are not part of it (SEV API, LAUNCH_UPDATE_DATA and
LAUNCH_UPDATE_VMSA).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

Bytes = bytes | bytearray | memoryview


def sev_digest(firmware: Bytes, table: bytes | None) -> bytes:
    """32 bytes; ``table`` is the 176-byte hashes table, None when no kernel is measured."""
    return sev_digests(firmware, table)[1]


def sev_digests(firmware: Bytes, table: bytes | None) -> tuple[bytes, bytes]:
    """The firmware's own SHA-256 and the launch digest, in one pass over the firmware."""
    running = hashlib.sha256(firmware)
    alone = running.digest()
    running.update(table or b"")
    return alone, running.digest()


def seves_digest(firmware: Bytes, table: bytes | None, pages: Iterable[bytes]) -> bytes:
    """32 bytes; ``pages`` are the vCPUs' VMSA pages (:func:`sealpod.measure.vmsa.vmsa_pages`)."""
    digest = b""
    for digest in seves_digests(firmware, table, pages):  # noqa: B007 - the last one is the guest's
        pass
    return digest


def seves_digests(firmware: Bytes, table: bytes | None, pages: Iterable[bytes]) -> Iterator[bytes]:
    """The digest without a vCPU, with one, with two and so on, from one pass over the firmware.

    The VMSA pages come last, so a digest with fewer vCPUs is one met on the way.
    """
    running = hashlib.sha256(firmware)
    running.update(table or b"")
    return seves_running(running, pages)


def seves_running(running: _Hash, pages: Iterable[bytes]) -> Iterator[bytes]:
    """The same, by a hash that has seen firmware and table."""
    yield running.digest()
    for page in pages:
        running.update(page)
        yield running.digest()
