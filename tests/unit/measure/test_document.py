# SPDX-License-Identifier: Apache-2.0
"""The JSON of ``sealpod measure``: every step stands in it, and what is needed later reads back."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.measure.components import Components
from sealpod.measure.document import document, metadata, ovmf_hash_document
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable
from sealpod.measure.launch import Launch, Vcpus, measure_sev, measure_seves, measure_snp
from sealpod.measure.ovmf import Ovmf
from sealpod.measure.reading import read_all

IMAGES = dict[str, bytes]
TABLE = HashesTable.of(b"kernel", b"initrd", "quiet")
TWO = Vcpus((1, 2, 4), 0x800F12, features=1)


def text_of(firmware: Firmware, launch: Launch, vcpus: Vcpus | None) -> str:
    components = Components.of_launch(launch, "quiet", vcpus, policy=0x30000)
    return json.dumps(document(launch, firmware.ovmf, components))


@pytest.fixture
def firmware(images: IMAGES) -> Firmware:
    return Firmware.of(images["ovmf_full_64k"])


def test_snp_shows_the_digest_after_every_step(firmware: Firmware) -> None:
    launch = measure_snp(firmware, lambda: TABLE, TWO)
    record = json.loads(text_of(firmware, launch, TWO))
    assert [step["ld"] for step in record["trace"]] == [step.ld.hex() for step in launch.steps]
    assert [step["step"] for step in record["trace"]] == ["firmware", *["section"] * 7, *["vcpu"] * 4]
    assert [each["ld"] for each in record["sections"]] == [step.ld.hex() for step in launch.steps[1:8]]
    assert record["sections"][0] == {
        "gpa": "0x800000",
        "size": "0x9000",
        "type": 1,
        "name": "SNP_SEC_MEM",
        "ld": launch.steps[1].ld.hex(),
    }
    assert record["tableHash"] == hashlib.sha256(TABLE.encode()).hexdigest()
    assert [(each["firstVcpu"], each["vcpus"]) for each in record["vmsa"]] == [(0, 1), (1, 3)]
    for each, page in zip(record["vmsa"], launch.pages[:2], strict=True):
        assert each["sha256"] == hashlib.sha256(page).hexdigest()
        assert each["sha384"] == hashlib.sha384(page).hexdigest()
    assert record["vcpus"] == [1, 2, 4]
    assert record["digest"] == [digest.hex() for _, digest in launch.digests]
    assert record["policy"] == "0x30000"


def test_a_document_is_a_record(firmware: Firmware) -> None:
    for launch, vcpus in (
        (measure_sev(firmware, lambda: TABLE), None),
        (measure_sev(firmware, None), None),
        (measure_seves(firmware, lambda: TABLE, TWO), TWO),
        (measure_snp(firmware, None, TWO), TWO),
    ):
        components = Components.of_launch(launch, "quiet", vcpus, policy=0x30000)
        assert read_all(text_of(firmware, launch, vcpus)) == components


def test_one_digest_stands_alone(firmware: Firmware) -> None:
    one = Vcpus((2,), 0x800F12)
    record = json.loads(text_of(firmware, measure_seves(firmware, None, one), one))
    assert record["vcpus"] == 2
    assert len(record["digest"]) == 64
    assert Components.from_json(json.dumps(record)).vcpus == 2


def test_several_digests_are_not_one(firmware: Firmware) -> None:
    launch = measure_snp(firmware, None, TWO)
    with pytest.raises(DecodeError, match="3 digests"):
        Components.from_json(text_of(firmware, launch, TWO))


def test_a_firmware_can_be_left_at_home(firmware: Firmware) -> None:
    """Its metadata and its hash are enough for SEV-SNP (sev-snp-measure, issue 27)."""
    launch = measure_snp(firmware, lambda: TABLE, TWO)
    for text in (
        json.dumps(ovmf_hash_document(firmware.ovmf, firmware.snp_hash())),
        text_of(firmware, launch, TWO),
    ):
        ovmf, known = metadata(text)
        assert ovmf == firmware.ovmf
        assert known == firmware.snp_hash()
        assert measure_snp(Firmware.known(ovmf, known), lambda: TABLE, TWO).digests == launch.digests


def test_of_sev_only_the_metadata_helps(firmware: Firmware) -> None:
    ovmf, known = metadata(text_of(firmware, measure_sev(firmware, None), None))
    assert (ovmf, known) == (firmware.ovmf, None)


def test_images_without_anything_read_back(images: IMAGES) -> None:
    for name in ("ovmf_nofooter_8k", "ovmf_oldstyle_4k", "ovmf_nohash_64k"):
        firmware = Firmware.of(images[name])
        text = json.dumps(ovmf_hash_document(firmware.ovmf, firmware.snp_hash()))
        assert metadata(text)[0] == firmware.ovmf


GOOD: dict[str, Any] = {
    "schemaVersion": 2,
    "firmware": "0" * 96,
    "firmwareTable": {"size": 4096, "hashTable": {"base": "0x1000", "size": 1024}},
    "sections": [{"gpa": "0x800000", "size": 4096, "type": 1}],
}


def test_numbers_may_be_numbers() -> None:
    assert metadata(json.dumps(GOOD))[0].sections[0].gpa == 0x800000


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": 1},
        {"firmwareTable": None},
        {"firmwareTable": {}},
        {"firmwareTable": {"size": True}},
        {"firmwareTable": {"size": "0x100000000"}},
        {"firmwareTable": {"size": -1}},
        {"firmwareTable": {"size": 1, "hashTable": 5}},
        {"firmwareTable": {"size": 1, "resetAddress": "x"}},
        {"sections": {}},
        {"sections": [1]},
        {"sections": [{"gpa": 0, "size": 0}]},
        {"sections": [GOOD["sections"][0]] * 5000},
        {"firmware": "z" * 96},
    ],
)
def test_what_is_no_metadata(change: dict[str, object]) -> None:
    with pytest.raises(DecodeError) as caught:
        metadata(json.dumps(GOOD | change))
    assert caught.value.code == "measure.record"


plain = st.none() | st.booleans() | st.integers() | st.text(max_size=6)
json_values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.sampled_from(sorted(GOOD)), json_values)
def test_any_value_in_a_place_is_read_or_refused(name: str, value: object) -> None:
    with contextlib.suppress(DecodeError):
        assert isinstance(metadata(json.dumps(GOOD | {name: value}))[0], Ovmf)
