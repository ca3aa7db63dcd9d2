# SPDX-License-Identifier: Apache-2.0
"""``sealpod run``: options that go together, and what they come to. Whole launches: tests/e2e."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from sealpod.cli import run
from sealpod.errors import UsageError
from sealpod.sandbox.brokertls import BrokerTls
from sealpod.sandbox.inputs import command_line
from sealpod.sandbox.spec import PodSpec


@pytest.fixture
def pod(tmp_path: Path):  # type: ignore[no-untyped-def]
    def made(*words: str) -> PodSpec:
        files = []
        for name in ("firmware", "kernel", "initrd"):
            (tmp_path / name).write_bytes(b"x")
            files += [f"--{name}", str(tmp_path / name)]
        parser = argparse.ArgumentParser()
        run.add_arguments(parser)
        return run._pod(parser.parse_args([*words, *files, "registry.example/app:v1"]))[0]

    return made


def test_plain_by_default(pod) -> None:  # type: ignore[no-untyped-def]
    spec = pod("--kbs", "192.0.2.7:1")
    assert spec.kbs_tls is None
    assert "agent.aa_kbc_params=online_sev_kbc::192.0.2.7:1" in command_line(spec).split()


def test_tls_for_the_host_and_a_listener_for_the_guest(pod) -> None:  # type: ignore[no-untyped-def]
    tls = ("--kbs", "kbs.example:1", "--kbs-ca", "/ca", "--kbs-cert", "/cert", "--kbs-key", "/key")
    spec = pod(*tls, "--kbs-guest", "localhost:2")
    assert spec.kbs_tls == BrokerTls("/ca", "/cert", "/key")
    # Loopback is the host's, seen from the guest, as for --kbs.
    assert "agent.aa_kbc_params=online_sev_kbc::10.0.2.2:2" in command_line(spec).split()
    assert pod(*tls, "--kbc", "offline").kbs_tls is not None
    with pytest.raises(UsageError, match="plain HTTP/2") as caught:
        pod(*tls)
    assert "--kbs-guest" in str(caught.value.remedy)


def test_from_the_environment(pod, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("SEALPOD_BROKER_CA", "/from-environment")
    spec = pod("--kbs", "192.0.2.7:1", "--kbc", "offline")
    assert spec.kbs_tls == BrokerTls("/from-environment")


@pytest.mark.parametrize(
    "words", [("--kbs-cert", "/c"), ("--kbs-key", "/k"), ("--kbs-ca", "/a", "--kbs-key", "/k")]
)
def test_parts_without_their_others(pod, words: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError) as caught:
        pod("--kbs", "192.0.2.7:1", "--kbc", "offline", *words)
    assert caught.value.code == "tls.options"
