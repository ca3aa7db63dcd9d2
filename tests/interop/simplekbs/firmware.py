# SPDX-License-Identifier: Apache-2.0
"""A platform and its firmware's part of a launch, written from the SEV API and nothing of this project.

Certificates are put together byte by byte and signed with `cryptography`; the session is opened, the launch
measured and the secret packet decrypted as the specification has it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import uuid
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

ARK, ASK, OCA, PEK, PDH, CEK = 0x0, 0x13, 0x1001, 0x1002, 0x1003, 0x1004
RSA_SHA256, ECDSA_SHA256, ECDH_SHA256 = 1, 2, 3
EMPTY_SLOT = struct.pack("<II", 0x1000, 0) + bytes(512)


def ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(data)


def kdf(key: bytes, size: int, label: str, context: bytes = b"") -> bytes:
    """NIST SP 800-108, counter mode, HMAC-SHA256; counter and length little-endian."""
    out, counter = b"", 1
    while len(out) < size:
        text = struct.pack("<I", counter) + label.encode() + b"\0" + context + struct.pack("<I", size * 8)
        out += hmac.digest(key, text, "sha256")
        counter += 1
    return out[:size]


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    """Curve 2 (P-384), x and y as little-endian numbers of 72 bytes, to 1028 bytes."""
    numbers = key.public_numbers()
    x, y = (number.to_bytes(72, "little") for number in (numbers.x, numbers.y))
    return (struct.pack("<I", 2) + x + y).ljust(1028, b"\0")


def body(usage: int, algorithm: int, key: ec.EllipticCurvePublicKey) -> bytes:
    return struct.pack("<IBBHII", 1, 0, 0, 0, usage, algorithm) + point(key)


def ecdsa_slot(key: ec.EllipticCurvePrivateKey, usage: int, signed: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    parts = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return struct.pack("<II", usage, ECDSA_SHA256) + parts.ljust(512, b"\0")


def rsa_sign(key: rsa.RSAPrivateKey, signed: bytes) -> bytes:
    """PSS with a salt as long as the digest; little-endian as all of a certificate."""
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    return key.sign(signed, pss, hashes.SHA256())[::-1]


def authority(
    key: rsa.RSAPrivateKey, usage: int, own: bytes, issuer: bytes, signer: rsa.RSAPrivateKey
) -> bytes:
    """ASK or ARK of RSA-2048: header of 64 bytes, exponent, modulus, signature."""
    numbers = key.public_key().public_numbers()
    header = struct.pack("<I", 1) + own + issuer + struct.pack("<I", usage) + bytes(16)
    header += struct.pack("<II", 2048, 2048)
    signed = header + numbers.e.to_bytes(256, "little") + numbers.n.to_bytes(256, "little")
    return signed + rsa_sign(signer, signed)


@dataclass
class Guest:
    """A launch that was measured."""

    tek: bytes
    tik: bytes
    measure: bytes
    mnonce: bytes

    def secrets(self, header: bytes, data: bytes) -> dict[str, bytes]:
        """LAUNCH_SECRET, and what Linux' efi_secret makes of the table."""
        flags, iv, mac = header[:4], header[4:20], header[20:]
        assert len(header) == 52
        assert len(data) % 16 == 0
        text = b"\x01" + flags + iv + struct.pack("<II", len(data), len(data)) + data + self.measure
        assert hmac.digest(self.tik, text, "sha256") == mac
        table = ctr(self.tek, iv, data)
        assert table[:16] == bytes.fromhex("42f5741edd71664d963eef4287ff173b")
        (total,) = struct.unpack_from("<I", table, 16)
        assert total <= len(table) < total + 16
        assert not any(table[total:])
        found, at = {}, 20
        while at < total:
            (size,) = struct.unpack_from("<I", table, at + 16)
            assert 20 <= size <= total - at
            name = str(uuid.UUID(bytes_le=table[at : at + 16]))
            assert name not in found
            found[name] = table[at + 20 : at + size]
            at += size
        return found


class Machine:
    """Keys and certificates of one platform."""

    def __init__(self) -> None:
        ark, ask = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        oca, pek, cek, self.pdh = (ec.generate_private_key(ec.SECP384R1()) for _ in range(4))
        ark_id, ask_id = os.urandom(16), os.urandom(16)
        pdh_body = body(PDH, ECDH_SHA256, self.pdh.public_key())
        pek_body = body(PEK, ECDSA_SHA256, pek.public_key())
        oca_body = body(OCA, ECDSA_SHA256, oca.public_key())
        cek_body = body(CEK, ECDSA_SHA256, cek.public_key())
        self.ark = authority(ark, ARK, ark_id, ark_id, ark)
        cek_slot = struct.pack("<II", ASK, RSA_SHA256) + rsa_sign(ask, cek_body).ljust(512, b"\0")
        self.chain = b"".join(
            (
                pdh_body + ecdsa_slot(pek, PEK, pdh_body) + EMPTY_SLOT,
                pek_body + ecdsa_slot(oca, OCA, pek_body) + ecdsa_slot(cek, CEK, pek_body),
                oca_body + ecdsa_slot(oca, OCA, oca_body) + EMPTY_SLOT,
                cek_body + cek_slot + EMPTY_SLOT,
                authority(ask, ASK, ask_id, ark_id, ark),
                self.ark,
            )
        )
        assert len(self.chain) == 10000

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.ark).hexdigest()

    def launch(
        self, godh: bytes, session: bytes, policy: int, version: tuple[int, int, int], digest: bytes
    ) -> Guest:
        """LAUNCH_START and LAUNCH_MEASURE."""
        assert len(godh) == 2084
        assert len(session) == 128
        assert godh[:16] == struct.pack("<IBBHII", 1, 0, 0, 0, PDH, ECDH_SHA256)
        assert godh[1044:] == EMPTY_SLOT * 2
        x, y = (int.from_bytes(godh[at : at + 72], "little") for at in (20, 92))
        peer = ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
        nonce, wrapped, iv = session[:16], session[16:48], session[48:64]
        master = kdf(self.pdh.exchange(ec.ECDH(), peer), 16, "sev-master-secret", nonce)
        assert hmac.digest(kdf(master, 16, "sev-kik"), wrapped, "sha256") == session[64:96]
        keys = ctr(kdf(master, 16, "sev-kek"), iv, wrapped)
        tek, tik = keys[:16], keys[16:]
        word = struct.pack("<I", policy)
        assert hmac.digest(tik, word, "sha256") == session[96:]
        mnonce = os.urandom(16)
        measure = hmac.digest(tik, b"\x04" + bytes(version) + word + digest + mnonce, "sha256")
        return Guest(tek, tik, measure, mnonce)
