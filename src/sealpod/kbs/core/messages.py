# SPDX-License-Identifier: Apache-2.0
"""What the three calls take and give, without the wire they come over."""

from __future__ import annotations

from dataclasses import dataclass

from sealpod.errors import DecodeError
from sealpod.kbs.core import stage
from sealpod.kbs.core.encoding import decode_base64
from sealpod.kbs.core.evidence import Evidence, clean_description
from sealpod.kbs.core.request import RawRequest
from sealpod.sev.measurement import MEASUREMENT_SIZE, Measurement


@dataclass(frozen=True, slots=True)
class Bundle:
    """Reply of GetBundle: certificate and session as base64 text, as QEMU takes them."""

    godh: str
    session: str
    launch_id: str


@dataclass(frozen=True, slots=True)
class SecretClaim:
    """Request of GetSecret, as it came."""

    launch_id: str
    policy: int
    api_major: int
    api_minor: int
    build_id: int
    digest: str
    measurement: str
    description: str
    requests: tuple[RawRequest, ...]

    def evidence(self) -> Evidence:
        """What it claims of the launch; nothing of it is proven yet."""
        return Evidence(
            self.policy,
            self.api_major,
            self.api_minor,
            self.build_id,
            self.digest,
            clean_description(self.description),
        )

    def measured(self, evidence: Evidence) -> Measurement:
        """The measurement it brings. :raise DecodeError: that, or the digest, is malformed."""
        with stage.stage(stage.MEASUREMENT):
            evidence.digest_bytes()
            raw = decode_base64(self.measurement, limit=4 * MEASUREMENT_SIZE)
            try:
                return Measurement.decode(raw)
            except DecodeError as error:
                raise DecodeError(f"Measurement Invalid: {error.message}", code=error.code) from error


@dataclass(frozen=True, slots=True)
class SealedSecrets:
    """Reply of GetSecret: packet header and encrypted table as base64 text."""

    header: str
    data: str


@dataclass(frozen=True, slots=True)
class OnlineReply:
    """Reply of GetOnlineSecret: ciphertext with tag, and nonce, as base64 text."""

    payload: str
    iv: str
