# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "measure"."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import OperationError, UsageError
from sealpod.measure.svsm import svsm_vmsa_page, svsm_vmsa_pages
from sealpod.measure.vmsa import BSP_EIP, FIELDS, PAGE_SIZE, Fpu, Vmm, vmsa_page, vmsa_pages

EPYC, MILAN = 0x800F12, 0xA00F11
AP = 0x80B004
PAGES = [
    (
        BSP_EIP,
        EPYC,
        Vmm.QEMU,
        0,
        Fpu.INIT2,
        "8295cef559b57130391d59605890ef93297720b48bef9a8c3c985b9c3fb0788c",
    ),
    (AP, EPYC, Vmm.QEMU, 0, Fpu.INIT2, "7ff723da33f39dedbe8336bb697e0a2f76471690074d5902e1a8177cd5312c95"),
    (
        BSP_EIP,
        EPYC,
        Vmm.QEMU,
        1,
        Fpu.INIT2,
        "591598a62aa556861a392da67feab71a919975d97a579eb1df12503178c9cbb3",
    ),
    (AP, EPYC, Vmm.QEMU, 1, Fpu.INIT2, "4ffee74d299a5d74748460fd6238d5cdbb7da2fe1c12476a9bf3c8ecdbdcd905"),
    (
        BSP_EIP,
        MILAN,
        Vmm.QEMU,
        1,
        Fpu.INIT2,
        "bcf3ba5f6b5d217a7f884a2d460e78b2d68d4af15e11cd7ecc5dacc425b6c32e",
    ),
    (AP, MILAN, Vmm.QEMU, 1, Fpu.INIT2, "85242328290a792beea1ddd26dbb9caa626ada60e0bade848352786ff003da61"),
    (
        BSP_EIP,
        EPYC,
        Vmm.QEMU,
        0,
        Fpu.LEGACY,
        "30a76bd1aa5adf81f02832d38c21e31b073cf0663dd2337455db2a3c210666af",
    ),
    (AP, EPYC, Vmm.QEMU, 0, Fpu.LEGACY, "3d1cd8f98c320cb09405dae226a8bd6e18d8bfc0b4babda508c10963a6f3df19"),
    (BSP_EIP, 0, Vmm.EC2, 1, Fpu.INIT2, "d6c9d0409668043e96874082e992eb1a08393f1ad6f3c1be450e51bc2cc66004"),
    (AP, 0, Vmm.EC2, 1, Fpu.INIT2, "ce413781191b8f11f8cf1a4a5d9d7f9824356c02390b47ea0d33976bc2430b90"),
    (BSP_EIP, 0, Vmm.GCE, 1, Fpu.INIT2, "a2b1355de1e1f11159d4cfaa28a748c6d19f63b330a7cb09696eda0c5f2f8ab8"),
    (AP, 0, Vmm.GCE, 1, Fpu.INIT2, "e62b24c0430d685360090aa7362d89bc9009a43794cdd274a57abb8fada49344"),
]


@pytest.mark.parametrize(("eip", "signature", "vmm", "features", "fpu", "expected"), PAGES)
def test_pages_of_every_hypervisor(
    eip: int, signature: int, vmm: Vmm, features: int, fpu: Fpu, expected: str
) -> None:
    page = vmsa_page(eip=eip, signature=signature, vmm=vmm, features=features, fpu=fpu)
    assert hashlib.sha256(page).hexdigest() == expected


def test_the_pages_sevctl_builds() -> None:
    directory = Path(__file__).resolve().parents[4] / "shared" / "data" / "sevctl"
    if not directory.is_dir():
        pytest.skip("sevctl's pages are not there (../shared/data/sevctl)")
    for name, eip in (("vmsa0.bin", BSP_EIP), ("vmsa1.bin", AP)):
        assert vmsa_page(eip=eip, signature=MILAN) == (directory / name).read_bytes(), name


def value(page: bytes, name: str) -> tuple[int, ...]:
    offset, layout = FIELDS[name]
    return layout.unpack_from(page, offset)


def test_the_legacy_layout_has_no_fpu_registers() -> None:
    legacy, init2 = (vmsa_page(eip=BSP_EIP, signature=EPYC, fpu=fpu) for fpu in Fpu)
    assert (value(legacy, "mxcsr"), value(legacy, "x87_fcw")) == ((0,), (0,))
    assert (value(init2, "mxcsr"), value(init2, "x87_fcw")) == ((0x1F80,), (0x37F,))
    differing = [at for at in range(PAGE_SIZE) if legacy[at] != init2[at]]
    assert differing == [0x408, 0x409, 0x410, 0x411]


