# SPDX-License-Identifier: Apache-2.0
"""Loopback of the host as the guest reaches it."""

from __future__ import annotations

import pytest

from sealpod.errors import UsageError
from sealpod.sandbox.network import from_guest, is_loopback, split_host_port


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1:5000", "10.0.2.2:5000"),
        ("localhost:5000", "10.0.2.2:5000"),
        ("LOCALHOST:80", "10.0.2.2:80"),
        ("[::1]:5000", "10.0.2.2:5000"),
        ("127.8.9.1", "10.0.2.2"),
        ("localhost", "10.0.2.2"),
        ("registry.example:5000", "registry.example:5000"),
        ("10.1.2.3:44444", "10.1.2.3:44444"),
        ("docker.io", "docker.io"),
    ],
)
def test_only_loopback_is_translated(host: str, inside: str) -> None:
    assert from_guest(host) == inside


def test_names_that_only_look_like_loopback_are_not() -> None:
    assert not is_loopback("localhost.example")
    assert not is_loopback("127.0.0.1.example")
    assert not is_loopback("")


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:-1", "host:1x"])
def test_an_address_needs_host_and_port(text: str) -> None:
    with pytest.raises(UsageError, match="--kbs"):
        split_host_port(text, what="--kbs")


def test_address_parts() -> None:
    assert split_host_port("[::1]:44444", what="x") == ("[::1]", 44444)
