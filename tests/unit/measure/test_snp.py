# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealpod.errors import DecodeError, OperationError, SealpodError, UsageError
from sealpod.measure.firmware import Firmware
from sealpod.measure.gctx import Gctx
from sealpod.measure.hashes import HashesTable
from sealpod.measure.launch import Launch, Vcpus, measure_sev, measure_seves, measure_snp, measure_svsm
from sealpod.measure.snp import MAX_SECTION_BYTES
from sealpod.measure.vmsa import Vmm

MakeImage = Callable[..., bytes]
IMAGES = dict[str, bytes]
TABLE = HashesTable.of(b"kernel", b"initrd", "quiet")
ONE = Vcpus((1,), 0x800F12, features=1)
AT_81 = [0x810000, 0x1000, 0x10]


def snp(image: bytes, table: HashesTable | None = TABLE, vcpus: Vcpus = ONE) -> Launch:
    return measure_snp(Firmware.of(image), None if table is None else lambda: table, vcpus)


def sections(launch: Launch) -> list[int]:
    return [step.section.kind for step in launch.steps if step.section is not None]


def test_every_step_is_told(images: IMAGES) -> None:
    launch = snp(images["ovmf_full_64k"], vcpus=Vcpus((3,), 0x800F12))
    assert [step.name for step in launch.steps] == ["firmware", *["section"] * 7, *["vcpu"] * 3]
    assert sections(launch) == [1, 1, 2, 3, 4, 1, 0x10]
    assert [step.vcpu for step in launch.steps[-3:]] == [0, 1, 2]
    assert launch.digests == ((3, launch.steps[-1].ld),)
    assert len(launch.pages) == 3


def test_ec2_has_its_cpuid_pages_last(images: IMAGES) -> None:
    launch = snp(images["ovmf_full_64k"], vcpus=Vcpus((1,), 0, Vmm.EC2))
    assert sections(launch) == [1, 1, 2, 4, 1, 0x10, 3]


def test_gce_does_not_measure_its_memory(make_image: MakeImage) -> None:
    image = make_image(sections=[[0x800000, 0x2000, 1], [0x80F000, 0x1000, 4]])
    launch = snp(image, None, Vcpus((1,), 0, Vmm.GCE))
    gctx = Gctx(launch.steps[0].ld)
    gctx.unmeasured(0x800000, 0x2000)
    gctx.zero(0x80F000, 0x1000)
    assert launch.steps[2].ld == gctx.ld


def test_without_a_kernel_its_page_is_zero(make_image: MakeImage) -> None:
    launch = snp(make_image(sections=[AT_81]), None)
    gctx = Gctx(launch.steps[0].ld)
    gctx.zero(0x810000, 0x1000)
    assert launch.steps[1].ld == gctx.ld


def test_the_table_lies_in_its_page(make_image: MakeImage) -> None:
    launch = snp(make_image(sections=[AT_81]))
    gctx = Gctx(launch.steps[0].ld)
    gctx.normal(0x810000, (bytes(0xC00) + TABLE.encode()).ljust(4096, b"\0"))
    assert launch.steps[1].ld == gctx.ld


counts = st.lists(st.integers(0, 8), min_size=1, max_size=5, unique=True).map(
    lambda each: tuple(sorted(each))
)
fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@fixtures
@given(counts)
def test_one_pass_gives_the_digest_of_every_count(images: IMAGES, wanted: tuple[int, ...]) -> None:
    firmware = Firmware.of(images["ovmf_oldstyle_4k"])
    for measure in (measure_snp, measure_seves):
        launch = measure(firmware, None, Vcpus(wanted, 0x800F12))
        assert tuple(count for count, _ in launch.digests) == wanted
        for count, digest in launch.digests:
            assert count is not None
            assert measure(firmware, None, Vcpus((count,), 0x800F12)).digests == ((count, digest),)


def test_a_hash_stands_for_the_firmwares_pages(images: IMAGES) -> None:
    firmware = Firmware.of(images["ovmf_full_64k"])
    known = Firmware.known(firmware.ovmf, firmware.snp_hash())
    assert measure_snp(known, lambda: TABLE, ONE) == measure_snp(firmware, lambda: TABLE, ONE)
    for measure in (lambda: measure_sev(known, None), lambda: measure_seves(known, None, ONE)):
        with pytest.raises(UsageError) as caught:
            measure()
        assert caught.value.code == "measure.firmware"


