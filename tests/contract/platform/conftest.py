# SPDX-License-Identifier: Apache-2.0
"""Each driver of the platform port, on a state directory whose slow keys are made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from platformkit import DRIVERS, Driver


@pytest.fixture(scope="session", params=sorted(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param]


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("contract") / "platform"
    return str(path)
