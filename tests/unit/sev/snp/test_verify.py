# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "sev"."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, RefusedError, SealpodError, UsageError, VerificationError
from sealpod.sev.authority import Generation
from sealpod.sev.signature import Algorithm, verify_bytes
from sealpod.sev.snp.demands import Demands
from sealpod.sev.snp.policy import PlatformInfo, SnpPolicy, SnpPolicyFlag
from sealpod.sev.snp.report import SIGNED_SIZE, SIZE, SigningKey, SnpReport
from sealpod.sev.snp.roots import AMD_SNP_ARKS
from sealpod.sev.snp.tcb import TcbLayout, TcbVersion
from sealpod.sev.snp.vek import EndorsementKey
from sealpod.sev.snp.verify import SnpChain, verify_attestation, verify_snp_chain
from sealpod.sev.snp.x509 import X509, decode_x509

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXTENSION = "1.3.6.1.4.1.3704.1."


def verified(report: bytes, chain: SnpChain, **demands: Any) -> str:
    trusted = {chain.ark.sha256: "ours"}
    decoded = SnpReport.decode(report)
    return verify_attestation(decoded, chain, trusted, now=NOW, demands=Demands(**demands)).root


def refusal(report: bytes, chain: SnpChain, family: type[SealpodError] = RefusedError, **demands: Any) -> str:
    with pytest.raises(family) as caught:
        verified(report, chain, **demands)
    return caught.value.code


@pytest.fixture(scope="module")
def milan(amd_snp: Path) -> tuple[SnpReport, SnpChain]:
    certificates = [X509.decode((amd_snp / "milan" / "vcek.der").read_bytes())]
    for name in ("ask", "ark"):
        certificates += decode_x509((amd_snp / "milan" / f"{name}.pem").read_bytes())
    report = SnpReport.decode(bytes.fromhex((amd_snp / "milan" / "report.hex").read_text()))
    return report, SnpChain.of(certificates)


def test_a_real_milan_report_verifies(milan: tuple[SnpReport, SnpChain]) -> None:
    report, chain = milan
    trust = verify_attestation(report, chain, AMD_SNP_ARKS, now=NOW)
    assert (trust.root, trust.layout) == ("AMD Milan", TcbLayout.MILAN)
    assert report.version == 2
    assert report.cpuid is report.mitigations is report.layout is None
    assert report.measurement.hex().startswith("7a1e5c266c0108dbc9bb94fa9269513209409")
    assert report.tcb(TcbLayout.MILAN)["reported"] == TcbVersion(bootloader=3, tee=0, snp=8, microcode=115)
    assert report.current_firmware == (1, 52, 4)
    assert (chain.vek.product, chain.vek.generation, chain.vek.provider) == (
        "Milan-B0",
        Generation.MILAN,
        None,
    )
    assert chain.vek.hwid == report.chip_id


def test_bit_flips_of_a_real_report_are_refused(milan: tuple[SnpReport, SnpChain]) -> None:
    """Of every signed byte and every byte of the signature, padding included."""
    report, chain = milan
    data, generator = report.encode(), random.Random(1)
    for offset in range(SIZE):
        changed = bytearray(data)
        changed[offset] ^= 1 << generator.randrange(8)
        with pytest.raises((DecodeError, VerificationError)):
            verify_attestation(SnpReport.decode(bytes(changed)), chain, AMD_SNP_ARKS, now=NOW)


def test_a_real_chain_in_another_time_or_under_other_roots(milan: tuple[SnpReport, SnpChain]) -> None:
    _, chain = milan
    for now, trusted, code in (
        (datetime(2031, 1, 1, tzinfo=UTC), AMD_SNP_ARKS, "snp.expired"),
        (NOW, {}, "snp.untrusted-root"),
    ):
        with pytest.raises(VerificationError) as caught:
            verify_snp_chain(chain, trusted, now=now)
        assert caught.value.code == code


@pytest.mark.parametrize("version", [2, 3, 5])
@pytest.mark.parametrize(("product", "turin"), [("Milan-B0", False), ("Genoa-B1", False), ("Turin", True)])
@pytest.mark.parametrize("vlek", [False, True])
def test_every_version_generation_and_kind_of_key(
    version: int, product: str, turin: bool, vlek: bool, maker: Any
) -> None:
    chain = maker.chain(product, vlek=vlek)
    patch = {0x48: struct.pack("<I", 1 << 2 if vlek else 0)}
    data = maker.report(version, turin=turin, patch=patch)
    assert verified(data, chain) == "ours"
    report = SnpReport.decode(data)
    assert report.encode() == data
    assert report.signing_key is (SigningKey.VLEK if vlek else SigningKey.VCEK)
    assert report.cpuid == (None if version == 2 else (0x1A, 2, 1) if turin else (0x19, 1, 1))
    assert report.mitigations == ((7, 5) if version == 5 else None)
    assert report.tcb(chain.vek.layout)["launch"] == TcbVersion(
        bootloader=3, tee=1, snp=8, microcode=115, fmc=9 if turin else None
    )
    assert chain.vek.provider == ("cloud" if vlek else None)