def test_a_given_hash_is_taken_before_the_bytes(images: IMAGES) -> None:
    other = Firmware.of(images["ovmf_nosvsm_64k"]).snp_hash()
    launch = measure_snp(Firmware.of(images["ovmf_full_64k"], other), None, ONE)
    assert launch.firmware == other


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        ({"sections": [[0x800000, 0x1000, 9]]}, DecodeError, "ovmf.section"),
        ({"sections": [[0x800000, 0x1001, 1]]}, DecodeError, "measure.page-size"),
        ({"sections": [[0x810000, 0x2000, 0x10]]}, DecodeError, "ovmf.section"),
        ({"sections": [AT_81], "hash_table": [0x810F60, 0x100]}, DecodeError, "ovmf.section"),
        ({"sections": [[0x800000, 0x1000, 1]]}, OperationError, "measure.no-hash-section"),
        ({"sections": [[0, 0x40000000, 1], [0, 0x1000, 1]]}, DecodeError, "ovmf.section"),
        ({"size": 65536 - 1}, DecodeError, "measure.page-size"),
    ],
)
def test_metadata_that_cannot_be_measured(
    changes: dict[str, Any], error: type[SealpodError], code: str, make_image: MakeImage
) -> None:
    with pytest.raises(error) as caught:
        snp(make_image(**changes))
    assert caught.value.code == code


def test_an_unknown_section_is_named(make_image: MakeImage) -> None:
    with pytest.raises(DecodeError, match="9 is not a valid SectionType"):
        snp(make_image(sections=[[0x800000, 0x1000, 9]]))


def test_a_kernel_needs_a_place_for_its_hash(table_image: MakeImage, images: IMAGES) -> None:
    with pytest.raises(OperationError, match="SNP_KERNEL_HASHES section"):
        snp(images["ovmf_nohash_64k"])


def test_where_further_vcpus_start_must_be_said(images: IMAGES) -> None:
    text = "Can't find SEV_ES_RESET_BLOCK_GUID entry in OVMF table"
    for measure in (measure_snp, measure_seves):
        with pytest.raises(OperationError, match=text) as caught:
            measure(Firmware.of(images["ovmf_nofooter_8k"]), None, Vcpus((0,)))
        assert caught.value.code == "measure.no-reset-block"


def test_the_reset_block_alone_will_do(images: IMAGES, table_image: MakeImage) -> None:
    """sev-snp-measure does not know such images."""
    image = bytearray(images["ovmf_nofooter_8k"])
    block = table_image([("00f771de-1a7e-4fcb-890e-68c77e2fb44e", b"\4\xb0\x80\0")])[-32 - 18 - 22 : -32 - 18]
    image[-32 - 22 : -32] = block
    assert Firmware.of(image).ovmf.reset_eip == 0x80B004
    assert len(measure_seves(Firmware.of(image), None, Vcpus((2,))).pages) == 2


def svsm(firmware: bytes, image: bytes, vars_size: int = 4096, vmm: Vmm = Vmm.QEMU) -> Launch:
    return measure_svsm(Firmware.of(firmware), lambda: image, vars_size, Vcpus((2,), 0x800F12, vmm))


def test_an_svsm_that_cannot_be_measured(images: IMAGES, make_svsm: Callable[..., bytes]) -> None:
    ovmf = images["ovmf_nohash_64k"]
    with pytest.raises(OperationError, match="Can't find SVSM_INFO_GUID entry in SVSM table"):
        svsm(ovmf, make_svsm(None))
    with pytest.raises(UsageError, match="SVSM mode is only implemented for Qemu"):
        svsm(ovmf, make_svsm(), vmm=Vmm.EC2)
    with pytest.raises(DecodeError, match="do not fit below 4 GiB"):
        svsm(ovmf, make_svsm(), vars_size=1 << 32)
    with pytest.raises(DecodeError, match="SVSM image: "):
        svsm(ovmf, b"short")
    with pytest.raises(DecodeError, match="whole pages"):
        svsm(ovmf, make_svsm()[1:])


@settings(fixtures, max_examples=150)
@given(
    at=st.integers(0, 0x480),
    patch=st.binary(min_size=1, max_size=24),
    cut=st.integers(0, 8192),
)
def test_damage_ends_in_a_digest_or_an_error_of_ours(
    at: int, patch: bytes, cut: int, images: IMAGES, svsm_image: bytes
) -> None:
    """Footer, metadata and SVSM image, changed and cut short."""
    for image in (images["ovmf_oldstyle_4k"], svsm_image, images["ovmf_full_64k"][-8192:]):
        changed = bytearray(image)
        start = max(len(image) - at, 0)
        changed[start : start + len(patch)] = patch
        for damaged in (bytes(changed), bytes(changed)[cut:], bytes(changed)[: len(changed) - cut]):
            for measure in (
                lambda data: snp(data),
                lambda data: snp(data, None),
                lambda data: measure_seves(Firmware.of(data), None, ONE),
                lambda data: svsm(images["ovmf_oldstyle_4k"], data),
            ):
                with contextlib.suppress(DecodeError, OperationError):
                    measure(damaged)


def test_a_small_image_cannot_ask_for_much_work(make_image: MakeImage) -> None:
    """All sections together have a limit, however many there are of the size allowed to one."""
    with pytest.raises(DecodeError, match="its sections span"):
        snp(make_image(sections=[[0, 0xFFFFF000, 1]] * 60))
    snp(make_image(sections=[[0, MAX_SECTION_BYTES, 1]]), None)
    small = [[0, 0x1000, 1]] * 60
    assert sections(snp(make_image(sections=small), None)) == [1] * 60
