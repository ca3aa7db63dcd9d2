# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev.cert import Algorithm, Signature, Usage, make, sign
from sealpod.sev.chain import LINKS, MAX_SIZE, Chain, PlatformChain, decode_pdh, failed_links, verify_chain
from sealpod.sev.roots import AMD_ARKS

DSA = Algorithm.ECDSA_SHA256
SIZE = 2084


def refusal(chain: Chain, trusted: dict[str, str]) -> str:
    with pytest.raises(VerificationError) as caught:
        verify_chain(chain, trusted)
    return caught.value.code


def test_round_trip_and_trailing_bytes(hierarchy: Any) -> None:
    data = hierarchy.chain.encode()
    assert len(data) == 10000
    assert Chain.decode(data) == hierarchy.chain
    assert Chain.decode(data + b"rest") == hierarchy.chain


def test_trust_names_the_root(hierarchy: Any) -> None:
    trust = verify_chain(hierarchy.chain, hierarchy.trusted)
    assert (trust.root, trust.ark_sha256) == ("model", hierarchy.chain.ark.sha256)


def test_a_self_made_root_is_refused_and_named(hierarchy: Any) -> None:
    with pytest.raises(VerificationError, match=hierarchy.chain.ark.sha256) as caught:
        verify_chain(hierarchy.chain, AMD_ARKS)
    assert caught.value.code == "chain.untrusted-root"
    assert refusal(hierarchy.chain, {}) == "chain.untrusted-root"


def test_every_truncation_is_refused(hierarchy: Any) -> None:
    data = hierarchy.chain.encode()
    for size in [*range(0, len(data), 61), 8336, len(data) - 832, len(data) - 1]:
        with pytest.raises(DecodeError):
            Chain.decode(data[:size])


def test_the_short_export_says_what_is_missing(hierarchy: Any) -> None:
    with pytest.raises(DecodeError) as caught:
        Chain.decode(hierarchy.chain.encode()[: 4 * SIZE])
    assert "ASK" in caught.value.message
    assert "full chain" in caught.value.remedy


def test_a_certificate_out_of_place_is_refused(hierarchy: Any) -> None:
    data = hierarchy.chain.encode()
    swapped = data[SIZE : 2 * SIZE] + data[:SIZE] + data[2 * SIZE :]
    with pytest.raises(DecodeError, match="PEK in place of its PDH"):
        Chain.decode(swapped)
    reversed_cas = data[: 4 * SIZE] + data[-832:] + data[-1664:-832]
    with pytest.raises(DecodeError, match="ARK in place of its ASK"):
        Chain.decode(reversed_cas)


def test_input_is_capped() -> None:
    with pytest.raises(DecodeError):
        Chain.decode(bytes(MAX_SIZE + 1))


def test_each_link_is_named_when_it_fails(hierarchy: Any, build_hierarchy: Callable[[int], Any]) -> None:
    good, trusted, other = hierarchy.chain, hierarchy.trusted, build_hierarchy(2048).chain
    keys = hierarchy.ec_keys

    def unsigned(name: str) -> Any:
        return replace(getattr(good, name), signatures=(Signature(), Signature()))

    stranger_oca = sign(make(keys["godh"].public_key(), Usage.OCA, DSA), keys["godh"], Usage.OCA, DSA, 0)
    only_oca = sign(unsigned("pek"), keys["oca"], Usage.OCA, DSA, 0)
    expected = {
        "chain.ark": replace(good, ark=replace(good.ark, signature=good.ask.signature)),
        "chain.untrusted-root": replace(good, ark=other.ark),
        "chain.ask": replace(good, ask=other.ask),
        "chain.cek": replace(good, cek=other.cek),
        "chain.oca": replace(good, oca=unsigned("oca")),
        "chain.pek-oca": replace(good, oca=stranger_oca),
        "chain.pek-cek": replace(good, pek=only_oca),
        "chain.pdh": replace(good, pdh=unsigned("pdh")),
    }
    assert {code: refusal(chain, trusted) for code, chain in expected.items()} == {
        code: code for code in expected
    }


def test_a_key_agreement_key_vouches_for_nothing(hierarchy: Any) -> None:
    keys, good = hierarchy.ec_keys, hierarchy.chain
    oca = make(keys["oca"].public_key(), Usage.OCA, Algorithm.ECDH_SHA256)
    forged = Signature(Usage.OCA, Algorithm.ECDH_SHA256, good.oca.signatures[0].raw)
    chain = replace(good, oca=replace(oca, signatures=(forged, Signature())))
    assert refusal(chain, hierarchy.trusted) == "chain.oca"


def test_a_pdh_that_cannot_agree_is_refused(hierarchy: Any) -> None:
    keys = hierarchy.ec_keys
    pdh = sign(make(keys["pdh"].public_key(), Usage.PDH, DSA), keys["pek"], Usage.PEK, DSA, 0)
    assert refusal(replace(hierarchy.chain, pdh=pdh), hierarchy.trusted) == "chain.pdh"


def assert_changes_are_refused(data: bytes, trusted: dict[str, str]) -> None:
    """One change of each byte: key, slot, padding, whatever it is."""
    generator = random.Random(1)
    for offset in range(len(data)):
        changed = bytearray(data)
        changed[offset] ^= generator.randrange(1, 256)
        with pytest.raises((DecodeError, VerificationError)):
            verify_chain(Chain.decode(bytes(changed)), trusted)


