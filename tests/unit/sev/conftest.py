# SPDX-License-Identifier: Apache-2.0
"""Keys and chains for the SEV tests.

The P-384 keys are those of the deterministic vector set (LEDGER, "sev"); RSA keys are made once per run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealpod.sev.ca import CaCertificate, make_ca
from sealpod.sev.cert import Algorithm, Certificate, Usage, make, sign
from sealpod.sev.chain import Chain

P384_ORDER = (
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
)
API = (0, 24)
AMD = Path(__file__).resolve().parents[4] / "shared" / "data" / "amd"


def vector_key(name: str) -> ec.EllipticCurvePrivateKey:
    seed = hashlib.sha384(b"sev-test-vector " + name.encode()).digest()
    return ec.derive_private_key(int.from_bytes(seed, "big") % (P384_ORDER - 1) + 1, ec.SECP384R1())


@dataclass(frozen=True)
class Hierarchy:
    """A complete platform: keys by name and the chain they make."""

    ec_keys: dict[str, ec.EllipticCurvePrivateKey]
    ark_key: rsa.RSAPrivateKey
    ask_key: rsa.RSAPrivateKey
    chain: Chain

    @property
    def trusted(self) -> dict[str, str]:
        return {self.chain.ark.sha256: "model"}


@pytest.fixture(scope="session")
def ec_keys() -> dict[str, ec.EllipticCurvePrivateKey]:
    return {name: vector_key(name) for name in ("oca", "cek", "pek", "pdh", "godh")}


@pytest.fixture(scope="session")
def certificates(ec_keys: dict[str, ec.EllipticCurvePrivateKey]) -> dict[str, Certificate]:
    """OCA, unsigned CEK, PEK and PDH of the deterministic set."""

    def new(name: str, usage: Usage, algorithm: Algorithm) -> Certificate:
        return make(ec_keys[name].public_key(), usage, algorithm, api=API)

    dsa = Algorithm.ECDSA_SHA256
    oca = sign(new("oca", Usage.OCA, dsa), ec_keys["oca"], Usage.OCA, dsa, 0)
    pek = sign(new("pek", Usage.PEK, dsa), ec_keys["oca"], Usage.OCA, dsa, 0)
    pek = sign(pek, ec_keys["cek"], Usage.CEK, dsa, 1)
    pdh = sign(new("pdh", Usage.PDH, Algorithm.ECDH_SHA256), ec_keys["pek"], Usage.PEK, dsa, 0)
    return {"oca": oca, "cek": new("cek", Usage.CEK, dsa), "pek": pek, "pdh": pdh}


@pytest.fixture(scope="session")
def build_hierarchy(
    ec_keys: dict[str, ec.EllipticCurvePrivateKey], certificates: dict[str, Certificate]
) -> Callable[[int], Hierarchy]:
    """Make a hierarchy under a new ARK of so many bits."""

    def build(bits: int) -> Hierarchy:
        ark_key = rsa.generate_private_key(65537, bits)
        ask_key = rsa.generate_private_key(65537, bits)
        ark: CaCertificate = make_ca(ark_key.public_key(), Usage.ARK, b"A" * 16, b"A" * 16, ark_key)
        ask = make_ca(ask_key.public_key(), Usage.ASK, b"S" * 16, b"A" * 16, ark_key)
        cek = sign(certificates["cek"], ask_key, Usage.ASK, ask.algorithm, 0)
        chain = Chain(certificates["pdh"], certificates["pek"], certificates["oca"], cek, ask, ark)
        return Hierarchy(ec_keys, ark_key, ask_key, chain)

    return build


@pytest.fixture(scope="session")
def hierarchy(build_hierarchy: Callable[[int], Hierarchy]) -> Hierarchy:
    return build_hierarchy(2048)


@pytest.fixture(scope="session")
def amd() -> Path:
    """AMD's own certificates, when they lie beside the repository."""
    if not AMD.is_dir():
        pytest.skip("AMD's certificates are not there (../shared/data/amd)")
    return AMD
