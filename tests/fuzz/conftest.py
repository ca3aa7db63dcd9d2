# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

AMD = Path(__file__).resolve().parents[3] / "shared" / "data" / "amd"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-seconds",
        type=float,
        default=0.0,
        help="how long to fuzz each decoder; without it, a short run that is the same every time",
    )
    parser.addoption(
        "--fuzz-all",
        action="store_true",
        help="make every single-byte change of a real chain, however long that takes",
    )


@pytest.fixture(scope="session")
def fuzz_seconds(pytestconfig: pytest.Config) -> float:
    """0 in the ordinary suite."""
    return float(pytestconfig.getoption("--fuzz-seconds", 0.0) or 0.0)


@pytest.fixture(scope="session")
def amd() -> Path:
    """AMD's own certificates, when they lie beside the repository."""
    if not AMD.is_dir():
        pytest.skip("AMD's certificates are not there (../shared/data/amd)")
    return AMD
