# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sevkit import Hierarchy, Keys, new_hierarchy, vector_certificates, vector_keys

from sealpod.sev.cert import Certificate

AMD = Path(__file__).resolve().parents[4] / "shared" / "data" / "amd"


@pytest.fixture(scope="session")
def ec_keys() -> Keys:
    return vector_keys()


@pytest.fixture(scope="session")
def certificates(ec_keys: Keys) -> dict[str, Certificate]:
    """OCA, unsigned CEK, PEK and PDH of the deterministic set."""
    return vector_certificates(ec_keys)


@pytest.fixture(scope="session")
def build_hierarchy() -> Callable[[int], Hierarchy]:
    """Make a hierarchy under a new ARK of so many bits."""
    return new_hierarchy


@pytest.fixture(scope="session")
def hierarchy() -> Hierarchy:
    return new_hierarchy(2048)


@pytest.fixture(scope="session")
def amd() -> Path:
    """AMD's own certificates, when they lie beside the repository."""
    if not AMD.is_dir():
        pytest.skip("AMD's certificates are not there (../shared/data/amd)")
    return AMD