def test_single_byte_changes_are_refused(hierarchy: Any) -> None:
    assert_changes_are_refused(hierarchy.chain.encode(), hierarchy.trusted)


def test_every_form_of_a_chain(hierarchy: Any, certificates: dict[str, Any]) -> None:
    chain, data = hierarchy.chain, hierarchy.chain.encode()
    platform = PlatformChain.decode(data)
    assert platform == PlatformChain.decode(data[:8336]) == chain.platform
    assert platform.encode() == data[:8336]
    assert platform.under(chain.authority) == chain
    assert decode_pdh(data) == decode_pdh(data[:SIZE]) == chain.pdh
    exported = PlatformChain.from_export(
        data[:SIZE], b"".join(certificates[name].encode() for name in ("pek", "oca", "cek"))
    )
    assert exported.cek == certificates["cek"] != chain.cek
    assert exported.with_cek(chain.cek) == platform


def test_forms_that_are_cut_short(hierarchy: Any) -> None:
    data = hierarchy.chain.platform.encode()
    for size in [*range(0, len(data), 97), len(data) - 1]:
        with pytest.raises(DecodeError):
            PlatformChain.decode(data[:size])
    for size in (0, 1, SIZE - 1):
        with pytest.raises(DecodeError):
            decode_pdh(data[:size])
    with pytest.raises(DecodeError, match="OCA in place of its PEK"):
        PlatformChain.from_export(data[:SIZE], data[2 * SIZE :])
    with pytest.raises(DecodeError, match="PEK in place of its PDH"):
        decode_pdh(data[SIZE:])


def test_a_signed_cek_must_be_this_chips(hierarchy: Any) -> None:
    chain, keys = hierarchy.chain, hierarchy.ec_keys
    other = make(keys["godh"].public_key(), Usage.CEK, DSA)
    for wrong in (other, replace(chain.cek, usage=Usage.PEK)):
        with pytest.raises(VerificationError) as caught:
            chain.platform.with_cek(wrong)
        assert caught.value.code == "chain.cek-other"


def test_an_exported_chain_does_not_verify_before_amd_signed_its_cek(
    hierarchy: Any, certificates: dict[str, Any]
) -> None:
    unsigned = replace(hierarchy.chain, cek=certificates["cek"])
    assert refusal(unsigned, hierarchy.trusted) == "chain.cek"
    assert set(failed_links(unsigned)) == {"cek"}


def test_all_failing_links_are_shown(hierarchy: Any) -> None:
    good = hierarchy.chain
    assert failed_links(good) == {}
    godh = hierarchy.ec_keys["godh"]
    stranger = sign(make(godh.public_key(), Usage.OCA, DSA), godh, Usage.OCA, DSA, 0)
    nobody = replace(good.pdh, signatures=(Signature(), Signature()))
    failed = failed_links(replace(good, oca=stranger, pdh=nobody))
    assert list(failed) == ["pek-oca", "pdh"]
    assert "OCA does not sign the PEK" in failed["pek-oca"].message
    assert [link.name for link in LINKS] == ["ark", "ask", "cek", "oca", "pek-oca", "pek-cek", "pdh"]


@pytest.mark.parametrize("algorithm", [Algorithm.RSA_SHA256, Algorithm.RSA_SHA384])
def test_an_owner_may_have_an_rsa_authority(algorithm: Algorithm, hierarchy: Any) -> None:
    key, pek = rsa.generate_private_key(65537, 2048), hierarchy.chain.pek
    oca = sign(make(key.public_key(), Usage.OCA, algorithm), key, Usage.OCA, algorithm, 0)
    pek = sign(pek, key, Usage.OCA, algorithm, 0)
    chain = replace(hierarchy.chain, oca=oca, pek=pek)
    assert verify_chain(Chain.decode(chain.encode()), hierarchy.trusted).root == "model"


def test_p256_keys(hierarchy: Any) -> None:
    oca_key = ec.generate_private_key(ec.SECP256R1())
    oca = sign(make(oca_key.public_key(), Usage.OCA, DSA), oca_key, Usage.OCA, DSA, 0)
    chain = replace(hierarchy.chain, oca=oca, pek=sign(hierarchy.chain.pek, oca_key, Usage.OCA, DSA, 0))
    assert verify_chain(Chain.decode(chain.encode()), hierarchy.trusted).root == "model"


def naples(amd: Path) -> bytes:
    return b"".join(
        (amd / "naples" / f"{n}.cert").read_bytes() for n in ("pdh", "pek", "oca", "cek", "ask", "ark")
    )


def test_a_real_naples_chain_verifies(amd: Path) -> None:
    trust = verify_chain(Chain.decode(naples(amd)), AMD_ARKS)
    assert trust.root == "AMD Naples"
    assert Chain.decode(naples(amd)).encode() == naples(amd)


def test_a_real_naples_chain_verifies_with_the_short_ark(amd: Path) -> None:
    short = naples(amd)[:-832] + (amd / "naples" / "ark.cert.bad").read_bytes()
    assert verify_chain(Chain.decode(short), AMD_ARKS).root == "AMD Naples"


def test_single_byte_changes_of_a_real_naples_chain_are_refused(amd: Path) -> None:
    """One of 255 changes of each byte; `make fuzz FUZZ_ALL=1` makes them all."""
    assert_changes_are_refused(naples(amd), dict(AMD_ARKS))
