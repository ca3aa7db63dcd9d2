# SPDX-License-Identifier: Apache-2.0
"""The attestation report of SEV-SNP (SEV-SNP ABI, ATTESTATION_REPORT, versions 2, 3 and 5).

1184 bytes, little-endian. The chip's key signs bytes 0x000 to 0x29F with ECDSA on P-384 and SHA-384; R and S
follow, 72 bytes each, then zeros. Version 3 says which processor it is, version 5 adds mitigation vectors;
where a version does not have a field, it is reserved and read as nothing. A version this code does not know
is refused rather than read as if it were an older one.

A decoded report keeps every byte, so that encoding gives back what came. Nothing in it is true before
:func:`sealpod.sev.snp.verify.verify_attestation`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Self

from sealpod.errors import DecodeError
from sealpod.sev.signature import SIGNATURE_SIZE
from sealpod.sev.snp.policy import PlatformInfo, SnpPolicy
from sealpod.sev.snp.tcb import TcbLayout, TcbVersion

SIGNED_SIZE: Final = 0x2A0
"""672 bytes."""
SIZE: Final = SIGNED_SIZE + SIGNATURE_SIZE
"""1184 bytes."""
VERSIONS: Final = (2, 3, 5)
ECDSA_P384_SHA384: Final = 1
_TURIN_FAMILY: Final = 0x1A

_HEAD = struct.Struct("<IIQ16s16s")  # 000 version, guest SVN, policy, family id, image id
_KEYS = struct.Struct("<II8sQI4x")  # 030 VMPL, signature algorithm, current TCB, platform info, key info
_DATA = struct.Struct("<64s48s32s48s48s32s32s")  # 050 data, measurement, host data, key digests, report ids
_CHIP = struct.Struct("<8s3B21x64s")  # 180 reported TCB, CPUID family, model, stepping, chip id
_FIRMWARE = struct.Struct("<8s3Bx3Bx8s")  # 1E0 committed TCB, current, committed firmware, launch TCB
_MITIGATIONS = struct.Struct("<QQ152x")  # 1F8 launch and current mitigation vectors
_SECTIONS: Final = (_HEAD, _KEYS, _DATA, _CHIP, _FIRMWARE, _MITIGATIONS)


class SigningKey(IntEnum):
    """KEY_INFO: which key signed the report."""

    VCEK = 0
    """The chip's own."""
    VLEK = 1
    """One AMD loaded into the chip for a cloud provider."""
    NONE = 7


@dataclass(frozen=True, slots=True)
class SnpReport:
    """A decoded report, not verified. Digests and ids are bytes as they stand."""

    body: bytes = field(repr=False)
    """The signed 672 bytes, from which all else is read."""
    signature: bytes = field(repr=False)
    """512 bytes."""
    version: int
    guest_svn: int
    policy: SnpPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    """0 to 3; a host's own request has 0xFFFFFFFF."""
    platform_info: PlatformInfo
    key_info: int
    report_data: bytes
    """64 bytes the guest chose: a nonce, a key's digest."""
    measurement: bytes
    """The launch digest, 48 bytes."""
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    cpuid: tuple[int, int, int] | None
    """Family, model and stepping; since version 3."""
    chip_id: bytes
    """64 bytes; zeros when the platform hides it. Turin uses the first 8."""
    current_firmware: tuple[int, int, int]
    """Major, minor, build."""
    committed_firmware: tuple[int, int, int]
    tcb_bytes: tuple[bytes, bytes, bytes, bytes] = field(repr=False)
    """Current, reported, committed and launch TCB as they stand."""
    mitigations: tuple[int, int] | None
    """Launch and current mitigation vector; since version 5."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A report from exactly 1184 bytes.

        :raise DecodeError: another length, an unknown version, or another signature algorithm.
        """
        if len(data) != SIZE:
            raise _malformed(f"an SNP report has {SIZE} bytes, got {len(data)}")
        body, signature = bytes(data[:SIGNED_SIZE]), bytes(data[SIGNED_SIZE:])
        head, keys, guest, chip, firmware, mitigations = _sections(body)
        version, guest_svn, policy, family_id, image_id = head
        vmpl, algorithm, current_tcb, platform_info, key_info = keys
        report_data, measurement, host_data, id_key, author_key, report_id, report_id_ma = guest
        reported_tcb, *cpuid, chip_id = chip
        committed_tcb, build, minor, major, old_build, old_minor, old_major, launch_tcb = firmware
        if version not in VERSIONS:
            raise _malformed(f"SNP report version {version} is not one of {VERSIONS}")
        if algorithm != ECDSA_P384_SHA384:
            raise _malformed(f"SNP report with the unknown signature algorithm {algorithm}")
        return cls(
            body=body,
            signature=signature,
            version=version,
            guest_svn=guest_svn,
            policy=SnpPolicy(policy),
            family_id=family_id,
            image_id=image_id,
            vmpl=vmpl,
            platform_info=PlatformInfo(platform_info & sum(PlatformInfo)),
            key_info=key_info,
            report_data=report_data,
            measurement=measurement,
            host_data=host_data,
            id_key_digest=id_key,
            author_key_digest=author_key,
            report_id=report_id,
            report_id_ma=report_id_ma,
            cpuid=(cpuid[0], cpuid[1], cpuid[2]) if version >= 3 else None,
            chip_id=chip_id,
            current_firmware=(major, minor, build),
            committed_firmware=(old_major, old_minor, old_build),
            tcb_bytes=(current_tcb, reported_tcb, committed_tcb, launch_tcb),
            mitigations=(mitigations[0], mitigations[1]) if version >= 5 else None,
        )

    def encode(self) -> bytes:
        """1184 bytes."""
        return self.body + self.signature

    @property
    def signing_key(self) -> SigningKey | None:
        """Which key signed, by KEY_INFO; nothing for a number no ABI version defines."""
        number = self.key_info >> 2 & 7
        return next((key for key in SigningKey if key == number), None)

    @property
    def author_key_enabled(self) -> bool:
        """Whether ``author_key_digest`` means anything."""
        return bool(self.key_info & 1)

    @property
    def chip_key_masked(self) -> bool:
        """Whether the platform was told not to sign: the signature is zeros then."""
        return bool(self.key_info & 2)

    @property
    def layout(self) -> TcbLayout | None:
        """The layout of the TCB versions by the processor's family; version 2 does not say."""
        if self.cpuid is None:
            return None
        return TcbLayout.TURIN if self.cpuid[0] >= _TURIN_FAMILY else TcbLayout.MILAN

    def tcb(self, layout: TcbLayout) -> dict[str, TcbVersion]:
        """The four TCB versions by name: ``current``, ``reported``, ``committed``, ``launch``."""
        names = ("current", "reported", "committed", "launch")
        return {
            name: TcbVersion.decode(data, layout) for name, data in zip(names, self.tcb_bytes, strict=True)
        }


def _sections(body: bytes) -> Iterator[tuple[Any, ...]]:
    offset = 0
    for section in _SECTIONS:
        yield section.unpack_from(body, offset)
        offset += section.size


def _malformed(message: str) -> DecodeError:
    return DecodeError(message, code="snp.report")