def test_bit_flips_of_the_signed_part_are_refused(maker: Any) -> None:
    """The chain stays the same, so only what comes after it is done for each flip."""
    chain, data = maker.chain(), maker.report(5)

    def check(changed: bytes) -> None:
        report = SnpReport.decode(changed)
        verify_bytes(chain.vek.public_key, Algorithm.ECDSA_SHA384, report.body, report.signature)

    check(data)
    for bit in range(0, 8 * SIGNED_SIZE, 3):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DecodeError, VerificationError)):
            check(bytes(changed))


@pytest.mark.parametrize("size", [0, 4, SIGNED_SIZE, SIZE - 1, SIZE + 1])
def test_another_length_is_no_report(size: int) -> None:
    with pytest.raises(DecodeError):
        SnpReport.decode(b"\2\0\0\0".ljust(size, b"\0")[:size])


@pytest.mark.parametrize("version", [0, 1, 4, 6, 0xFFFFFFFF])
def test_a_version_nobody_knows_is_not_read_as_another(version: int, maker: Any) -> None:
    data = struct.pack("<I", version) + maker.report(2)[4:]
    with pytest.raises(DecodeError, match="version"):
        SnpReport.decode(data)


def test_the_key_must_be_of_the_kind_the_report_names(maker: Any) -> None:
    chain, provider = maker.chain(), maker.chain(vlek=True)
    for info, other in ((1 << 2, chain), (7 << 2, chain), (3 << 2, chain), (2, chain), (0, provider)):
        data = maker.report(3, patch={0x48: struct.pack("<I", info)})
        assert refusal(data, other, VerificationError) == "snp.key"


def test_the_key_must_be_of_this_chip(maker: Any) -> None:
    other = maker.chain(hwid=bytes(64))
    assert refusal(maker.report(3), other, VerificationError) == "snp.chip"
    hidden = maker.report(3, patch={0x1A0: bytes(64)})
    assert refusal(hidden, maker.chain(), VerificationError) == "snp.chip"
    # Turin's id has 8 bytes; what follows them is zero.
    longer = maker.report(3, turin=True, patch={0x1A8: b"\1"})
    assert refusal(longer, maker.chain("Turin"), VerificationError) == "snp.chip"
    assert refusal(maker.report(3, turin=True), maker.chain("Turin", hwid=bytes(8)), VerificationError) == (
        "snp.chip"
    )


@pytest.mark.parametrize("part", ["bootloader", "tee", "snp", "microcode", "fmc"])
def test_the_key_must_be_of_the_reported_tcb(part: str, maker: Any) -> None:
    turin = part == "fmc"
    chain = maker.chain("Turin" if turin else "Milan-B0", **{part: 77})
    assert refusal(maker.report(3, turin=turin), chain, VerificationError) == "snp.tcb-mismatch"


def test_key_and_report_must_be_of_one_generation(maker: Any) -> None:
    assert refusal(maker.report(3, turin=True), maker.chain(), VerificationError) == "snp.generation"
    milan, genoa = maker.chain("Milan-B0"), maker.chain("Genoa-B1")
    mixed = replace(genoa, vek=milan.vek)
    # The key is the same in both made authorities, so only the names differ.
    assert refusal(maker.report(3), mixed, VerificationError) in ("snp.issuer", "snp.generation")


def test_an_asvk_makes_no_vceks_and_an_ask_no_vleks(maker: Any) -> None:
    for chain, subject in ((maker.chain(vlek=True), "SEV-VCEK"), (maker.chain(), "SEV-VLEK")):
        extensions = {
            "2": b"\x16\x05Milan",
            **{f"3.{n}": b"\2\1\1" for n in (1, 2, 3, 8)},
            "4": bytes(64),
        }
        leaf = maker.certificate(
            subject,
            chain.ask.common_name,
            maker.leaf_key,
            maker.middle_key,
            authority=False,
            extensions=extensions,
        )
        crossed = replace(chain, vek=EndorsementKey.of(X509.decode(leaf)))
        with pytest.raises(VerificationError) as caught:
            verify_snp_chain(crossed, {chain.ark.sha256: "ours"}, now=NOW)
        assert caught.value.code == "snp.generation"


