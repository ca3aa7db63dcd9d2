# SPDX-License-Identifier: Apache-2.0
"""sevctl itself on our files, and we on its: chains, owners' keys, sessions, measurements, packets, pages.

Left out where sevctl is not installed (``cargo install sevctl``); the platform is the model, of which sevctl
only sees the files.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ovmfkit import FULL, build_image

pytestmark = pytest.mark.skipif(shutil.which("sevctl") is None, reason="sevctl is not installed")

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MEASUREMENT = ("--api-major", "0", "--api-minor", "24", "--build-id", "15", "--policy", "0x03")
NONCE = base64.b64encode(bytes(range(16))).decode()


def run(place: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return COLOUR.sub("", done.stdout)


def theirs(place: Path, *words: str) -> str:
    return run(place, "sevctl", *words)


def ours(place: Path, *words: str) -> str:
    return run(place, sys.executable, "-m", "sealpod.cli.main", "sev", *words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the model's chain in sevctl's files, its platform state, and a guest's files."""
    found = tmp_path_factory.mktemp("sevctl")
    export(found)
    (found / "fw").write_bytes(build_image(FULL))
    for name in ("kernel", "initrd"):
        (found / name).write_bytes(name.encode() * 1000)
    return found


def export(place: Path) -> None:
    ours(place, "export", "--full", "--platform-state", str(place / "state"), "full.cert")
    data = (place / "full.cert").read_bytes()
    (place / "chain.cert").write_bytes(data[:8336])
    (place / "ca.cert").write_bytes(data[8336:])


def test_a_chain_is_told_alike(place: Path) -> None:
    files = ("verify", "--sev", "chain.cert", "--ca", "ca.cert")
    assert theirs(place, *files) == ours(place, *files)


def test_a_platform_takes_the_owner_sevctl_made(place: Path) -> None:
    theirs(place, "generate", "oca.cert", "oca.key")
    ours(place, "provision", "--platform-state", str(place / "state"), "oca.cert", "oca.key")
    export(place)
    files = ("verify", "--sev", "chain.cert", "--ca", "ca.cert", "--oca", "oca.cert")
    assert theirs(place, *files) == ours(place, *files)
    ours(place, "reset", "--platform-state", str(place / "state"))
    export(place)


def test_measurements_are_equal(place: Path) -> None:
    theirs(place, "session", "-n", "their", "chain.cert", "3")
    ours(place, "session", "-n", "our", "chain.cert", "3")
    files = ("--firmware", "fw", "--kernel", "kernel", "--initrd", "initrd", "--cmdline", "quiet")
    for name in ("their", "our"):
        words = ("measurement", "build", *MEASUREMENT, "--tik", f"{name}_tik.bin", "--nonce", NONCE, *files)
        assert theirs(place, *words) == ours(place, *words)


def test_packets_are_equal(place: Path) -> None:
    (place / "pass").write_text("a passphrase")
    (place / "tik").write_bytes(bytes(range(16)))
    (place / "tek").write_bytes(bytes(range(16, 32)))
    words = ("--tik", "tik", "--tek", "tek", "--launch-measure-blob", base64.b64encode(bytes(48)).decode())
    secret = ("--secret", "736869e5-84f0-4973-92ec-06879ce3da0b:pass", "--iv", NONCE)
    theirs(place, "secret", "build", *words, *secret, "header1", "payload1")
    ours(place, "secret", "build", *words, *secret, "header2", "payload2")
    for name in ("header", "payload"):
        assert (place / f"{name}1").read_bytes() == (place / f"{name}2").read_bytes()


@pytest.mark.parametrize("userspace", ["qemu", "krun"])
@pytest.mark.parametrize("cpu", ["0", "1"])
def test_pages_are_equal(place: Path, userspace: str, cpu: str) -> None:
    words = ("--cpu", cpu, "--userspace", userspace, "--family", "25", "--model", "1", "--stepping", "1")
    theirs(place, "vmsa", "build", "page1", *words, "--firmware", "fw")
    ours(place, "vmsa", "build", "page2", *words, "--firmware", "fw")
    assert (place / "page1").read_bytes() == (place / "page2").read_bytes()
    assert theirs(place, "vmsa", "show", "page1") == ours(place, "vmsa", "show", "page1")
