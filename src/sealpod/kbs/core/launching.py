# SPDX-License-Identifier: Apache-2.0
"""Opening a launch: a platform's chain up to a trusted root, and the keys agreed with it."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sealpod.errors import DecodeError, NotFoundError, VerificationError
from sealpod.kbs.core.encoding import decode_base64
from sealpod.kbs.core.records import Platform
from sealpod.sev.cert import Certificate
from sealpod.sev.chain import Chain, verify_chain

MAX_CHAIN: Final = 64 * 1024
"""Bytes of a certificate chain; a real one has 11536 at most, trailing bytes are ignored."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A chain that ends in a trusted root: the key to agree with, and whose it is."""

    pdh: Certificate
    platform: Platform


class ChainVerifier:
    """Decodes and verifies chains, and remembers the newest ``size`` that passed.

    A host sends the same chain with every launch, and verifying it is most of what a launch costs. What is
    remembered is found by the SHA-256 of all its bytes, so it is exactly what was verified; a chain that was
    refused is looked at anew each time. :meth:`trust` forgets everything.
    """

    def __init__(self, trusted: Mapping[str, str], *, size: int) -> None:
        self._trusted = dict(trusted)
        self._size = size
        self._known: OrderedDict[bytes, Verified] = OrderedDict()
        self._generation = 0
        self._lock = threading.Lock()

    def trust(self, trusted: Mapping[str, str]) -> None:
        """From now on these roots, by hex SHA-256 of their ARK, and no others."""
        with self._lock:
            self._trusted = dict(trusted)
            self._known.clear()
            self._generation += 1

    def __len__(self) -> int:
        return len(self._known)

    def check_root(self, platform: Platform | None) -> None:
        """Of a platform whose chain was verified before: is its root one of those trusted now?

        A guest that simple-kbs launched has no platform on record, and no root to compare.

        :raise VerificationError: ``chain.untrusted-root``.
        """
        with self._lock:
            trusted = self._trusted
        if platform is not None and platform.ark not in trusted:
            raise VerificationError(
                f"the root of its platform is not trusted any more (ARK, SHA-256 {platform.ark})",
                code="chain.untrusted-root",
                remedy="trust this root again, or launch the guest on another platform",
            )

    def verify(self, text: str) -> Verified:
        """``text`` is the chain in base64.

        :raise DecodeError: malformed. :raise VerificationError: ``chain.*``.
        """
        # Of the text: base64 has one spelling here, and this needs no decoding.
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found
            trusted, generation = self._trusted, self._generation
        verified = _verify(decode_base64(text, limit=MAX_CHAIN), trusted)
        with self._lock:
            # Not if the roots were changed meanwhile: this was verified up to one of the old ones.
            if self._size > 0 and generation == self._generation:
                self._known[key] = verified
                while len(self._known) > self._size:
                    self._known.popitem(last=False)
        return verified


def _verify(raw: bytes, trusted: Mapping[str, str]) -> Verified:
    chain = _decode(raw)
    trust = verify_chain(chain, trusted)
    chip = hashlib.sha256(chain.cek.pubkey).hexdigest()
    digest = hashlib.sha256(raw).hexdigest()
    return Verified(chain.pdh, Platform(trust.root, trust.ark_sha256, digest, chip))


def _decode(raw: bytes) -> Chain:
    try:
        return Chain.decode(raw)
    except DecodeError as error:
        raise DecodeError(
            f"Cert Chain not formatted correctly: {error.message}",
            code=error.code,
            remedy=error.remedy or "Export the full chain (sealpod sev export --full)",
        ) from error


def launch_unknown(launch_id: UUID) -> NotFoundError:
    """The error for a launch id that is unknown, spent or too old; these cannot be told apart."""
    return NotFoundError(
        f"Launch ID not found. UUID: {launch_id}",
        code="launch.unknown",
        remedy="start the launch again with GetBundle: a launch id serves once, for some minutes, and not "
        "across a restart of a key broker without a key-encryption key",
    )
