# SPDX-License-Identifier: Apache-2.0
"""A firmware image that is hashed once, however many digests are made of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sealpod.errors import UsageError
from sealpod.measure.ovmf import Bytes, Ovmf

if TYPE_CHECKING:
    from hashlib import _Hash


class Firmware:
    """An image, or its metadata and its hash. ``ovmf`` is what the image says about itself."""

    __slots__ = ("_data", "_sha256", "_snp_hash", "ovmf")

    def __init__(self, ovmf: Ovmf, data: Bytes | None, snp_hash: bytes | None) -> None:
        self.ovmf = ovmf
        self._data = data
        self._snp_hash = snp_hash
        self._sha256: _Hash | None = None

    @classmethod
    def of(cls, data: Bytes, snp_hash: bytes | None = None) -> Firmware:
        """An image; ``snp_hash`` takes the place of its pages in a SEV-SNP digest.

        :raise DecodeError: not an image.
        """
        return cls(Ovmf.parse(data), data, snp_hash)

    @classmethod
    def known(cls, ovmf: Ovmf, snp_hash: bytes) -> Firmware:
        """An image that is not at hand; enough for SEV-SNP."""
        return cls(ovmf, None, snp_hash)

    @property
    def data(self) -> Bytes:
        """The image's bytes.

        :raise UsageError: only the hash is known.
        """
        if self._data is None:
            raise UsageError(
                "the firmware's hash is not enough in this mode",
                code="measure.firmware",
                remedy="give --ovmf: SEV and SEV-ES hash firmware and what follows as one",
            )
        return self._data

    def sha256(self) -> _Hash:
        """A hash that has seen the image; the caller's to go on with."""
        if self._sha256 is None:
            self._sha256 = hashlib.sha256(self.data)
        return self._sha256.copy()

    def snp_hash(self) -> bytes:
        """The SEV-SNP chain after the image's pages, 48 bytes.

        :raise DecodeError: the image is not whole pages.
        """
        if self._snp_hash is None:
            from sealpod.measure.snp import snp_ovmf_hash

            self._snp_hash = snp_ovmf_hash(self.data)
        return self._snp_hash