def test_only_qemu_has_the_fpu_registers() -> None:
    for vmm in (Vmm.EC2, Vmm.GCE, Vmm.KRUN):
        pages = {vmsa_page(eip=AP, signature=EPYC, vmm=vmm, fpu=fpu) for fpu in Fpu}
        assert len(pages) == 1


def test_krun() -> None:
    for eip in (BSP_EIP, AP):
        page = vmsa_page(eip=eip, signature=EPYC, vmm=Vmm.KRUN)
        assert value(page, "cs") == (0xF000, 0x9A, 0xFFFF, eip & 0xFFFF0000)
        assert [value(page, name)[1] for name in ("ss", "tr")] == [0x92, 0x83]
        assert value(page, "rdx") == (0,)


def test_ec2_marks_the_first_vcpus_code_as_not_accessed() -> None:
    attributes = [value(vmsa_page(eip=eip, signature=0, vmm=Vmm.EC2), "cs")[1] for eip in (BSP_EIP, AP)]
    assert attributes == [0x9A, 0x9B]


words = st.integers(0, (1 << 32) - 1)
quads = st.integers(0, (1 << 64) - 1)


@given(words, quads, quads, st.sampled_from(list(Vmm)), st.sampled_from(list(Fpu)))
def test_fields_read_back(eip: int, signature: int, features: int, vmm: Vmm, fpu: Fpu) -> None:
    page = vmsa_page(eip=eip, signature=signature, features=features, vmm=vmm, fpu=fpu)
    assert len(page) == PAGE_SIZE
    assert value(page, "cs")[3] + value(page, "rip")[0] == eip
    assert value(page, "sev_features") == (features,)
    if vmm is Vmm.QEMU:
        assert value(page, "rdx") == (signature,)
    blank = bytearray(page)
    for offset, layout in FIELDS.values():
        blank[offset : offset + layout.size] = bytes(layout.size)
    assert not any(blank)


def test_the_whole_reset_address_is_used() -> None:
    """sevctl 0.6 reads three bytes of it."""
    page = vmsa_page(eip=0x12345678, signature=EPYC)
    assert (value(page, "cs")[3], value(page, "rip")) == (0x12340000, (0x5678,))


def test_fields_do_not_overlap() -> None:
    ranges = sorted((offset, offset + layout.size) for offset, layout in FIELDS.values())
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"signature": 1 << 64}, "measure.vcpu"),
        ({"signature": -1}, "measure.vcpu"),
        ({"features": 1 << 64}, "measure.features"),
        ({"features": -1}, "measure.features"),
    ],
)
def test_what_no_register_holds(change: dict[str, int], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        vmsa_page(**{"eip": AP, "signature": EPYC} | change)  # type: ignore[arg-type]
    assert caught.value.code == code


@given(st.integers(0, 9))
def test_the_first_vcpu_is_another_one(count: int) -> None:
    pages = list(vmsa_pages(count, AP, signature=EPYC))
    assert len(pages) == count
    assert pages[:1] == [vmsa_page(eip=BSP_EIP, signature=EPYC)][:count]
    assert set(pages[1:]) <= {vmsa_page(eip=AP, signature=EPYC)}


def test_a_firmware_that_starts_one_vcpu() -> None:
    assert len(list(vmsa_pages(1, 0, signature=EPYC))) == 1
    with pytest.raises(OperationError, match="SEV-ES reset address is zero") as caught:
        list(vmsa_pages(2, 0, signature=EPYC))
    assert caught.value.code == "measure.reset-zero"


def test_under_an_svsm_all_start_alike() -> None:
    page = svsm_vmsa_page(eip=0xFFFEC123, signature=EPYC)
    assert list(svsm_vmsa_pages(3, 0xFFFEC123, signature=EPYC)) == [page] * 3
    assert value(page, "rip") == (0xFFFEC123,)
    assert (value(page, "cr0"), value(page, "sev_features")) == ((0x11,), (1,))
    assert value(page, "cs") == (8, 0xC9B, 0xFFFFFFFF, 0)
    # sev-snp-measure misspells the control word, and its published digests go without it.
    assert (value(page, "mxcsr"), value(page, "x87_fcw")) == ((0x1F80,), (0,))
    with pytest.raises(UsageError):
        svsm_vmsa_page(eip=0, signature=-1)
