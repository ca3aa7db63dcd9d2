# SPDX-License-Identifier: Apache-2.0
"""Seeds for the kernel's random number generator."""

from __future__ import annotations

import os

import pytest

from sealpod.agent import entropy
from sealpod.errors import OperationError, UsageError


@pytest.mark.parametrize("size", [0, entropy.MAX_SEED + 1])
def test_seeds_of_a_sensible_size_only(size: int) -> None:
    with pytest.raises(UsageError):
        entropy.reseed(bytes(size))


def test_the_kernel_takes_a_seed() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    entropy.reseed(os.urandom(64))


def test_a_device_that_is_none() -> None:
    with pytest.raises(OperationError, match="takes no seed"):
        entropy.reseed(b"x", "/dev/null")
