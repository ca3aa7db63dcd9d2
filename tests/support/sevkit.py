# SPDX-License-Identifier: Apache-2.0
"""A platform's keys and certificates for tests.

The P-384 keys are those of the deterministic vector set (LEDGER, "sev"); RSA keys are made when asked for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealpod.sev.ca import CaCertificate, make_ca
from sealpod.sev.cert import Algorithm, Certificate, Usage, make, sign
from sealpod.sev.chain import Chain

P384_ORDER = (
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
)
API = (0, 24)
NAMES = ("oca", "cek", "pek", "pdh", "godh")

Keys = dict[str, ec.EllipticCurvePrivateKey]


def vector_key(name: str) -> ec.EllipticCurvePrivateKey:
    seed = hashlib.sha384(b"sev-test-vector " + name.encode()).digest()
    return ec.derive_private_key(int.from_bytes(seed, "big") % (P384_ORDER - 1) + 1, ec.SECP384R1())


def vector_keys() -> Keys:
    return {name: vector_key(name) for name in NAMES}


@dataclass(frozen=True)
class Hierarchy:
    """A complete platform: keys by name and the chain they make."""

    ec_keys: Keys
    ark_key: rsa.RSAPrivateKey
    ask_key: rsa.RSAPrivateKey
    chain: Chain

    @property
    def trusted(self) -> dict[str, str]:
        return {self.chain.ark.sha256: "model"}


def vector_certificates(keys: Keys) -> dict[str, Certificate]:
    """OCA, unsigned CEK, PEK and PDH of the deterministic set."""

    def new(name: str, usage: Usage, algorithm: Algorithm) -> Certificate:
        return make(keys[name].public_key(), usage, algorithm, api=API)

    dsa = Algorithm.ECDSA_SHA256
    oca = sign(new("oca", Usage.OCA, dsa), keys["oca"], Usage.OCA, dsa, 0)
    pek = sign(new("pek", Usage.PEK, dsa), keys["oca"], Usage.OCA, dsa, 0)
    pek = sign(pek, keys["cek"], Usage.CEK, dsa, 1)
    pdh = sign(new("pdh", Usage.PDH, Algorithm.ECDH_SHA256), keys["pek"], Usage.PEK, dsa, 0)
    return {"oca": oca, "cek": new("cek", Usage.CEK, dsa), "pek": pek, "pdh": pdh}


def new_hierarchy(bits: int) -> Hierarchy:
    """The deterministic set under a new ARK of so many bits."""
    keys = vector_keys()
    certificates = vector_certificates(keys)
    ark_key = rsa.generate_private_key(65537, bits)
    ask_key = rsa.generate_private_key(65537, bits)
    ark: CaCertificate = make_ca(ark_key.public_key(), Usage.ARK, b"A" * 16, b"A" * 16, ark_key)
    ask = make_ca(ask_key.public_key(), Usage.ASK, b"S" * 16, b"A" * 16, ark_key)
    cek = sign(certificates["cek"], ask_key, Usage.ASK, ask.algorithm, 0)
    chain = Chain(certificates["pdh"], certificates["pek"], certificates["oca"], cek, ask, ark)
    return Hierarchy(keys, ark_key, ask_key, chain)
