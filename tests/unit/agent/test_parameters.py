# SPDX-License-Identifier: Apache-2.0
"""agent.* on the kernel command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.agent.parameters import Parameters, parse
from sealpod.errors import UsageError


def test_nothing_said_means_defaults() -> None:
    assert parse("") == Parameters("", (), False, False)
    assert parse("initrd=initrd console=ttyS0 quiet agent.unknown=1 agentx") == Parameters()


def test_everything_said() -> None:
    line = (
        "initrd=initrd agent.aa_kbc_params=online_sev_kbc::10.0.2.2:44444 agent.log=debug panic=1 "
        "agent.insecure_registries=10.0.2.2:5000,registry.example agent.enable_signature_verification=true\n"
    )
    assert parse(line) == Parameters(
        "online_sev_kbc::10.0.2.2:44444",
        ("10.0.2.2:5000", "registry.example"),
        True,
        True,
        privileged=False,
    )


def test_the_last_one_counts() -> None:
    assert (
        parse("agent.log=debug agent.log=info agent.aa_kbc_params=a::b agent.aa_kbc_params=") == Parameters()
    )


@pytest.mark.parametrize(
    ("value", "verify"), [("", True), ("=true", True), ("=1", True), ("=false", False), ("=0", False)]
)
def test_flags(value: str, verify: bool) -> None:
    assert parse(f"agent.enable_signature_verification{value}").verify_signatures is verify


@pytest.mark.parametrize(
    ("line", "privileged"),
    [
        ("", True),
        ("agent.privileged_containers=false", False),
        ("agent.aa_kbc_params=offline_sev_kbc::null", False),
        ("agent.aa_kbc_params=offline_sev_kbc::null agent.privileged_containers=true", True),
    ],
)
def test_privileged_containers_are_for_guests_without_keys_unless_it_is_said(
    line: str, privileged: bool
) -> None:
    assert parse(line).privileged is privileged


def test_encrypted_images_only() -> None:
    assert not parse("").encrypted_only
    assert parse("agent.encrypted_images_only=true").encrypted_only


def test_a_flag_that_is_neither_is_an_error_rather_than_off() -> None:
    with pytest.raises(UsageError, match="enable_signature_verification=maybe"):
        parse("agent.enable_signature_verification=maybe")


@given(st.text(max_size=60))
def test_any_line(line: str) -> None:
    assert isinstance(parse(line), Parameters)
