# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from snpkit import Maker, new_maker

AMD = Path(__file__).resolve().parents[5] / "shared" / "data" / "amd"


@pytest.fixture(scope="session")
def maker() -> Maker:
    return new_maker()


@pytest.fixture(scope="session")
def amd_snp() -> Path:
    """AMD's own certificates, when they lie beside the repository."""
    if not AMD.is_dir():
        pytest.skip("AMD's certificates are not there (../shared/data/amd)")
    return AMD
