# SPDX-License-Identifier: Apache-2.0
"""The launch session: transport keys wrapped for one platform (SEV API, session data and LAUNCH_START).

The guest owner agrees on a secret with the platform's PDH by a key of his own (GODH), wraps two fresh keys
under it and binds the policy to them. 128 bytes::

    off  len  field
      0   16  NONCE
     16   32  WRAP_TK     AES-128-CTR(KEK, WRAP_IV, TEK | TIK)
     48   16  WRAP_IV
     64   32  WRAP_MAC    HMAC(KIK, WRAP_TK); the IV is not covered
     96   32  POLICY_MAC  HMAC(TIK, policy as LE32)

    Z      = ECDH X coordinate, 48 bytes big-endian
    master = KDF(Z, 16, "sev-master-secret", NONCE)
    KEK    = KDF(master, 16, "sev-kek"),  KIK = KDF(master, 16, "sev-kik")

:meth:`Session.create` is the owner's side, :func:`open_session` the firmware's. That the PDH is a real
platform's is for the caller to verify first (:mod:`sealpod.sev.chain`).
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.errors import DecodeError, UsageError
from sealpod.secret import SecretBytes
from sealpod.sev.cert import Algorithm, Certificate, Usage, make
from sealpod.sev.kdf import KEK_LABEL, KIK_LABEL, MASTER_LABEL, aes_ctr, hmac_sha256, kdf
from sealpod.sev.policy import Policy
from sealpod.sev.status import Status
from sealpod.sev.version import FirmwareVersion

KEY_SIZE: Final = 16
"""Bytes of TEK and TIK: AES-128 and its MAC key."""

_BLOB = struct.Struct("<16s32s16s32s32s")
SESSION_SIZE: Final = _BLOB.size
"""128 bytes."""

# Order of the group of P-384 (SEC 2, 2.5.1).
_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
# FIPS 186-5, A.2.1: 64 bits more than the order make the remainder's bias negligible.
_SCALAR_SEED_SIZE: Final = 56

Rng = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """The two keys only the guest owner and the firmware know."""

    tek: SecretBytes
    """Encrypts secret packets; 16 bytes."""
    tik: SecretBytes
    """Authenticates policy, measurement and secret packets; 16 bytes."""

    def __post_init__(self) -> None:
        if len(self.tek) != KEY_SIZE or len(self.tik) != KEY_SIZE:
            raise UsageError(f"transport keys have {KEY_SIZE} bytes each", code="session.keys")


@dataclass(frozen=True, slots=True)
class Session:
    """What the guest owner keeps (policy, keys) and what goes to the platform (godh, blob)."""

    policy: Policy
    keys: TransportKeys
    godh: Certificate
    blob: bytes
    """128 bytes."""

    @classmethod
    def create(
        cls,
        pdh: Certificate,
        policy: Policy,
        *,
        rng: Rng,
        godh_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Self:
        """A new session with the platform of this PDH.

        ``rng(n)`` gives n random bytes; it is asked for TEK, TIK, NONCE, WRAP_IV (16 bytes each) and, when no
        ``godh_key`` is given, for 56 bytes to make one from, in this order.

        :raise DecodeError: the PDH is not a P-384 key agreement key.
        """
        peer = _agreement_key(pdh)
        keys = TransportKeys(tek=SecretBytes(rng(KEY_SIZE)), tik=SecretBytes(rng(KEY_SIZE)))
        nonce, wrap_iv = rng(16), rng(16)
        if godh_key is None:
            godh_key = _private_key(rng(_SCALAR_SEED_SIZE))
        kek, kik = _wrapping_keys(godh_key.exchange(ec.ECDH(), peer), nonce)
        wrap_tk = aes_ctr(kek, wrap_iv, keys.tek.reveal() + keys.tik.reveal())
        blob = _BLOB.pack(nonce, wrap_tk, wrap_iv, hmac_sha256(kik, wrap_tk), _policy_mac(keys, policy))
        godh = make(godh_key.public_key(), Usage.PDH, Algorithm.ECDH_SHA256)
        return cls(policy=policy, keys=keys, godh=godh, blob=blob)


def open_session(
    pdh_key: ec.EllipticCurvePrivateKey,
    godh: Certificate,
    blob: bytes,
    policy: Policy,
    *,
    version: FirmwareVersion | None = None,
) -> TransportKeys:
    """The firmware's side of LAUNCH_START: unwrap the keys and check that the policy is the owner's.

    The order of the checks is the firmware's, because a caller sees which error wins:

    1. session length; 2. the owner's certificate (its signature slots are not looked at);
    3. WRAP_MAC; 4. POLICY_MAC (a changed WRAP_IV shows here); 5. minimum API ``version``, when one is given;
    6. reserved policy bits.

    :raise FirmwareError: INVALID_LENGTH, INVALID_CERTIFICATE, BAD_MEASUREMENT or POLICY_FAILURE.
    """
    if len(blob) != SESSION_SIZE:  # (1)
        raise Status.INVALID_LENGTH.error(f"a session has {SESSION_SIZE} bytes, got {len(blob)}")
    peer = _owner_key(godh, pdh_key)  # (2)
    nonce, wrap_tk, wrap_iv, wrap_mac, policy_mac = _BLOB.unpack(blob)
    kek, kik = _wrapping_keys(pdh_key.exchange(ec.ECDH(), peer), nonce)
    if not hmac.compare_digest(hmac_sha256(kik, wrap_tk), wrap_mac):  # (3)
        raise Status.BAD_MEASUREMENT.error("the session is not for this platform's PDH, or was changed")
    plain = aes_ctr(kek, wrap_iv, wrap_tk)
    keys = TransportKeys(tek=SecretBytes(plain[:KEY_SIZE]), tik=SecretBytes(plain[KEY_SIZE:]))
    if not hmac.compare_digest(_policy_mac(keys, policy), policy_mac):  # (4)
        raise Status.BAD_MEASUREMENT.error(
            f"the session was made for another policy than {policy.describe()}"
        )
    if version is not None and not version.satisfies(policy):  # (5)
        raise Status.POLICY_FAILURE.error(f"{policy.describe()} on firmware {version}")
    if policy.reserved:  # (6)
        raise Status.POLICY_FAILURE.error(policy.describe())
    return keys


def _agreement_key(pdh: Certificate) -> ec.EllipticCurvePublicKey:
    key = pdh.public_key()
    # The firmware takes only algorithm 3 from a peer, so a PDH of another one could not be served.
    if pdh.usage != Usage.PDH or pdh.algorithm != Algorithm.ECDH_SHA256:
        raise DecodeError("not a PDH certificate for ECDH with SHA-256", code="session.pdh")
    if not isinstance(key.curve, ec.SECP384R1):
        raise DecodeError("the PDH is not a P-384 key", code="session.pdh")
    return key


def _owner_key(godh: Certificate, pdh_key: ec.EllipticCurvePrivateKey) -> ec.EllipticCurvePublicKey:
    if godh.usage != Usage.PDH or godh.algorithm != Algorithm.ECDH_SHA256:
        raise Status.INVALID_CERTIFICATE.error("the owner's certificate is not for ECDH with SHA-256")
    try:
        key = godh.public_key()
    except DecodeError as error:
        raise Status.INVALID_CERTIFICATE.error(error.message) from error
    if key.curve.name != pdh_key.curve.name:
        raise Status.INVALID_CERTIFICATE.error("the owner's key is on another curve than the PDH")
    return key


def _wrapping_keys(shared: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    master = kdf(shared, KEY_SIZE, MASTER_LABEL, nonce)
    return kdf(master, KEY_SIZE, KEK_LABEL), kdf(master, KEY_SIZE, KIK_LABEL)


def _policy_mac(keys: TransportKeys, policy: Policy) -> bytes:
    return hmac_sha256(keys.tik.reveal(), policy.encode())


def _private_key(seed: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(seed, "big") % (_P384_ORDER - 1) + 1, ec.SECP384R1())
