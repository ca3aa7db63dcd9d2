# SPDX-License-Identifier: Apache-2.0
"""Synthetic firmware images and files, as the vectors describe them (LEDGER, "measure")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ovmfkit import FULL, NO_FOOTER, NO_HASH, OLD_STYLE, build_image, entry, footer, pattern, with_table


@pytest.fixture(scope="session")
def images() -> dict[str, bytes]:
    return {
        "ovmf_full_64k": build_image(FULL),
        "ovmf_nohash_64k": build_image(NO_HASH),
        "ovmf_oldstyle_4k": build_image(OLD_STYLE),
        "ovmf_nofooter_8k": build_image(NO_FOOTER),
        "ovmf_nosvsm_64k": build_image(FULL | {"sections": [s for s in FULL["sections"] if s[2] != 4]}),
    }


@pytest.fixture(scope="session")
def blobs() -> dict[str, bytes]:
    return {
        "kernel_12345": pattern(12345, 167, 0, 13),
        "initrd_54321": pattern(54321, 29, 3, 5),
        "empty": b"",
    }


@pytest.fixture(scope="session")
def table_image() -> Callable[..., bytes]:
    """``table_image([(guid, payload), ...], length=None)``: a 4 KiB image with this footer table."""

    def make(entries: Sequence[tuple[str, bytes]], length: int | None = None) -> bytes:
        return with_table(footer([entry(*each) for each in entries], length))

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Vectors and the real firmware image, when they lie beside the repository."""
    directory = Path(__file__).resolve().parents[4] / "shared" / "data"
    if not (directory / "measure-vectors.json").is_file():
        pytest.skip("the measurement vectors are not there (../shared/data/measure-vectors.json)")
    return directory
