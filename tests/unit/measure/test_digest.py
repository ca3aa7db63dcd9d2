# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "measure"."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import OperationError, UsageError
from sealpod.measure.components import Components
from sealpod.measure.digest import sev_digest
from sealpod.measure.hashes import HashesTable, cmdline_hash

SIMPLE = "console=ttyS0 loglevel=7"
TABLE = (
    "06d63894224fc94cb479a793d411fd21a800d82dd09720bd944caa78e7714d36ab2a3200321c8eec6a77bad179511397f913a083"
    "067ad8cb737bb260aacbfe8df70fc50a31f7ba442f3ad74b9af141e29169781d32009b2f08b489710ee0f0c9d9c5e047e60e74a4"
    "51f00524ce5c3252f2626abe81ea3794e74dd2ab7f42b835d5b172d2045b3200cd46cd5840576064b8d412c29ff3a800c963ba21"
    "3e2be18ec49ada4eecd1b7d90000000000000000"
)
K, I = "kernel_12345", "initrd_54321"  # noqa: E741
VECTORS = [
    ("ovmf_full_64k", None, None, None, "f6bca88827c6b1ca0a2ff64a05f6efd41b9b1552d3aa5789335198929c15a515"),
    ("ovmf_full_64k", K, None, None, "ea22c52e1198f2b8a627e0266a9484a9f9bef5a44e55beb8a668023c5bc09518"),
    ("ovmf_full_64k", K, I, None, "ce2ac10287d2ec62fa75599dc7fc5077a193db6869b58147c64d1cb5832c51ce"),
    ("ovmf_full_64k", K, I, SIMPLE, "298ccccbb4b1496ff18d1003f8bccf9697da4a5557f91d53484d752716acb0d4"),
    ("ovmf_full_64k", K, None, SIMPLE, "76dc10d97b02177a06042f02fb6410a41edb9cc392e7036682b5ee2d5dff2d4b"),
    ("ovmf_full_64k", K, I, "name=é中", "c50b9bb72cfe3a36cf44824edb5d25ea932e29007d9e7c03b76360557e836bfa"),
    (
        "ovmf_full_64k",
        "empty",
        "empty",
        "",
        "0071e95266d9b1a1f198c7a160345b015b1142e3db8a228db039ed0e407def06",
    ),
    ("ovmf_nohash_64k", None, None, None, "9e870f6206ebcfac99a2466a0d01ab67445c4c4209f570a09f13acdbe248fd4d"),
    (
        "ovmf_nofooter_8k",
        None,
        None,
        None,
        "003c68a67d2677a539e1f2400090016f90cfc3f1e4eae69a4769eb9a228c2dfb",
    ),
    ("ovmf_oldstyle_4k", K, I, SIMPLE, "c4a4e9fbbf17bc25827f1953655df7420c7ad96c115a552606eb5bebedb3b230"),
]


def measured(
    images: dict[str, bytes],
    blobs: dict[str, bytes],
    ovmf: str,
    kernel: str | None,
    initrd: str | None,
    append: str | None,
) -> Components:
    return Components.of(
        images[ovmf],
        None if kernel is None else blobs[kernel],
        None if initrd is None else blobs[initrd],
        append,
    )


@pytest.mark.parametrize(("ovmf", "kernel", "initrd", "append", "expected"), VECTORS)
def test_synthetic_vectors(
    ovmf: str,
    kernel: str | None,
    initrd: str | None,
    append: str | None,
    expected: str,
    images: dict[str, bytes],
    blobs: dict[str, bytes],
) -> None:
    assert measured(images, blobs, ovmf, kernel, initrd, append).digest == expected


def test_every_sev_vector_of_the_file(
    shared_data: Path, images: dict[str, bytes], blobs: dict[str, bytes]
) -> None:
    vectors = json.loads((shared_data / "measure-vectors.json").read_text())
    for name, spec in vectors["inputs"]["ovmf"].items():
        assert hashlib.sha256(images[name]).hexdigest() == spec["sha256"], name
    known = images | {"real": (shared_data / "OVMF.amdsev.fd").read_bytes()}
    cases = [case for case in vectors["vectors"] + vectors["real_ovmf_vectors"] if case["mode"] == "sev"]
    assert len(cases) >= 13
    for case in cases:
        names = (case["ovmf"], case["kernel"], case["initrd"], case["append"])
        assert measured(known, blobs, *names).digest == case["hex"], case["name"]


def test_the_table_of_the_vectors(blobs: dict[str, bytes]) -> None:
    table = HashesTable.of(blobs[K], blobs[I], SIMPLE)
    assert table.encode().hex() == TABLE
    assert len(table.encode()) == 176


def test_what_is_absent_counts_as_empty() -> None:
    assert cmdline_hash("").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert HashesTable.of(b"k", None, None) == HashesTable.of(b"k", b"", "")


def test_the_digest_is_over_firmware_and_table(images: dict[str, bytes]) -> None:
    firmware = images["ovmf_full_64k"]
    assert sev_digest(firmware, None) == hashlib.sha256(firmware).digest()
    assert sev_digest(memoryview(firmware), bytes(176)) == hashlib.sha256(firmware + bytes(176)).digest()


def test_a_kernel_needs_a_firmware_that_checks_it(images: dict[str, bytes]) -> None:
    for name in ("ovmf_nohash_64k", "ovmf_nofooter_8k"):
        with pytest.raises(OperationError) as caught:
            Components.of(images[name], b"kernel", None, None)
        assert caught.value.code == "measure.no-hash-table"
        assert caught.value.message == (
            "Kernel specified but OVMF doesn't support kernel/initrd/cmdline measurement"
        )


def test_a_command_line_the_kernel_could_not_read(images: dict[str, bytes]) -> None:
    for cmdline in ("a\0b", "\ud800"):
        with pytest.raises(UsageError):
            Components.of(images["ovmf_full_64k"], b"kernel", None, cmdline)


@given(st.binary(max_size=30).filter(lambda text: b"\0" not in text))
def test_bytes_of_the_command_line_are_measured_as_they_are(raw: bytes) -> None:
    assert cmdline_hash(raw.decode("utf-8", "surrogateescape")) == hashlib.sha256(raw + b"\0").digest()
