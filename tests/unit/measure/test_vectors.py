# SPDX-License-Identifier: Apache-2.0
"""Every published vector, and the steps on the way (LEDGER, "measure").

The file with all of them lies outside the repository; what stands here in full is checked without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable
from sealpod.measure.launch import Launch, Vcpus, measure_sev, measure_seves, measure_snp, measure_svsm
from sealpod.measure.vcpu import SIGNATURES, named
from sealpod.measure.vmsa import Fpu, Vmm

SIMPLE = "console=ttyS0 loglevel=7"
IMAGES = dict[str, bytes]

INLINE = [
    (
        "seves",
        "ovmf_full_64k",
        1,
        "EPYC-v4",
        "a2e87abe8d5b7ad862da6ac6c6b0228a635851492a3113fd8cfc6c41e1fc4aa3",
    ),
    (
        "seves",
        "ovmf_full_64k",
        2,
        "EPYC-v4",
        "c4ca7377dd2ea6483f03228eeec7352392b5d392df82434929f9a192903a0da2",
    ),
    (
        "seves",
        "ovmf_full_64k",
        4,
        "EPYC-v4",
        "a35021d668301f49a891beb8d71c253d488be4b20c971c056770d80fa04ae675",
    ),
    (
        "seves",
        "ovmf_full_64k",
        2,
        "EPYC-Rome",
        "cabc6b45d39256a6cd070cdb0be877a8ab11d8e83f7330282784804f217c663e",
    ),
    (
        "seves",
        "ovmf_full_64k",
        2,
        "EPYC-Turin",
        "b1302707cb1280937f093980c2584519aea2cb4c458fa3e6df4ebd1cc95dafd9",
    ),
    (
        "legacy",
        "ovmf_nosvsm_64k",
        1,
        "EPYC-v4",
        "05d9e35131ea16a6347be831f50c521dd55ac5ee3d018d4d7b19a0e2596b36eb",
    ),
    (
        "legacy",
        "ovmf_nosvsm_64k",
        4,
        "EPYC-v4",
        "c2bf1b618404d5beecd6b92769c5e90d6a55917e8580b74454a82a17ade82c57",
    ),
    (
        "snp",
        "ovmf_full_64k",
        1,
        "EPYC-v4",
        "c2dddcd535c1a8c7885c634edd7957d2d678dce25b8a619a78ec4fff446d02ecc97d4246872f4a304ed313445af54bbb",
    ),
    (
        "snp",
        "ovmf_full_64k",
        4,
        "EPYC-v4",
        "a89811f18f2b6403f322a5fc57b7c091c1791cb14f07c62c173030665720654d62503f954b3131ea17b61232efe2d883",
    ),
    (
        "snp",
        "ovmf_full_64k",
        2,
        "EPYC-Milan",
        "a0920f5026078fbe306937809e3bf65f0d9af035360871927bdf02f6bca02c8cc16828dd187227023a00d48ed7894337",
    ),
]
OVMF_HASH = "110c269ea57612c21dd78688e3fbd638c81b1b757270caa88bdc6a55925cbe47cbbeb6a51f55f5bc0e1ff9977ed491f7"
SVSM = "c04819dcb8610a1731938ad449b95cf5ef1e8cbe1e771347f664817e2a52006e5034099ee4e011cc9678cd5e1b186354"


@pytest.mark.parametrize(("mode", "ovmf", "vcpus", "cpu", "expected"), INLINE)
def test_what_needs_no_file(
    mode: str, ovmf: str, vcpus: int, cpu: str, expected: str, images: IMAGES, blobs: IMAGES
) -> None:
    firmware = Firmware.of(images[ovmf])
    fpu = Fpu.LEGACY if mode == "legacy" else Fpu.INIT2

    def table() -> HashesTable:
        return HashesTable.of(blobs["kernel_12345"], blobs["initrd_54321"], SIMPLE)

    if mode == "snp":
        launch = measure_snp(firmware, table, Vcpus((vcpus,), named(cpu), features=1, fpu=fpu))
    else:
        launch = measure_seves(firmware, table, Vcpus((vcpus,), named(cpu), fpu=fpu))
    assert launch.digests[0][1].hex() == expected


def test_the_hash_of_a_firmware(images: IMAGES) -> None:
    assert Firmware.of(images["ovmf_full_64k"]).snp_hash().hex() == OVMF_HASH


def test_an_svsm(images: IMAGES, svsm_image: bytes) -> None:
    firmware = Firmware.of(images["ovmf_nohash_64k"])
    launch = measure_svsm(firmware, lambda: svsm_image, 0x1000, Vcpus((1,), named("EPYC-v4")))
    assert launch.digests[0][1].hex() == SVSM


@pytest.fixture
def vectors(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / "measure-vectors.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture
def launch_of(images: IMAGES, blobs: IMAGES, svsm_image: bytes, shared_data: Path) -> Callable[..., Launch]:
    known = images | {"real": (shared_data / "OVMF.amdsev.fd").read_bytes()}

    def launch(case: dict[str, Any]) -> Launch:
        firmware = Firmware.of(known[case["ovmf"]], bytes.fromhex(case.get("snp_ovmf_hash") or "") or None)
        vcpus = vcpus_of(case)
        if case["mode"] == "snp:svsm":
            assert hashlib.sha256(svsm_image).hexdigest().startswith("c2c12373")
            return measure_svsm(firmware, lambda: svsm_image, case["vars_size"], vcpus)
        table = None
        if case.get("kernel") is not None:
            initrd = None if case["initrd"] is None else blobs[case["initrd"]]
            table = lambda: HashesTable.of(blobs[case["kernel"]], initrd, case["append"])  # noqa: E731
        if case["mode"] == "sev":
            return measure_sev(firmware, table)
        if case["mode"] == "seves":
            return measure_seves(firmware, table, vcpus)
        return measure_snp(firmware, table, vcpus)

    return launch


def vcpus_of(case: dict[str, Any]) -> Vcpus:
    return Vcpus(
        (case["vcpus"],) if "vcpus" in case else (),
        int(case.get("vcpu_sig") or "0", 0),
        Vmm(case.get("vmm_type", "QEMU")),
        int(case.get("guest_features") or "0", 0),
        Fpu.LEGACY if "legacy" in case.get("vmsa", "") else Fpu.INIT2,
    )


def test_all_vectors(
    vectors: dict[str, Any], launch_of: Callable[..., Launch], images: IMAGES, shared_data: Path
) -> None:
    lists = ("vectors", "legacy_vmsa_vectors", "real_ovmf_vectors", "svsm_vectors")
    cases = [case for name in lists for case in vectors[name]]
    assert len(cases) == 75
    for case in cases:
        if case["mode"] == "snp:ovmf-hash":
            found = Firmware.of(images[case["ovmf"]]).snp_hash()
        else:
            found = launch_of(case).digests[-1][1]
        assert found.hex() == case["hex"], case["name"]


def test_the_trace(vectors: dict[str, Any], launch_of: Callable[..., Launch]) -> None:
    case = next(each for each in vectors["vectors"] if each["mode"] == "snp" and each.get("vcpus") == 2)
    assert case["ovmf"] == "ovmf_full_64k"
    steps = [step.ld.hex() for step in launch_of(case).steps]
    assert steps == [digest for _, digest in vectors["intermediate"]["snp_trace"]["steps"]]


def test_hashes_of_firmwares(vectors: dict[str, Any], images: IMAGES) -> None:
    for name, expected in vectors["intermediate"]["snp_ovmf_hash"].items():
        assert Firmware.of(images[name]).snp_hash().hex() == expected, name


def test_the_types(vectors: dict[str, Any]) -> None:
    assert {name: int(value, 0) for name, value in vectors["vcpu_sigs"].items()} == SIGNATURES
