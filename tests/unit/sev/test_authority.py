# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealpod.errors import DecodeError, NotFoundError, UsageError, VerificationError
from sealpod.sev.authority import MAX_FILE_SIZE, Authority, Generation, decode_directory, detect
from sealpod.sev.cert import Certificate
from sealpod.sev.roots import AMD_ARKS, AMD_ASKS


@pytest.fixture(scope="module")
def pairs(amd: Path) -> dict[str, bytes]:
    """What AMD publishes as ask_ark_<generation>.cert."""
    return {
        name: (amd / name / "ask.cert").read_bytes() + (amd / name / "ark.cert").read_bytes()
        for name in Generation
    }


def test_every_generation_is_recognised_by_its_pins(pairs: dict[str, bytes]) -> None:
    for name, data in pairs.items():
        authority = Authority.decode(data)
        authority.verify()
        assert authority.generation is Generation(name)
        assert authority.encode() == data
        assert AMD_ASKS[authority.ask.sha256] == AMD_ARKS[authority.ark.sha256] == Generation(name).label


def test_two_pins_for_every_generation() -> None:
    labels = sorted(generation.label for generation in Generation)
    assert sorted(AMD_ARKS.values()) == sorted(AMD_ASKS.values()) == labels
    assert not set(AMD_ARKS) & set(AMD_ASKS)


def test_either_order_and_what_follows(pairs: dict[str, bytes], hierarchy: Any) -> None:
    for data in (pairs["naples"], hierarchy.chain.authority.encode()):
        ask, ark = data[:832], data[832:]
        for given_data in (ask + ark, ark + ask, ask + ark + b"rest"):
            assert Authority.decode(given_data) == Authority.decode(ask + ark)
        for twice in (ask + ask, ark + ark):
            with pytest.raises(DecodeError, match="two certificates"):
                Authority.decode(twice)


def test_the_naples_file_as_amd_first_published_it(pairs: dict[str, bytes], amd: Path) -> None:
    """Its ARK stops after the modulus; the digest is that of the file in other people's archives."""
    data = pairs["naples"][:832] + (amd / "naples" / "ark.cert.bad").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert digest == "4629ccff0b7dbe64de42925f7d6c97afc60143b4ad027cb6c51e50bfb35ccbf9"
    assert Authority.decode(data).encode() == pairs["naples"]


def test_an_authority_of_nobody_we_know(hierarchy: Any) -> None:
    authority = hierarchy.chain.authority
    authority.verify()
    assert authority.generation is None
    with pytest.raises(VerificationError):
        Authority(authority.ark, authority.ask).verify()


def test_mixed_generations_are_of_none(pairs: dict[str, bytes]) -> None:
    milan, genoa = Authority.decode(pairs["milan"]), Authority.decode(pairs["genoa"])
    assert Authority(milan.ask, genoa.ark).generation is None
    assert Authority(genoa.ask, milan.ark).generation is None


def test_every_truncation_is_refused(hierarchy: Any) -> None:
    data = hierarchy.chain.authority.encode()
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            Authority.decode(data[:size])
    with pytest.raises(DecodeError):
        Authority.decode(data + bytes(MAX_FILE_SIZE))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_noise(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Authority.decode(data)


def test_a_directory_as_sev_tool_writes_it(hierarchy: Any) -> None:
    authority = hierarchy.chain.authority
    ask, ark, both = authority.ask.encode(), authority.ark.encode(), authority.encode()
    assert decode_directory({"ask_ark.cert": both, "pdh.cert": b"?"}) == (authority,)
    assert decode_directory({"ask.cert": ask, "ark.cert": ark, "notes.txt": b"?"}) == (authority,)
    assert decode_directory({"ask_ark.cert": both, "ask.cert": b"stale", "ark.cert": b"stale"}) == (
        authority,
    )


def test_a_directory_with_amds_files_is_in_the_order_of_generations(pairs: dict[str, bytes]) -> None:
    files = {f"ask_ark_{name}.cert": data for name, data in reversed(pairs.items())}
    assert [one.generation for one in decode_directory(files)] == list(Generation)


def test_a_directory_without_or_with_half_a_pair(hierarchy: Any) -> None:
    for files, missing in (
        ({}, "ask_ark.cert"),
        ({"ask.cert": hierarchy.chain.ask.encode()}, "ark.cert"),
        ({"ark.cert": hierarchy.chain.ark.encode()}, "ask.cert"),
    ):
        with pytest.raises(NotFoundError) as caught:
            decode_directory(files)
        assert caught.value.code == "ca.absent"
        assert missing in caught.value.message + caught.value.remedy
    with pytest.raises(DecodeError):
        decode_directory({"ask_ark.cert": b"noise"})


def test_detection_takes_the_first_ask_that_signed_the_cek(pairs: dict[str, bytes], amd: Path) -> None:
    naples = Certificate.decode((amd / "naples" / "cek.cert").read_bytes())
    authorities = [Authority.decode(pairs[name]) for name in Generation]
    assert detect(naples, authorities).generation is Generation.NAPLES
    assert detect(naples, reversed(authorities)).generation is Generation.NAPLES
    with pytest.raises(NotFoundError) as caught:
        detect(naples, authorities[1:])
    assert caught.value.code == "ca.no-issuer"


def test_detection_on_an_exported_cek_says_that_it_is_unsigned(
    hierarchy: Any, certificates: dict[str, Certificate]
) -> None:
    assert detect(hierarchy.chain.cek, [hierarchy.chain.authority]) == hierarchy.chain.authority
    with pytest.raises(NotFoundError) as caught:
        detect(certificates["cek"], [hierarchy.chain.authority])
    assert caught.value.code == "ca.unsigned-cek"


@pytest.mark.parametrize(
    ("text", "expected"), [("Milan", "milan"), ("bergamo", "genoa"), ("SIENA", "genoa"), ("turin", "turin")]
)
def test_names(text: str, expected: str) -> None:
    assert Generation.parse(text) is Generation(expected)


def test_a_name_nobody_has() -> None:
    with pytest.raises(UsageError, match="naples, rome, milan, genoa, turin"):
        Generation.parse("venice")