def test_a_self_made_root_is_refused(maker: Any) -> None:
    chain = maker.chain()
    with pytest.raises(VerificationError, match=chain.ark.sha256) as caught:
        verify_attestation(SnpReport.decode(maker.report(3)), chain, AMD_SNP_ARKS, now=NOW)
    assert caught.value.code == "snp.untrusted-root"


def test_a_chain_is_three_certificates(maker: Any) -> None:
    chain = maker.chain()
    parts = [chain.ark, chain.ask, chain.vek.certificate]
    assert SnpChain.of(reversed(parts)) == chain
    for wrong in (parts[:2], parts[1:], [*parts, chain.ask], [chain.ark, chain.ark, parts[2]], []):
        with pytest.raises(DecodeError):
            SnpChain.of(wrong)


MINIMUM = TcbVersion(bootloader=3, tee=1, snp=8, microcode=115)


def test_tcb_minimums(maker: Any) -> None:
    chain, data = maker.chain(), maker.report(3)
    assert verified(data, chain, min_tcb=MINIMUM, min_launch_tcb=MINIMUM) == "ours"
    for part in ("bootloader", "tee", "snp", "microcode"):
        higher = replace(MINIMUM, **{part: getattr(MINIMUM, part) + 1})
        for name in ("min_tcb", "min_launch_tcb"):
            assert refusal(data, chain, **{name: higher}) == "snp.tcb-minimum"
    # A part the processor does not have is not as new as demanded.
    assert refusal(data, chain, min_tcb=replace(MINIMUM, fmc=0)) == "snp.tcb-minimum"


@pytest.mark.parametrize("offset", [0x38, 0x1E0, 0x1F0])
def test_every_tcb_of_the_report_counts(offset: int, maker: Any) -> None:
    """Current, committed and launch: the key vouches for the reported one only."""
    data = maker.report(3, patch={offset: bytes(8)})
    demands = {"min_launch_tcb": MINIMUM} if offset == 0x1F0 else {"min_tcb": MINIMUM}
    assert verified(data, maker.chain()) == "ours"
    assert refusal(data, maker.chain(), **demands) == "snp.tcb-minimum"


def test_firmware_minimum(maker: Any) -> None:
    chain, data = maker.chain(), maker.report(3)
    assert verified(data, chain, min_firmware=(1, 55, 4)) == "ours"
    assert refusal(data, chain, min_firmware=(1, 55, 5)) == "snp.tcb-minimum"
    rolled = maker.report(3, patch={0x1EC: b"\3"})
    assert refusal(rolled, chain, min_firmware=(1, 55, 4)) == "snp.tcb-minimum"


def policy(value: int) -> dict[int, bytes]:
    return {8: struct.pack("<Q", value)}


def test_policy(maker: Any) -> None:
    chain = maker.chain()
    assert verified(maker.report(3, patch=policy(1 << 17)), chain) == "ours"
    for value in (0x30000 | 1 << 19, 0x30000 | 1 << 18, 0x30000 | 1 << 21, 1 << 16, 0):
        assert refusal(maker.report(3, patch=policy(value)), chain) == "snp.policy"
    for bit in (26, 40, 63):
        assert refusal(maker.report(3, patch=policy(0x30000 | 1 << bit)), chain) == "snp.policy"
    debug = maker.report(3, patch=policy(0x30000 | 1 << 19))
    assert verified(debug, chain, may_allow=SnpPolicyFlag.SMT | SnpPolicyFlag.DEBUG) == "ours"
    assert refusal(maker.report(3), chain, may_allow=SnpPolicyFlag(0)) == "snp.policy"
    single = maker.report(3, patch=policy(0x30000 | 1 << 20))
    assert verified(single, chain, must_demand=SnpPolicyFlag.SINGLE_SOCKET) == "ours"
    assert refusal(maker.report(3), chain, must_demand=SnpPolicyFlag.SINGLE_SOCKET) == "snp.policy"


def test_policy_words() -> None:
    assert SnpPolicy(0x30000).describe() == "0x0000000000030000 (SMT, ABI 0.0 or later)"
    assert SnpPolicy(0xB0137).min_abi == (1, 0x37)
    assert SnpPolicyFlag.DEBUG in SnpPolicy(0xB0137).flags
    for value in (-1, 1 << 64):
        with pytest.raises(DecodeError):
            SnpPolicy(value)


def test_platform(maker: Any) -> None:
    chain = maker.chain()
    data = maker.report(5, patch={0x40: struct.pack("<Q", 1 << 5 | 1)})
    assert verified(data, chain, platform_has=PlatformInfo.ALIAS_CHECK_COMPLETE, mitigations=0b101) == "ours"
    assert refusal(data, chain, platform_has=PlatformInfo.ECC) == "snp.platform"
    assert refusal(data, chain, platform_lacks=PlatformInfo.SMT) == "snp.platform"
    assert refusal(data, chain, mitigations=0b010) == "snp.platform"
    assert refusal(maker.report(3), chain, mitigations=1) == "snp.platform"


