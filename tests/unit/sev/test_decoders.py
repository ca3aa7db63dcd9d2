# SPDX-License-Identifier: Apache-2.0
"""Whatever a host sends, a decoder answers with a value or a DecodeError, nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import Certificate
from sealpod.sev.chain import Chain, verify_chain
from sealpod.sev.measurement import Measurement
from sealpod.sev.policy import Policy


def certificate(data: bytes) -> None:
    Certificate.decode(data).public_key()


def ca_certificate(data: bytes) -> None:
    CaCertificate.decode(data)[0].public_key()


def chain(data: bytes) -> None:
    with contextlib.suppress(VerificationError):
        verify_chain(Chain.decode(data), {})


DECODERS: list[Callable[[bytes], object]] = [
    certificate,
    ca_certificate,
    chain,
    Measurement.decode,
    Policy.decode,
]


@pytest.mark.parametrize("decoder", DECODERS)
@given(data=st.binary(max_size=300))
def test_noise(decoder: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decoder(data)


@pytest.mark.parametrize("decoder", [certificate, ca_certificate, chain])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(cut=st.floats(0, 1), patch=st.binary(max_size=24), at=st.floats(0, 1))
def test_damaged_originals(
    decoder: Callable[[bytes], object], cut: float, patch: bytes, at: float, hierarchy: Any
) -> None:
    originals = {
        certificate: hierarchy.chain.pdh,
        ca_certificate: hierarchy.chain.ark,
        chain: hierarchy.chain,
    }
    data = bytearray(originals[decoder].encode())
    place = int(at * len(data))
    data[place : place + len(patch)] = patch
    for damaged in (bytes(data), bytes(data[: int(cut * len(data))])):
        with contextlib.suppress(DecodeError):
            decoder(damaged)