def test_the_guest_must_be_the_expected_one(maker: Any) -> None:
    chain, data = maker.chain(), maker.report(3)
    good: dict[str, Any] = {
        "report_data": b"D" * 64,
        "measurement": b"M" * 48,
        "min_guest_svn": 2,
        "max_vmpl": 1,
    }
    assert verified(data, chain, **good) == "ours"
    bad: list[dict[str, Any]] = [
        {"report_data": b"d" * 64},
        {"report_data": b""},
        {"measurement": bytes(48)},
        {"host_data": b"\1" * 32},
        {"family_id": b"\1" * 16},
        {"image_id": b"\1" * 16},
        {"id_key_digest": b"\1" * 48},
        {"author_key_digest": b"\1" * 48},
        {"author_key_digest": bytes(48)},
        {"min_guest_svn": 3},
        {"max_vmpl": 0},
    ]
    for demands in bad:
        assert refusal(data, chain, **demands) == "snp.guest"
    authored = maker.report(3, patch={0x48: b"\1"})
    assert verified(authored, chain, author_key_digest=bytes(48)) == "ours"


def test_a_report_the_host_asked_for_is_refused(maker: Any) -> None:
    data = maker.report(3, patch={0x30: b"\xff" * 4})
    assert refusal(data, maker.chain()) == "snp.guest"


def made_key(maker: Any, product: str, change: Callable[[dict[str, bytes]], object]) -> None:
    extensions = {"2": b"\x16" + bytes([len(product)]) + product.encode(), "4": bytes(64)}
    extensions.update({f"3.{n}": b"\2\1\1" for n in (1, 2, 3, 8)})
    change(extensions)
    data = maker.certificate(
        "SEV-VCEK", "X", maker.leaf_key, maker.middle_key, authority=False, extensions=extensions
    )
    EndorsementKey.of(X509.decode(data))


@pytest.mark.parametrize("missing", ["2", "3.1", "3.2", "3.3", "3.8", "4"])
def test_an_endorsement_key_needs_its_extensions(missing: str, maker: Any) -> None:
    made_key(maker, "Milan", lambda extensions: None)
    with pytest.raises(DecodeError):
        made_key(maker, "Milan", lambda extensions: extensions.pop(missing))


@pytest.mark.parametrize(
    ("product", "change"),
    [
        ("Naples", {}),
        ("Venice", {}),
        ("Turin", {}),
        ("Milan", {"3.9": b"\2\1\1"}),
        ("Milan", {"3.1": b"\2\2\1\0"}),
        ("Milan", {"4": bytes(32)}),
        ("Milan", {"2": b"\x16\1\xff"}),
        ("Milan", {"2": b"\x04\5Milan"}),
    ],
)
def test_endorsement_keys_that_cannot_be(product: str, change: dict[str, bytes], maker: Any) -> None:
    with pytest.raises(DecodeError):
        made_key(maker, product, lambda extensions: extensions.update(change))


@pytest.mark.parametrize("product", ["Bergamo-A1", "Siena"])
def test_products_under_genoas_authority(product: str, maker: Any) -> None:
    made_key(maker, product, lambda extensions: None)


def test_authorities_and_strangers_are_no_endorsement_keys(maker: Any) -> None:
    with pytest.raises(DecodeError, match="neither SEV-VCEK nor SEV-VLEK"):
        EndorsementKey.of(maker.chain().ask)
    data = maker.certificate("SEV-VCEK", "X", maker.root_key, maker.middle_key, authority=False)
    with pytest.raises(DecodeError, match="P-384"):
        EndorsementKey.of(X509.decode(data))


@given(st.binary(min_size=8, max_size=8))
def test_layouts_read_different_bytes(data: bytes) -> None:
    milan, turin = (TcbVersion.decode(data, layout) for layout in TcbLayout)
    assert (milan.fmc, milan.bootloader, milan.tee, milan.snp, milan.microcode) == (
        None, data[0], data[1], data[6], data[7]
    )  # fmt: skip
    assert (turin.fmc, turin.bootloader, turin.tee, turin.snp, turin.microcode) == (*data[:4], data[7])


def test_levels_are_bytes() -> None:
    with pytest.raises(UsageError):
        TcbVersion(bootloader=256, tee=0, snp=0, microcode=0)
    with pytest.raises(DecodeError):
        TcbVersion.decode(bytes(7), TcbLayout.MILAN)
